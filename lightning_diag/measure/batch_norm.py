"""Statistics of a batch against the running ones that batch norm will use in their place (W14)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor

from lightning_diag.measure.base import Call, CallMeasure, Columns, Numbers, always, placed
from lightning_diag.measure.moments import Scalar, plain


class Update(NamedTuple):
    """What one batch did to the running statistics of a batch norm layer."""

    mean: tuple[Tensor, Tensor]
    """Of each channel before and after, ``(channels,)`` each."""
    variance: tuple[Tensor, Tensor]
    """Of each channel before and after, ``(channels,)`` each."""
    factor: float | Tensor
    """The weight of the batch in the new statistics: the layer's momentum, above 0."""
    eps: float
    """What the layer adds to a variance before it takes the root."""


class BatchNormMeasure(CallMeasure):
    """How far the statistics of a batch are from the running ones, before this batch joins them.

    Nothing is computed from the batch: the layer itself moves its running statistics by its
    momentum times their distance from those of the batch, so its step tells the distance. Gaps are
    on the scale of the layer's output: 1 is one standard deviation of what it puts out when it
    evaluates. Variances are unbiased, as the running ones are.

    Args:
        remember: Is told a call site just before its running statistics change.
        recall: Returns how they did; None where they are not to be compared.
        due: See `CallMeasure`.

    Example:
        >>> import torch
        >>> new = Update((torch.zeros(1), torch.tensor([0.3])),
        ...              (torch.ones(1), torch.tensor([1.1])), 0.1, 0.0)
        >>> measure = BatchNormMeasure(lambda place: None, lambda place: new)
        >>> call = Call("bn/batch_norm#0", "batch_norm", "norm", 1, torch.tensor([[2.0], [4.0]]))
        >>> columns = measure.after(call)
        >>> numbers = measure.summarise([call.place], columns.sums, columns.maxima)
        >>> [round(numbers[name][call.place], 4) for name in ("mean_gap", "variance_ratio")]
        [3.0, 2.0]
    """

    name: ClassVar[str] = "batch_norm"
    kinds: ClassVar[frozenset[str]] = frozenset({"norm"})
    outputs: ClassVar[dict[str, str]] = {
        "mean_gap": "RMS over channels of batch mean less running mean, in running deviations",
        "variance_ratio": "geometric mean over channels of batch over running variance; above 0",
        "batch_size": "samples of one call; 1 or more",
    }

    def __init__(
        self,
        remember: Callable[[str], None],
        recall: Callable[[str], Update | None],
        due: Callable[[], bool] = always,
    ) -> None:
        super().__init__(due)
        self._remember = remember
        self._recall = recall

    def before(self, call: Call) -> Columns | None:
        """See `CallMeasure.before`."""
        self._remember(call.place)
        return None

    def after(self, call: Call) -> Columns | None:
        """See `CallMeasure.after`.

        Shape:
            ``(batch, channels, *)`` -> sums ``(1, 4)``, maxima ``(1, 0)``.
        """
        update = self._recall(call.place)
        if update is None or call.input.dim() < 2:
            return None
        gap, log_ratio = statistics_gap(update)
        row: list[Scalar] = [1.0, gap, log_ratio, float(call.input.shape[0])]
        return Columns.of(update.mean[0].device, [row])

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        calls, gap, log_ratio, samples = sums.unbind(1)
        return {
            "mean_gap": placed(places, (gap / calls).sqrt()),
            "variance_ratio": placed(places, (log_ratio / calls).exp()),
            "batch_size": placed(places, samples / calls),
        }


def statistics_gap(update: Update) -> tuple[Scalar, Scalar]:
    """Return the mean squared gap of the means, and the mean logarithm of the variances' ratio.

    Shape:
        ``(channels,)`` -> two scalars.
    """
    old_mean, new_mean, old, new = (plain(x) for x in (*update.mean, *update.variance))
    factor, channels, scale = update.factor, old.numel(), old + update.eps
    gap = (new_mean - old_mean).square_().div_(scale).sum()
    change = (new - old).div_(factor).add_(scale)
    # rounding may leave a channel that is constant with a variance just below 0
    log_ratio = change.clamp_(min=update.eps).div_(scale).log_().sum()
    if old.device.type == "cpu":
        return gap.item() / float(factor) ** 2 / channels, log_ratio.item() / channels
    return gap / factor**2 / channels, log_ratio / channels
