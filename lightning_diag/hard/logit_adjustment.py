"""Logit adjustment: scores are moved by how frequent classes are (H6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_diag.hard.class_weights import checked_counts
from lightning_diag.hard.focal_terms import Options, check_options, joined, losses_of
from lightning_diag.hard.reduction import CountsNaN, Reduction, exact


def log_prior(counts: Any) -> Tensor:
    """Return the logarithm of how frequent each class is.

    A class without samples counts as one sample: else it would win every adjusted decision.

    Raises:
        ValueError: If counts are negative, not finite, or all 0.

    Shape:
        ``(classes,)`` -> ``(classes,)``, float32.

    Example:
        >>> log_prior([1, 3]).exp()
        tensor([0.2500, 0.7500])
    """
    found = checked_counts(counts)
    found = found.masked_fill(found == 0, 1.0)
    return (found / found.sum()).log().float()


def adjust_logits(logits: Tensor, counts: Any, *, tau: float = 1.0) -> Tensor:
    """Return scores for balanced accuracy, of a network trained by plain cross-entropy.

    What it learned of how frequent classes are is taken out of its scores; nothing is trained. Not
    for a network trained with class weights or `logit_adjusted_loss`, which are balanced already.

    Args:
        logits: Scores, with the classes in dimension 1 (or the only one).
        counts: Targets of each class in training, as `class_counts` returns.
        tau: How far, 0 or more; 1 is right for scores that are calibrated.

    Raises:
        ValueError: If `tau` or counts are out of range, or not as many as the classes.

    Example:
        >>> adjust_logits(Tensor([[2.0, 1.0]]), [9, 1]).argmax(1)
        tensor([1])

    References:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021, arXiv:2007.07314, eq. 9.
    """
    return exact(logits) - tau * _by_class(_checked_prior(counts, tau), logits)


def logit_adjusted_loss(
    logits: Tensor,
    target: Tensor,
    counts: Any,
    *,
    tau: float = 1.0,
    gamma: float = 0.0,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return cross-entropy of scores to which the logarithm of each class's frequency is added.

    The network itself then learns scores for balanced accuracy: use them as they are. Unlike class
    weights it goes on to matter when the training set is learned by heart.

    Args:
        logits: Scores before softmax.
        target: Classes, or probabilities, as in `focal_loss`.
        counts: Targets of each class in training, as `class_counts` returns.
        tau: How far, 0 or more; 1 is for balanced accuracy, 0 plain cross-entropy.
        gamma: Of a focal loss of the adjusted scores; 0 is cross-entropy.
        ignore_index: Target that is left out.
        label_smoothing: Share of the target that is spread evenly over the classes, 0 to 1.
        reduction: mean, sum or none.

    Returns:
        The loss; 0 where all targets are ignored. What is NaN is left out as in `focal_loss`.

    Raises:
        ValueError: If an option is out of range, or shapes do not fit.

    Example:
        >>> x, y = Tensor([[0.0, 0.0]]), Tensor([1]).long()
        >>> logit_adjusted_loss(x, y, [3, 1]).exp()  # one over the frequency of class 1
        tensor(4.)

    References:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021, arXiv:2007.07314, eq. 10.
    """
    options = Options(
        gamma=gamma,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    check_options(options)
    adjusted = exact(logits) + tau * _by_class(_checked_prior(counts, tau), logits)
    return joined(losses_of(adjusted, target, options), options)


class LogitAdjustedLoss(CountsNaN):
    """`logit_adjusted_loss` as a module.

    Args:
        counts: Targets of each class in training, as `class_counts` returns.
        tau: See `logit_adjusted_loss`, as all that follow.

    Attributes:
        nan_count: How many losses were left out because they were NaN; it warns of the first ones.

    Example:
        >>> criterion = LogitAdjustedLoss([3, 1])
        >>> criterion(Tensor([[0.0, 0.0]]), Tensor([1]).long()).exp()
        tensor(4.)
    """

    log_prior: Tensor

    def __init__(
        self,
        counts: Sequence[float] | Tensor,
        *,
        tau: float = 1.0,
        gamma: float = 0.0,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self._options = Options(
            gamma=gamma,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )
        check_options(self._options)
        self.tau = tau
        # of the data, not of the network: a checkpoint need not hold it
        self.register_buffer("log_prior", _checked_prior(counts, tau), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss; shapes as in `focal_loss`."""
        adjusted = exact(logits) + self.tau * _by_class(self.log_prior, logits)
        found = losses_of(adjusted, target, self._options)
        self.count_broken(found.broken)
        return joined(found, self._options)

    def extra_repr(self) -> str:
        """Say how it is set up."""
        return f"classes={len(self.log_prior)}, tau={self.tau:g}"


def _checked_prior(counts: Any, tau: float) -> Tensor:
    if not 0 <= tau < math.inf:
        raise ValueError(f"`tau` must be 0 or more, and finite, got {tau}.")
    return log_prior(counts)


def _by_class(prior: Tensor, logits: Tensor) -> Tensor:
    """Return a number for each class in the dimension of the classes."""
    if logits.dim() == 0 or (classes := logits.shape[min(1, logits.dim() - 1)]) != len(prior):
        raise ValueError(
            f"`counts` must hold a number for each of {classes if logits.dim() else 0} classes, "
            f"got {len(prior)}."
        )
    return prior.to(logits.device).reshape(-1, *[1] * max(0, logits.dim() - 2))
