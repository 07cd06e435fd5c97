"""Histograms of a few gradients or weights, seldom and from few elements: pictures, not verdicts.

The range of a histogram must be the same on every rank, so it comes from numbers that all know:
those of an earlier look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns
from lightning_diag.measure.moments import flat, wide
from lightning_diag.measure.shards import local_part
from lightning_diag.measure.tally import Joined, Tally

BINS = 32
"""Bins of a histogram, as of activations."""
MOST_LAYERS = 8
"""Parameters that are looked at, spread over the model's depth (our choice)."""
_EVERY = 16
"""Looks between two histograms (our choice): each then costs about a tenth of a percent of a step
of 42 ms, and weights drift slowly."""
_SAMPLED = 2_048
"""Elements of a parameter that are counted at most: an error of each share of about 1 %."""
_BLOCK = 64
"""Neighbours that are taken together, which is much faster than one by one."""
_WIDTH = 4.0
"""Root mean squares from the middle to an end: of normal numbers one in 16,000 lies beyond."""
_COUNTS = "spread_counts"


def spread_over(names: Sequence[str], most: int = MOST_LAYERS) -> list[str]:
    """Return at most `most` names, evenly spread, the first and the last among them.

    Example:
        >>> spread_over(["a", "b", "c", "d", "e"], 3)
        ['a', 'c', 'e']
    """
    if len(names) <= most:
        return list(names)
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def counts(tensors: Sequence[Tensor], ends: Sequence[float]) -> Columns:
    """Count elements of each tensor in bins from minus to plus its end; NaN is not counted.

    The outermost bins take what lies beyond. Of large tensors blocks of elements are taken.

    Args:
        tensors: Dense tensors on one device.
        ends: Upper end of each range, above 0, the same on all ranks.

    Shape:
        n tensors of any shape -> sums ``(n, BINS + 1)``: the last is how much of one observation
        it is; maxima ``(n, 1)``: the end.

    Example:
        >>> found = counts([torch.tensor([-9.0, 0.1, 0.1, 1.0])], [1.0])
        >>> found.sums[0, [0, BINS // 2 + 1, BINS - 1, BINS]].tolist(), found.maxima.tolist()
        ([1.0, 2.0, 1.0, 1.0], [[1.0]])
    """
    parts = [local_part(x.detach()) for x in tensors]
    device = parts[0][0].device
    middle = BINS / 2
    host = [[middle / end, share, end] for (_, share), end in zip(parts, ends, strict=True)]
    numbers = torch.tensor(host, dtype=wide(device), device="cpu").to(device, non_blocking=True)
    values = torch.full((len(parts), _SAMPLED), math.nan, device=device)
    for row, (x, _) in zip(values, parts, strict=True):
        _fill(row, x)
    places = values.mul_(numbers[:, :1].to(values.dtype)).add_(middle)
    known = (places == places).to(places.dtype)  # noqa: PLR0124  # NaN is unlike itself
    rows = torch.arange(0, len(parts) * BINS, BINS, device=device).unsqueeze(1)
    index = places.nan_to_num_(0.0).clamp_(0, BINS - 1).long().add_(rows)
    # of one dimension, since that alone is deterministic on a GPU
    flat_table = torch.zeros(len(parts) * BINS, device=device)
    flat_table.scatter_add_(0, index.view(-1), known.view(-1))
    table = flat_table.view(len(parts), BINS).to(numbers.dtype)
    return Columns(torch.cat([table, numbers[:, 1:2]], dim=1), numbers[:, 2:])


def _fill(row: Tensor, x: Tensor) -> None:
    """Copy elements of `x` to a row: all where they fit, else blocks, evenly spread."""
    elements = x.numel()
    if elements <= len(row):
        row[:elements] = flat(x)
        return
    x = x if x.is_contiguous() else flat(x)
    blocks = len(row) // _BLOCK
    spread = x.as_strided((blocks, _BLOCK), (elements // blocks, 1), x.storage_offset())
    row.view(blocks, _BLOCK).copy_(spread)


class Spreads:
    """Takes histograms of the same few parameters at every 16th look."""

    def __init__(self) -> None:
        self._tag = ""
        self._chosen: dict[str, int] = {}
        self._looks: dict[int, int] = {}
        self._ends: dict[str, float] = {}
        self._begun: set[int] = set()

    def prepare(self, weights: Mapping[str, int], tag: str) -> None:
        """Choose among the weights of a model.

        Args:
            weights: Elements of each, by name.
            tag: Begins the names of the columns.
        """
        self._tag = tag
        self._chosen = {name: weights[name] for name in spread_over(list(weights))}
        self._ends = {name: end for name, end in self._ends.items() if name in self._chosen}

    def expect(self, norms: Mapping[str, float]) -> None:
        """Take note of how large the tensors are, by their L2 norms, as all ranks know them."""
        for name, elements in self._chosen.items():
            end = _WIDTH * norms.get(name, 0.0) / math.sqrt(max(1, elements))
            if 0 < end < math.inf:
                self._ends[name] = end

    def observe(
        self,
        index: int,
        names: Sequence[str],
        tensors: Sequence[Tensor | None],
        tally: Tally,
    ) -> None:
        """Look at the parameters of an optimizer.

        Args:
            index: Which of the trainer's optimizers.
            names: Its parameters.
            tensors: One for each.
            tally: Where the columns go.
        """
        look = self._looks.get(index, 0)
        self._looks[index] = look + 1
        if not self._ends or (look % _EVERY != 1 and index in self._begun):
            return
        found = {
            name: x
            for name, x in zip(names, tensors, strict=True)
            if name in self._ends and _is_dense(x)
        }
        if found:
            self._begun.add(index)
            columns = counts(list(found.values()), [self._ends[name] for name in found])
            tally.add(self._tag + _COUNTS, tuple(found), columns)

    def digest(self, joined: Joined) -> dict[str, list[float]]:
        """Return the histograms of a look by parameter: range, then the count of each bin."""
        found: dict[str, list[float]] = {}
        for key, columns in joined.columns.items():
            if key.measure == self._tag + _COUNTS:
                rows = zip(key.places, columns.sums.tolist(), columns.maxima.tolist(), strict=True)
                for name, (*bins, seen), (end,) in rows:
                    found[name] = [-end, end, *(float(round(n / seen)) for n in bins)]
        return found

    def state(self) -> dict[str, Any]:
        """Return what must survive a checkpoint."""
        return {
            "looks": list(self._looks.items()),
            "ends": dict(self._ends),
            "begun": sorted(self._begun),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned; nothing forgets all."""
        self._looks = dict(state.get("looks", ()))
        self._ends = dict(state.get("ends", {}))
        self._begun = set(state.get("begun", ()))


def norm_of(histogram: Sequence[float], elements: int) -> float:
    """Return about the L2 norm of a tensor from its histogram.

    Example:
        >>> norm_of([-1.0, 1.0, 0.0, 5.0, 5.0, 0.0], 16)  # all at about a quarter
        1.0
    """
    low, high, *bins = histogram
    width = (high - low) / len(bins)
    squares = sum(n * (low + (i + 0.5) * width) ** 2 for i, n in enumerate(bins))
    return math.sqrt(elements * squares / max(1.0, sum(bins)))


def _is_dense(x: Tensor | None) -> TypeGuard[Tensor]:
    return x is not None and x.layout is torch.strided and not x.is_complex() and x.numel() > 0
