"""The loss of each element of a batch, from which the hard ones are chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag.hard.mining import on_host

ElementLoss = Callable[[Tensor, Tensor], Tensor]
"""Takes prediction and target, returns a loss for each element: ``reduction="none"``."""
_ROWS = frozenset({"cross_entropy", "nll_loss"})
_BINARY = "binary_cross_entropy_with_logits"
LOSSES = (*sorted(_ROWS), _BINARY, "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
"""Losses that are known by name."""
_DISTANCES = frozenset(LOSSES[3:])


class Elements(NamedTuple):
    """The losses of a batch, one behind the other."""

    losses: Tensor
    """``(elements,)``, with their graph, in float32 or float64."""
    valid: Tensor
    """``(elements,)``: finite, and not ignored."""
    classes: Tensor | None
    """``(elements,)``; None where the target is no class."""
    is_binary: bool
    """Whether class 1 is yes and class 0 is no."""
    factors: Tensor | None
    """``(elements,)``: by what each loss is multiplied; None for 1."""
    is_weighted_mean: bool
    """Whether the mean divides by the factors, as that of cross-entropy does."""
    broken: Tensor
    """``(elements,)``: left out since they are not finite."""
    shape: torch.Size
    """Of the losses as they were."""


def element_losses(
    input: Tensor,  # noqa: A002  # as torch calls it
    target: Tensor | None,
    loss: str | ElementLoss | None,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    ignore_index: int = -100,
) -> Elements:
    """Return the loss of each element; what is not finite gets no gradient, not even NaN.

    Args:
        input: Prediction; the losses themselves if `loss` or `target` is None.
        target: As the loss function wants it.
        loss: A name out of `LOSSES`, or a function.
        weight: Of each class.
        pos_weight: Of yes, for binary cross-entropy.
        ignore_index: Targets that do not count.

    Raises:
        ValueError: If these do not go together.
    """
    _check_weights(loss, weight, pos_weight)
    x = _wide(input)
    classes, is_binary = None, False
    counts: Tensor | None = None
    if target is None or loss is None:
        losses, bad = x, None
    elif loss in _ROWS or (not isinstance(loss, str) and target.dim() == x.dim() - 1):
        losses, target, bad = _of_rows(x, target, loss, weight, ignore_index)
    else:
        losses, target, bad = _of_values(x, target, loss, ignore_index)
    if target is not None and target.shape == losses.shape and loss not in _DISTANCES:
        counts = target != ignore_index
        is_binary = target.is_floating_point() or target.dtype == torch.bool or loss == _BINARY
        classes = (target > 0.5).long() if is_binary else target.long()
    elif target is not None and loss in _ROWS:
        classes, weight = target.argmax(1), None  # probabilities: weights are in the losses
    valid = losses.detach().isfinite()
    if bad is not None:
        valid = valid & ~_fitted(bad, losses)
    broken = ~valid if counts is None else counts & ~valid
    if counts is not None:
        valid = valid & counts
    factors = None
    if weight is not None:
        factors = _by_class(weight, classes, valid, losses)
    elif pos_weight is not None and target is not None:
        yes = target.to(losses.dtype).masked_fill(~valid, 0)
        factors = (1 + (pos_weight.to(losses) - 1) * yes).expand_as(losses)
    if factors is not None:
        valid = valid & (factors > 0)
    return Elements(
        losses.flatten(),
        valid.flatten(),
        None if classes is None else classes.flatten(),
        is_binary,
        None if factors is None else factors.flatten(),
        pos_weight is None,
        broken.flatten(),
        losses.shape,
    )


def _check_weights(
    loss: str | ElementLoss | None, weight: Tensor | None, pos_weight: Tensor | None
) -> None:
    if isinstance(loss, str) and loss not in LOSSES:
        raise ValueError(
            f"`loss` must be one of {', '.join(LOSSES)}, or a function that returns a loss for "
            f"each element, got {loss!r}."
        )
    if weight is not None and (loss == _BINARY or loss in _DISTANCES):
        message = f"`weight` is by class, which {loss} has none of: leave it out"
        raise ValueError(f"{message}{', or give `pos_weight`' if loss == _BINARY else ''}.")
    if pos_weight is not None and loss != _BINARY:
        raise ValueError(f"`pos_weight` is for loss={_BINARY!r}, got loss={loss!r}.")


def _wide(x: Tensor) -> Tensor:
    """Return numbers of 16 bits in float32: losses of 8 bits' accuracy cannot be told apart."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _of_rows(
    x: Tensor,
    target: Tensor,
    loss: str | ElementLoss,
    weight: Tensor | None,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of rows of logits, the target, and which rows are of no use.

    Shape:
        ``(N, C, *)``, ``(N, *)`` or ``(N, C, *)`` -> ``(N, *)``, as given, ``(N, *)``.
    """
    if x.dim() < 2:
        raise ValueError(
            f"The prediction must be (N, C) or (N, C, ...), got {tuple(x.shape)}: add the "
            "dimension of the batch."
        )
    if weight is not None and len(weight) != x.shape[1]:
        raise ValueError(
            f"`weight` must hold a number for each of {x.shape[1]} classes, got {len(weight)}."
        )
    is_soft = target.shape == x.shape
    # A class that is ruled out by -inf is fine, as in the loss itself.
    bad = ~x.detach().amax(1).isfinite()
    if is_soft:
        bad = bad | ~target.detach().isfinite().all(1)
    x = _cleaned(x, bad.unsqueeze(1))
    if not isinstance(loss, str):
        found = loss(x, target.masked_fill(target == ignore_index, 0))
        return _checked(found), target, bad
    function = functional.nll_loss if loss == "nll_loss" else functional.cross_entropy
    if is_soft:
        target = _cleaned(target, bad.unsqueeze(1)).to(x.dtype)
        return function(x, target, weight, reduction="none"), target, bad
    target = target.long()
    # whoever watches the call is not to take the loss of what was cleaned for that of a sample
    meant = target.masked_fill(bad, ignore_index)
    return function(x, meant, ignore_index=ignore_index, reduction="none"), target, bad


def _of_values(
    x: Tensor, target: Tensor, loss: str | ElementLoss, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of single numbers, the target, and which of them are of no use."""
    if isinstance(loss, str) and target.shape != x.shape:
        raise ValueError(
            f"`target` must have the shape of the prediction with loss={loss!r}, got "
            f"{tuple(x.shape)} and {tuple(target.shape)}."
        )
    bad = ~x.detach().isfinite()
    plain = target
    if target.shape == x.shape:
        if target.is_floating_point():
            bad = bad | ~target.detach().isfinite()
        if loss not in _DISTANCES:
            plain = target.masked_fill(target == ignore_index, 0)
        plain = _cleaned(plain, bad)
    x = _cleaned(x, bad)
    if not isinstance(loss, str):
        return _checked(loss(x, plain)), target, bad
    function = getattr(functional, loss)
    found: Tensor = function(x, plain.to(x.dtype), reduction="none")
    return found, target, bad


