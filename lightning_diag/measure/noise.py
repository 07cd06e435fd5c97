"""How much of a gradient is noise of its batch, from gradients of neighbouring steps (W15)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, Measure, Numbers
from lightning_diag.measure.moments import flat, plain
from lightning_diag.measure.shards import local_part

SAMPLED = 16_384
"""Coordinates that are compared, at most: two gradients without a common direction then have a
cosine of 0.008 by chance, and looking at them takes some microseconds (our choice)."""
_BLOCK = 64
"""Neighbours that are taken together, which is much faster than one by one."""
_TINY = 1e-30
"""Mean square below which float32 may have lost digits: it keeps squares down to 1e-38."""


def sample(gradients: Sequence[Tensor | None], most: int = SAMPLED) -> Tensor | None:
    """Return the same coordinates of some gradients each time, evenly spread; None if one is None.

    Shape:
        n tensors of any shape -> ``(coordinates,)``.

    Example:
        >>> sample([torch.tensor([1.0, 2.0, 3.0, 4.0])], most=2)
        tensor([1., 3.])
    """
    if not gradients or any(g is None or g.layout != torch.strided for g in gradients):
        return None
    values = [local_part(g)[0].detach() for g in gradients if g is not None]
    stride = max(1, math.ceil(sum(x.numel() for x in values) / most))
    return plain(torch.cat([thinned(x, stride) for x in values])).reshape(-1)


def thinned(x: Tensor, stride: int) -> Tensor:
    """Return one in `stride` elements, as blocks of neighbours where there are enough."""
    rows = x.numel() // (_BLOCK * stride)
    if stride == 1 or rows == 0:
        return flat(x)[::stride]
    x = x if x.is_contiguous() else flat(x)
    return x.as_strided((rows, _BLOCK), (_BLOCK * stride, 1)).reshape(-1)


class GradientPairMeasure(Measure):
    """Products of the gradients of two steps that saw different samples.

    Columns that add up over ranks: the products of both gradients with each other, of the first
    with itself and of the second with itself. Replicas multiply all three alike.

    Example:
        >>> measure = GradientPairMeasure()
        >>> columns = measure.observe(torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0]))
        >>> measure.summarise([""], columns.sums, columns.maxima)
        {'cosine': {'': 0.96}}
    """

    name: ClassVar[str] = "gradient"
    outputs: ClassVar[dict[str, str]] = {
        "cosine": "cosine of the gradients of two neighbouring watched steps, -1 to 1",
        "noise_scale": "samples from which on a larger batch helps less; 0 or more",
    }

    def observe(self, before: Tensor, now: Tensor) -> Columns:
        """Multiply two samples of gradients.

        Shape:
            twice ``(coordinates,)`` -> sums ``(1, 3)``, maxima ``(1, 0)``.
        """
        pairs = ((before, now), (before, before), (now, now))
        if now.device.type != "cpu":
            return Columns.of(now.device, [[torch.dot(a, b) for a, b in pairs]])
        products = [torch.dot(a, b).item() for a, b in pairs]
        if not now.numel() * _TINY < min(products[1:]) <= max(products[1:]) < math.inf:
            products = [torch.dot(a.double(), b.double()).item() for a, b in pairs]
        return Columns.of(now.device, [products])

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        found = {}
        for place, (dot, before, now) in zip(places, sums.tolist(), strict=True):
            size = math.sqrt(before) * math.sqrt(now) if before >= 0 and now >= 0 else math.nan
            if 0 < size < math.inf and math.isfinite(dot):
                found[place] = round(max(-1.0, min(1.0, dot / size)), 12)
        return {"cosine": found}


def noise_scale(cosines: Sequence[float], batch_size: float) -> float:
    """Return the simple noise scale of McCandlish et al., in samples.

    Gradients of batches of B samples, taken at one point, are G + noise. The mean of their cosines
    estimates the share of G in their squared norm, c = |G|^2 / (|G|^2 + tr(S) / B), in which S is
    the covariance of one sample's gradient; so tr(S) / |G|^2 = B (1 - c) / c. Weights that move
    between the two make c smaller and the scale larger. Where the cosines show no common
    direction, the largest share that is likely is taken, which gives the least scale.

    Args:
        cosines: Cosines of pairs of gradients, at least 2.
        batch_size: Samples of one step, over micro-batches and ranks.

    Example:
        >>> noise_scale([0.2, 0.2, 0.2, 0.2], 32)
        128.0
    """
    mean = math.fsum(cosines) / len(cosines)
    spread = math.fsum((value - mean) ** 2 for value in cosines) / (len(cosines) - 1)
    share = min(1.0, max(mean, math.sqrt(spread / len(cosines)), 1e-9))
    return round(batch_size * (1 - share) / share, 9)


def batch_size(batch: Any, depth: int = 4) -> int:
    """Return the length of the first tensor of a batch, 0 if there is none.

    Example:
        >>> batch_size({"image": torch.zeros(8, 3), "label": torch.zeros(8)})
        8
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 0
    members: Sequence[Any] = ()
    if isinstance(batch, Mapping):
        members = list(batch.values())
    elif isinstance(batch, (list, tuple)):
        members = batch
    found = (batch_size(member, depth - 1) for member in members if depth)
    return next((size for size in found if size), 0)
