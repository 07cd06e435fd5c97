"""Focal loss: cross-entropy times how much probability is at the wrong place (H5, P29)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_diag.hard.focal_terms import (
    ByClass,
    Form,
    Normalize,
    Options,
    check_options,
    joined,
    losses_of,
)
from lightning_diag.hard.reduction import CountsNaN, Reduction, tensor_of


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    form: Form = "softmax",
    alpha: ByClass | None = None,
    weight: Sequence[float] | Tensor | None = None,
    pos_weight: Sequence[float] | Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    normalize: Normalize = "targets",
    background: int = 0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return (1 - p)^gamma times torch's cross-entropy, p being the probability of the target.

    ``softmax``: one class of several is right; torch's `cross_entropy`. ``sigmoid``: each logit is
    a yes or no of its own, as in binary, multi-label and detection tasks; torch's
    `binary_cross_entropy_with_logits`. With gamma 0 it is these, value and gradient.

    Of a target that is spread over classes, p is the sum of the target's probability times the
    predicted one, over the classes; label smoothing makes such a target. Weights change the
    cross-entropy alone, never p. No gradient reaches the target through the factor.

    Args:
        logits: Scores before softmax or sigmoid. 16-bit ones are computed, and the loss is
            returned, in float32.
        target: Classes as whole numbers, or probabilities as floats; for ``sigmoid`` 0 to 1.
        gamma: How far what is known well already is turned down, 0 or more; 0 is plain
            cross-entropy. Lin et al. find 2 best.
        form: ``softmax`` or ``sigmoid``.
        alpha: Factors by class that the mean is *not* divided by, as in the paper. For ``sigmoid``
            alpha counts for yes and 1 - alpha for no, 0 to 1; a single number counts for each logit
            alike. For ``softmax`` a single number rescales the whole loss.
        weight: As in torch: for ``softmax`` factors by class, whose sum the mean is divided by; for
            ``sigmoid`` factors that fit the shape of the logits.
        pos_weight: As in torch: factors for yes, of ``sigmoid`` alone.
        ignore_index: Target that is left out. Of probabilities of classes there is none.
        label_smoothing: Share of the target that is spread evenly over the classes, 0 to 1.
        normalize: What the mean is divided by: the number of ``targets`` (or their weights), as in
            torch, or of ``positives``, at least 1, as in the paper.
        background: The class that is no positive, of ``softmax`` alone.
        reduction: mean, sum or none.

    Returns:
        The loss. Where all targets are ignored it is 0 and backward runs, since one rank of many
        may see such a batch; torch returns NaN. A loss that would be NaN or infinite (logits that
        are NaN or infinite, but -inf for classes that are not meant) is left out, without any
        gradient; if no other is left, the mean and the sum are NaN. Without reduction it stays at
        its place as NaN.

    Shape:
        ``softmax``: logits ``(classes,)``, ``(N, classes)`` or ``(N, classes, *)``; target without
        the dimension of classes, or alike if it holds probabilities. ``sigmoid``: any, both alike.
        The result is ``()``, or has the shape of the targets with ``none``.

    Raises:
        ValueError: If an option is out of range, or shapes do not fit.
        TypeError: If targets of one class or more are not of the type that their form needs.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([0])  # p is 3/4
        >>> focal_loss(x, y), torch.tensor(3 / 4).log().neg() * (1 / 4) ** 2
        (tensor(0.0180), tensor(0.0180))

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.
    """
    options = Options(
        gamma=gamma,
        form=form,
        alpha=alpha,
        weight=weight,
        pos_weight=pos_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        normalize=normalize,
        background=background,
        reduction=reduction,
    )
    check_options(options)
    return joined(losses_of(logits, target, options), options)


class FocalLoss(CountsNaN):
    """`focal_loss` as a module, in place of `nn.CrossEntropyLoss` or `nn.BCEWithLogitsLoss`.

    Args:
        gamma: See `focal_loss`, as all that follow.

    Attributes:
        nan_count: How many losses were left out because they were NaN; it warns of the first ones.

    Example:
        >>> import torch
        >>> criterion = FocalLoss(gamma=2, weight=[1.0, 5.0])
        >>> criterion(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
        tensor(0.1733)
    """

    alpha: float | Tensor | None
    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        form: Form = "softmax",
        alpha: ByClass | None = None,
        weight: Sequence[float] | Tensor | None = None,
        pos_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        normalize: Normalize = "targets",
        background: int = 0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self._options = Options(
            gamma=gamma,
            form=form,
            alpha=alpha,
            weight=weight,
            pos_weight=pos_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            normalize=normalize,
            background=background,
            reduction=reduction,
        )
        check_options(self._options)
        self.register_buffer("weight", tensor_of(weight))
        self.register_buffer("pos_weight", tensor_of(pos_weight))
        if isinstance(alpha, int | float):
            self.alpha = float(alpha)
        else:
            self.register_buffer("alpha", tensor_of(alpha))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss; shapes as in `focal_loss`."""
        options = self._options._replace(
            alpha=self.alpha, weight=self.weight, pos_weight=self.pos_weight
        )
        found = losses_of(logits, target, options)
        self.count_broken(found.broken)
        return joined(found, options)

    def extra_repr(self) -> str:
        """Say how it is set up."""
        gamma, form = self._options.gamma, self._options.form
        return f"gamma={gamma:g}, form={form!r}, reduction={self._options.reduction!r}"
