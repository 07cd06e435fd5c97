"""Online hard example mining: the loss of the hardest elements of a batch (H2, H3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_diag.hard.choice import chosen
from lightning_diag.hard.element_losses import ElementLoss, element_losses
from lightning_diag.hard.mining import Mining, on_host
from lightning_diag.hard.reduction import Reduction, check_reduction, tensor_of
from lightning_diag.warning import warn


def ohem_loss(
    input: Tensor,  # noqa: A002  # as torch calls it
    target: Tensor | None = None,
    *,
    loss: str | ElementLoss | None = "cross_entropy",
    keep: int | float | None = None,  # noqa: PYI041  # a count is 1, all are 1.0
    threshold: float | None = None,
    min_kept: int | None = None,
    ratio: float | Mapping[int, float] | None = None,
    skip_top: float = 0.0,
    weight: Tensor | Sequence[float] | None = None,
    pos_weight: Tensor | Sequence[float] | float | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the loss of the hardest elements of a batch; the others get no gradient.

    An element is a sample, a pixel, or one yes or no. Those with the highest losses are kept,
    weights left aside; of equal losses the one that stands first. What is not finite and what is
    ignored does not count. Where all is
    ignored, the loss is 0, with a graph; where nothing is finite, it is NaN.

    Args:
        input: Logits, or the losses themselves if `target` or `loss` is None.
        target: As the loss function wants it: classes, probabilities, or yes and no.
        loss: The name of a loss in ``torch.nn.functional``, or a function of prediction and target
            that returns a loss for each element. None: `input` has the losses, of which `target`
            says the classes.
        keep: How many are kept: a share (``0.25``) of those that count, rounded up, or a count
            (``64``). 0.25 if nothing else is given.
        threshold: Losses above it are kept. A probability p of the true class is the loss -ln(p).
        min_kept: Elements that are kept at least, if there are so many. 1; with `ratio` 0, and
            of each class that is limited.
        ratio: For yes and no: all that are yes are kept, and so many times as many of the others.
            For classes: of each, so many times as many as there are of the rarest one. Or by
            class, ``{0: 3}``: of class 0 three times as many as of all classes that are not
            named, which are kept. Rounded up.
        skip_top: Share of the highest losses that is left out, for labels that may be wrong.
        weight: Of each class, in float; the mean divides by the weights, as cross-entropy does.
        pos_weight: Of yes, as in ``binary_cross_entropy_with_logits``.
        ignore_index: Targets that do not count.
        reduction: ``mean`` of those that are kept, their ``sum``, or ``none``: the losses, with 0
            for those that are not.

    Shape:
        ``(N, C)`` and ``(N,)``; ``(N, C, d1, ...)`` and ``(N, d1, ...)``; or any, and the same.
        Returns ``()``; for ``none`` the shape of the losses. At least float32.

    Raises:
        ValueError: If an argument is out of range, or two contradict each other.

    Cost:
        A sort of the losses on a device, without a wait for it; on a CPU a selection in linear
        time.

    Example:
        >>> from torch import tensor
        >>> ohem_loss(tensor([0.1, 4.0, 2.0, 0.3]), keep=0.5)
        tensor(3.)

    References:
        Shrivastava et al., Training Region-based Object Detectors with Online Hard Example Mining,
        2016, arXiv:1604.03540. Liu et al., SSD, 2016, arXiv:1512.02325 (three negatives each).
    """
    check_reduction(reduction)
    mining = Mining(keep, threshold, min_kept, ratio, skip_top)
    found = element_losses(
        input,
        target,
        loss,
        weight=tensor_of(weight),
        pos_weight=tensor_of(pos_weight),
        ignore_index=ignore_index,
    )
    if on_host(found.broken):
        tell_of_nonfinite(int(found.broken.sum()))
    return chosen(found, mining).reduced(reduction)


def tell_of_nonfinite(count: int) -> None:
    """Warn of losses that are left out, if there are any."""
    if count:
        warn(
            f"The loss of {count} element{'s' * (count > 1)} was not finite: left out of the "
            "hard examples, and without a gradient. Look for NaN in inputs and targets."
        )
