"""Squared norms of gradients of small and of large batches, for the noise scale (W15)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, Measure, Numbers
from lightning_diag.measure.moments import Scalar, added, plain, square_sum
from lightning_diag.measure.noise import thinned
from lightning_diag.measure.noise_estimate import two_batch_estimate

_MOST = 1_048_576
"""Our choice: elements of one gradient that are looked at; of larger ones an even spread, which
takes less than a millisecond. The estimate stands for the whole."""


class NoiseScaleMeasure(Measure):
    """Squared norms of the gradients of groups of samples, and of their mean.

    A group is one micro-batch on one rank. Columns that add up: groups, the inverses of their
    sizes, their squared norms; then, one on each rank, observations of the sum over a rank's groups
    (of the mean over ranks), its squared norm, and the samples of the step.

    Example:
        >>> measure = NoiseScaleMeasure()
        >>> columns = measure.observe([5.0, 5.0], [8, 8], 16.0, device=torch.device("cpu"))
        >>> measure.summarise([""], columns.sums, columns.maxima)["signal"]
        {'': 3.0}
    """

    name: ClassVar[str] = "noise_scale"
    outputs: ClassVar[dict[str, str]] = {
        "samples": "simple noise scale, of the newest estimates; samples, 0 or more",
        "low": "lower end of its 95 % interval; samples, 0 or more",
        "high": "upper end, absent where there is none; samples, 0 or more",
        "trace": "of the covariance of one sample's gradient, estimated at this step",
        "signal": "squared norm of the true gradient, estimated at this step; may be below 0",
        "batch_size": "samples of an optimizer step, over micro-batches and ranks",
    }
    across_ranks: ClassVar[bool] = True
    """Whether the sum is over the groups of all ranks, not of each rank for itself."""

    def observe(
        self,
        groups: Sequence[Scalar],
        sizes: Sequence[float],
        total: Scalar,
        *,
        device: torch.device,
        samples: float | None = None,
    ) -> Columns:
        """Add up what one rank has seen of one step.

        Args:
            groups: Squared norm of the gradient of each group.
            sizes: Samples of each, above 0.
            total: Squared norm of their sum.
            device: Where the norms are.
            samples: Of the step on this rank; those of the groups if None.

        Shape:
            -> sums ``(1, 6)``, maxima ``(1, 0)``.
        """
        inverses = math.fsum(1 / size for size in sizes)
        samples = math.fsum(sizes) if samples is None else samples
        row = (float(len(groups)), inverses, added(groups), 1.0, total, samples)
        return Columns.of(device, [row])

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        found: Numbers = {"trace": {}, "signal": {}, "batch_size": {}}
        for place, row in zip(places, sums.tolist(), strict=True):
            groups, inverses, squares, ranks, total, samples = row
            averaged = groups if self.across_ranks or not ranks else groups / ranks
            if averaged < 2 or not ranks or not all(map(math.isfinite, row)):
                continue
            big = total / ranks / (groups / ranks) ** 2
            parts = two_batch_estimate(squares / groups, big, groups / inverses, averaged)
            found["trace"][place], found["signal"][place] = parts
            found["batch_size"][place] = samples
        return found


class SplitMeasure(NoiseScaleMeasure):
    """The same of groups within one batch: each rank has the mean of its own.

    Example:
        >>> measure = SplitMeasure()
        >>> row = measure.observe([5.0, 5.0], [8, 8], 16.0, device=torch.device("cpu")).sums
        >>> measure.summarise([""], row + row, torch.zeros(1, 0))["signal"]
        {'': 3.0}
    """

    across_ranks: ClassVar[bool] = False


def spread_square_sum(gradient: Tensor) -> Scalar:
    """Return the squared norm of a gradient, of a large one from an even spread of its elements.

    Shape:
        ``(*)`` -> a scalar.

    Example:
        >>> spread_square_sum(torch.tensor([3.0, 4.0]))
        25.0
    """
    count = gradient.numel()
    if count <= _MOST or gradient.layout is not torch.strided:
        return square_sum(plain(gradient))
    seen = thinned(gradient.detach(), math.ceil(count / _MOST))
    return square_sum(plain(seen)) * (count / seen.numel())