def _checked(found: object) -> Tensor:
    if not isinstance(found, Tensor) or found.dim() == 0:
        raise ValueError(
            "`loss` must return a loss for each element, and returned one number: give it "
            "reduction='none'."
        )
    return _wide(found)


def _cleaned(x: Tensor, bad: Tensor) -> Tensor:
    """Put 0 where numbers are of no use: NaN times a gradient of 0 would be NaN."""
    if on_host(bad) and not bool(bad.any()):
        return x
    return torch.where(~bad, x, torch.zeros_like(x))


def _fitted(bad: Tensor, losses: Tensor) -> Tensor:
    """Return which losses rest on something of no use."""
    if bad.shape == losses.shape:
        return bad
    if bad.dim() > 1 and bad.any(1).shape == losses.shape:
        return bad.any(1)
    if losses.shape == bad.shape[:1]:
        return bad.flatten(1).any(1)
    raise ValueError(
        f"`loss` returned losses of shape {tuple(losses.shape)}, which does not fit a prediction "
        f"of shape {tuple(bad.shape)}."
    )


def _by_class(weight: Tensor, classes: Tensor | None, valid: Tensor, losses: Tensor) -> Tensor:
    if classes is None:
        raise ValueError("`weight` needs to know the class of each loss: give targets of classes.")
    return weight.to(losses)[classes.masked_fill(~valid, 0)]
