"""The loss of each target, and which of them count: what `focal_loss` adds up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag.hard.reduction import Reduction, check_reduction, exact, reduced

Form = Literal["softmax", "sigmoid"]
Normalize = Literal["targets", "positives"]
ByClass = float | Sequence[float] | Tensor


class Options(NamedTuple):
    """What `focal_loss` is asked for; what each means is said there."""

    gamma: float = 2.0
    form: Form = "softmax"
    alpha: ByClass | None = None
    weight: Sequence[float] | Tensor | None = None
    pos_weight: Sequence[float] | Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    normalize: Normalize = "targets"
    background: int = 0
    reduction: Reduction = "mean"


class Losses(NamedTuple):
    """What was found of each target; all of the shape of the losses."""

    losses: Tensor
    """Finite where they do not count."""
    counted: Tensor
    """Neither ignored nor broken."""
    broken: Tensor
    """Those that would be NaN."""
    positives: Tensor
    """How much of a positive each target is, 0 to 1."""
    weights: Tensor | None
    """What the mean is divided by; None for the number of those that count."""


def check_options(options: Options) -> None:
    """Refuse options that are out of range, or do not fit each other."""
    check_reduction(options.reduction)
    gamma, form, alpha = options.gamma, options.form, options.alpha
    if not 0 <= gamma < math.inf:
        raise ValueError(f"`gamma` must be 0 or more, and finite, got {gamma}.")
    if form not in ("softmax", "sigmoid"):
        raise ValueError(f"`form` must be softmax or sigmoid, got {form!r}.")
    if not 0 <= options.label_smoothing <= 1:
        raise ValueError(f"`label_smoothing` must be from 0 to 1, got {options.label_smoothing}.")
    if options.normalize not in ("targets", "positives"):
        raise ValueError(f"`normalize` must be targets or positives, got {options.normalize!r}.")
    if options.normalize == "positives" and options.reduction != "mean":
        raise ValueError(
            "`normalize` says what a mean is divided by, got 'positives' and the reduction "
            f"{options.reduction!r}: leave one of them out."
        )
    if form == "softmax" and options.pos_weight is not None:
        raise ValueError("`pos_weight` is for form='sigmoid' alone: use `weight` with softmax.")
    if isinstance(alpha, int | float) and not 0 <= alpha <= (1 if form == "sigmoid" else math.inf):
        most = "from 0 to 1" if form == "sigmoid" else "0 or more"
        raise ValueError(f"`alpha` must be {most}, got {alpha}.")


def losses_of(logits: Tensor, target: Tensor, options: Options) -> Losses:
    """Return the loss of each target, in float32 or float64."""
    with torch.autocast(logits.device.type, enabled=False):
        x = exact(logits)
        if options.form == "sigmoid":
            return _of_elements(x, target, options)
        dim = _class_dim(x, target)
        if target.is_floating_point():
            return _of_probabilities(x, target.to(x.dtype), dim, options)
        return _of_classes(x, target.long(), dim, options)


def joined(found: Losses, options: Options) -> Tensor:
    """Reduce what was found."""
    denominator = None
    if options.normalize == "positives":
        denominator = found.positives.masked_fill(~found.counted, 0.0).sum().clamp(min=1.0)
    return reduced(
        found.losses,
        found.counted,
        found.broken,
        reduction=options.reduction,
        weights=found.weights,
        denominator=denominator,
    )


# --- softmax ---


def _of_classes(x: Tensor, target: Tensor, dim: int, options: Options) -> Losses:
    is_meant = target != options.ignore_index
    bad = ~x.detach().amax(dim).isfinite()  # NaN or infinite; -inf hides a class, as usual
    counted, broken = is_meant & ~bad, is_meant & bad
    weight = _like(options.weight, x)
    by_class, scale = _weights(weight, options.alpha, x)
    x = x.where(~bad.unsqueeze(dim), 0.0)  # or backward would multiply NaN by 0
    losses = functional.cross_entropy(
        x,
        target.masked_fill(bad, options.ignore_index),
        weight=by_class,
        ignore_index=options.ignore_index,
        reduction="none",
        label_smoothing=options.label_smoothing,
    )
    hidden = ~losses.detach().isfinite()  # the class that is meant has the logit -inf
    losses = losses.masked_fill(hidden, 0.0)
    counted, broken = counted & ~hidden, broken | hidden
    safe = target.masked_fill(~counted, 0)
    if options.gamma:
        if options.label_smoothing:
            log_p = x.log_softmax(dim).gather(dim, safe.unsqueeze(dim)).squeeze(dim)
        elif by_class is None:
            log_p = -losses
        else:
            # with a weight of 0 nothing is left to tell p, nor for the factor to change
            shares = by_class[safe]
            log_p = -losses / shares.masked_fill(shares == 0, 1.0)
        losses = losses * _factor(log_p, x.shape[dim], options)
    positives = (target != options.background).to(x.dtype)
    weights = None if weight is None else weight[safe]
    return Losses(losses * scale, counted, broken, positives, weights)


def _factor(log_p: Tensor, classes: int, options: Options) -> Tensor:
    """Return (1 - p)^gamma from the logarithm of the probability of the one right class."""
    wrong = -log_p.expm1()
    if spread := options.label_smoothing:
        wrong = (1 - spread) * wrong + spread * (1 - 1 / classes)
    return _power(wrong, options.gamma)


def _power(wrong: Tensor, gamma: float) -> Tensor:
    """Return a power of what is at the wrong place, which is added up: 1 - p would round to 0.

    At 0 itself a root has no slope, and its gradient would be NaN.
    """
    return wrong.clamp(min=torch.finfo(wrong.dtype).tiny).pow(gamma)


def _of_probabilities(x: Tensor, target: Tensor, dim: int, options: Options) -> Losses:
    bad = ~(x.detach() + target.detach()).sum(dim).isfinite()
    x = x.where(~bad.unsqueeze(dim), 0.0)
    target = target.where(~bad.unsqueeze(dim), 0.0)
    by_class, scale = _weights(_like(options.weight, x), options.alpha, x)
    spread = options.label_smoothing
    losses = functional.cross_entropy(
        x, target, weight=by_class, reduction="none", label_smoothing=spread
    )
    if options.gamma:
        rest = 1 - (target.detach() * (1 - spread) + spread / x.shape[dim])
        losses = losses * _power((x.softmax(dim) * rest).sum(dim), options.gamma)
    positives = 1 - target.detach().select(dim, options.background)
    return Losses(losses * scale, ~bad, bad, positives, None)


def _weights(
    weight: Tensor | None, alpha: ByClass | None, x: Tensor
) -> tuple[Tensor | None, float | Tensor]:
    """Return factors by class, and one for all."""
    if alpha is None or isinstance(alpha, int | float):
        return weight, 1.0 if alpha is None else alpha
    by_class = _like(alpha, x)
    assert by_class is not None
    if by_class.dim() == 0:
        return weight, by_class
    return by_class if weight is None else by_class * weight, 1.0


def _class_dim(x: Tensor, target: Tensor) -> int:
    """Return the dimension of classes; refuse targets that do not fit."""
    if x.dim() == 0:
        raise ValueError("`logits` must have a dimension of classes, got a single number.")
    dim = min(1, x.dim() - 1)
    shapes = f"got {tuple(x.shape)} and {tuple(target.shape)}"
    if target.is_floating_point():
        if target.shape != x.shape:
            raise ValueError(
                "`target` must be probabilities of the shape of `logits`, or whole numbers, "
                f"{shapes}."
            )
    elif target.dtype is torch.bool or target.shape == x.shape:
        raise TypeError(
            "`target` must be classes as whole numbers, or probabilities as floats, got "
            f"{target.dtype}: call `.float()` if it holds a yes or no for each class."
        )
    elif target.shape != x.shape[:dim] + x.shape[dim + 1 :]:
        raise ValueError(
            f"`target` must have the shape of `logits` without dimension {dim}, {shapes}."
        )
    return dim


def _like(values: Sequence[float] | Tensor | float | None, x: Tensor) -> Tensor | None:
    return None if values is None else torch.as_tensor(values, dtype=x.dtype, device=x.device)


# --- sigmoid ---


def _of_elements(x: Tensor, target: Tensor, options: Options) -> Losses:
    if target.shape != x.shape:
        raise ValueError(
            "`target` must have the shape of `logits` with form='sigmoid', got "
            f"{tuple(x.shape)} and {tuple(target.shape)}."
        )
    target = target.to(x.dtype)
    is_meant = target.detach() != options.ignore_index
    bad = (x.detach() + target.detach()) * 0 != 0  # NaN or infinite, in fewer passes
    counted, broken = is_meant & ~bad, is_meant & bad
    x = x.where(~bad, 0.0)
    target = target.where(counted, 0.0)
    spread = options.label_smoothing
    smooth = target * (1 - spread) + spread / 2 if spread else target
    losses = functional.binary_cross_entropy_with_logits(
        x,
        smooth,
        weight=_like(options.weight, x),
        pos_weight=_like(options.pos_weight, x),
        reduction="none",
    )
    if options.gamma:
        wrong = torch.lerp(x.sigmoid(), (-x).sigmoid(), smooth.detach())
        losses = losses * _power(wrong, options.gamma)
    if options.alpha is not None:
        alpha = _alpha_of_elements(options.alpha, x)
        losses = losses * (alpha * smooth + (1 - alpha) * (1 - smooth))
    return Losses(losses, counted, broken, target.detach(), None)


def _alpha_of_elements(alpha: ByClass, x: Tensor) -> Tensor | float:
    """Return alpha for each class, in dimension 1, or for all."""
    if isinstance(alpha, int | float):
        return alpha
    found = _like(alpha, x)
    assert found is not None
    classes = x.shape[1] if x.dim() > 1 else 1
    if found.dim() and found.shape != (classes,):
        raise ValueError(
            f"`alpha` must be a number, or one for each of {classes} classes, got the shape "
            f"{tuple(found.shape)}."
        )
    return found.reshape(-1, *[1] * max(0, x.dim() - 2)) if found.dim() else found
