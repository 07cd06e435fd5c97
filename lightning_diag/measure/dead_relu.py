"""Which units of a ReLU fired, and for how many samples the others have been silent (W5, P46)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Call, CallMeasure, Columns, Numbers, table
from lightning_diag.measure.moments import plain


def unit_peaks(x: Tensor, unit_dim: int) -> Tensor:
    """Return the largest value of each unit over samples and positions.

    NaN counts as infinity: a unit that computes NaN is not silent.

    Shape:
        ``(batch, units)``, ``(batch, channels, *)`` or ``(batch, *, units)`` -> ``(units,)``.

    Example:
        >>> unit_peaks(torch.tensor([[-1.0, 2.0], [-3.0, 0.5]]), 1)
        tensor([-1.,  2.])
    """
    x = plain(x)
    unit_dim %= x.dim()
    if unit_dim < x.dim() - 1 and x.is_contiguous():
        # reducing the innermost positions first keeps to contiguous memory
        x = x.flatten(unit_dim + 1).amax(-1)
    rest = [dim for dim in range(x.dim()) if dim != unit_dim]
    peaks = x.amax(rest) if rest else x
    return peaks.nan_to_num(nan=float("inf"), posinf=float("inf"))


def dead_fraction(output: Tensor, unit_dim: int = 1) -> Tensor:
    """Return the share of units that are zero for every sample and position of `output`.

    Shape:
        ``(batch, units)`` or ``(batch, channels, *)`` -> ``()``.

    Example:
        >>> dead_fraction(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))  # unit 0 never fires
        tensor(0.5000)
    """
    return (unit_peaks(output, unit_dim) <= 0).float().mean()


class FiredMeasure(CallMeasure):
    """The largest input of each unit of a ReLU: above 0, the unit fired.

    Shape:
        One place is one call site; its columns are the number of samples (sum) and one maximum a
        unit.
    """

    name: ClassVar[str] = "dead_relu"
    kinds: ClassVar[frozenset[str]] = frozenset({"relu"})
    outputs: ClassVar[dict[str, str]] = {
        "fraction": "share of units silent for the whole window, 0 to 1",
        "window_samples": "samples that the verdict rests on",
        "units": "list: indices of the dead units, at most 64",
        "since_step": "step since which the earliest dead unit has been silent",
        "revived_count": "units dead before that fired again",
    }

    def before(self, call: Call) -> Columns | None:
        """See `CallMeasure.before`."""
        x = call.input
        if x.numel() == 0 or x.dim() == 0:
            return None
        if x.dim() == 1:
            x = x.unsqueeze(0)
        samples = table([(float(x.shape[0]),)], x.device)
        peaks = unit_peaks(x, call.unit_dim if call.input.dim() > 1 else 1)
        return Columns(samples, peaks.to(samples.dtype).unsqueeze(0))

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """Return nothing: whether a unit is dead takes more than one step, see `SilenceCounter`."""
        return {}


@dataclass
class _Site:
    silent: Tensor
    """Samples since each unit last fired, ``(units,)``."""
    since: Tensor
    """Step at which each unit's silence began, ``(units,)``."""
    seen: float = 0.0
    """Samples seen in all."""


class SilenceCounter:
    """Counts, for each unit, the samples since it last fired.

    Args:
        window: Samples without firing after which a unit is dead, at least 1.

    Example:
        >>> counter = SilenceCounter(window=4)
        >>> fired = torch.tensor([True, False])
        >>> counter.update("relu", 0, 2, fired)["window_samples"]  # too early for a verdict
        2.0
        >>> counter.update("relu", 1, 2, fired)["fraction"]
        0.5
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._sites: dict[str, _Site] = {}

    def update(self, place: str, step: int, samples: float, fired: Tensor) -> dict[str, float]:
        """Add one watched step of one site; return its outputs so far.

        Args:
            samples: Samples of the step, over micro-batches and ranks.
            fired: Which units fired, ``(units,)`` booleans.
        """
        site = self._sites.get(place)
        if site is None or site.silent.shape != fired.shape:
            # counts of samples outgrow the types and devices that a user may make the default
            silent = torch.zeros_like(fired, dtype=torch.float64)
            site = _Site(silent, torch.full_like(fired, step, dtype=torch.int64))
            self._sites[place] = site
        site.seen += samples
        revived = self._count(site, step, samples, fired)
        if site.seen < self.window:
            return {"window_samples": site.seen}
        dead = site.silent >= self.window
        result = {
            "fraction": float(dead.float().mean()),
            "window_samples": float(min(site.seen, float(self.window))),
            "revived_count": float(revived),
        }
        if bool(dead.any()):
            result["since_step"] = float(site.since[dead].min())
        return result

    def _count(self, site: _Site, step: int, samples: float, fired: Tensor) -> int:
        """Count silent samples on; return how many dead units fired again."""
        if bool(fired.all()) and not bool(site.silent.any()):
            return 0  # as in most steps of most nets
        revived = int(((site.silent >= self.window) & fired).sum())
        begins = ~fired & (site.silent == 0)
        site.since[begins] = step
        site.silent = torch.where(fired, torch.zeros_like(site.silent), site.silent + samples)
        return revived

    def dead_units(self, place: str) -> list[int]:
        """Return the indices of the units of `place` that are dead now."""
        site = self._sites.get(place)
        if site is None:
            return []
        indices: list[int] = (site.silent >= self.window).nonzero().flatten().tolist()
        return indices

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        return {
            place: {"silent": site.silent.clone(), "since": site.since.clone(), "seen": site.seen}
            for place, site in self._sites.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._sites = {
            place: _Site(values["silent"].clone(), values["since"].clone(), float(values["seen"]))
            for place, values in state.items()
        }
