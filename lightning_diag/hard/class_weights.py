"""How frequent classes are, and the weights that make up for it (H6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sized
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from lightning_diag.hard.reduction import is_compiling

_NAMES = ("targets", "labels")
"""Where data sets keep all their targets; torchvision's and most others do."""
Scale = Literal["samples", "classes"]


def class_counts(
    source: Any,
    classes: int | None = None,
    *,
    target: Callable[[Any], Any] | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Count the targets of each class.

    Labels are counted as they are. Of a data set no sample is read if it keeps its targets: a
    `TensorDataset` (its last tensor), or one with `targets` or `labels`, to which its
    `target_transform` is applied; and a `Subset`, `ConcatDataset` or `DataLoader` of such. Of
    others every sample is read once, one after the other, with all that reading does, augmentation
    and random numbers included: give the labels where that is too much.

    Args:
        source: Labels, a data set, or its loader. Whole numbers of any shape are classes, such as
            those of pixels; yes or no (or probabilities) for each of several classes, of shape
            ``(samples, classes)``, are floats or bools.
        classes: How many there are; by default one more than the largest that is found.
        target: What takes the target from a sample, by default its last part. If given, samples
            are read.
        ignore_index: Target that is no class.

    Returns:
        ``(classes,)``: whole numbers, or sums of probabilities.

    Raises:
        ValueError: If a class is negative or beyond `classes`, or there is no target.
        TypeError: If the source is none of these, or targets cannot be told from it.

    Example:
        >>> class_counts([0, 2, 2, 2])
        tensor([1, 0, 3])

    Cost:
        About a second for 100 million labels.
    """
    if isinstance(source, DataLoader):
        source = source.dataset
    total: Tensor | None = None
    for labels in _labels(source, target):
        found = _counted(labels, ignore_index)
        total = found if total is None else _added(total, found)
    if total is None or len(total) == 0:
        raise ValueError("`source` must hold a target at least, got none.")
    if classes is None:
        return total
    if len(total) > classes:
        raise ValueError(
            f"`classes` must be at least {len(total)}, as the targets say, got {classes}."
        )
    return _added(total, total.new_zeros(classes))


def class_weights(counts: Any, *, power: float = 1.0) -> Tensor:
    """Return weights by class for a loss: one over how frequent each is, to a power.

    They are scaled so that their mean over samples is 1, which keeps the size of losses and
    gradients, also where nothing divides by the sum of weights. A class without samples gets 0.

    Args:
        counts: Targets of each class, 0 or more, as `class_counts` returns.
        power: 1 gives every class the same share of the loss, 0 every sample, 0.5 is in between.

    Raises:
        ValueError: If counts are negative, not finite, or all 0, or `power` is not 0 or more.

    Example:
        >>> class_weights([1, 4]), class_weights([1, 4], power=0.5)
        (tensor([2.5000, 0.6250]), tensor([1.6667, 0.8333]))
    """
    if not 0 <= power < math.inf:
        raise ValueError(f"`power` must be 0 or more, and finite, got {power}.")
    found = checked_counts(counts)
    # by the largest first, so that no power leaves the range of floats on its own account
    return _scaled((found.max() / found).pow(power), found, "samples")


def class_balanced_weights(counts: Any, *, beta: float = 0.999, scale: Scale = "samples") -> Tensor:
    """Return weights by class: one over the effective number of samples, (1 - b^n) / (1 - b).

    Samples of a class resemble each other, so each new one adds less; after about 1 / (1 - b) of
    them a class weighs as if it had no more. So `beta` is between no weights, 0, and
    `class_weights`, 1.

    Args:
        counts: Targets of each class, 0 or more, as `class_counts` returns.
        beta: 0 to 1. Cui et al. use 0.9, 0.99, 0.999 and 0.9999.
        scale: ``samples``: so that the mean over samples is 1, as `class_weights`. ``classes``: so
            that the mean over classes is 1, as Cui et al.; it makes gradients of frequent classes
            small where nothing divides by the sum of weights.

    Raises:
        ValueError: If counts are negative, not finite, or all 0, or an option is out of range.

    Example:
        >>> class_balanced_weights([1, 4], beta=0.5)  # 1 and 1.875 effective samples
        tensor([1.5957, 0.8511])

    References:
        Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019,
        arXiv:1901.05555.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"`beta` must be from 0 to 1, got {beta}.")
    if scale not in ("samples", "classes"):
        raise ValueError(f"`scale` must be samples or classes, got {scale!r}.")
    found = checked_counts(counts)
    if beta == 1:
        effective = found
    elif beta == 0:
        effective = (found > 0).to(found.dtype)
    else:
        effective = torch.expm1(found * math.log(beta)) / (beta - 1)
    return _scaled(1 / effective, found, scale)


def checked_counts(counts: Any) -> Tensor:
    """Return counts in float64; refuse what counts nothing."""
    found = torch.as_tensor(counts).detach().to(torch.float64)
    if is_compiling():
        return found  # looking at numbers would break the graph
    if found.dim() != 1 or not bool(found.isfinite().all()) or bool((found < 0).any()):
        raise ValueError(f"`counts` must be a number of 0 or more for each class, got {counts}.")
    if not float(found.sum()) > 0:
        raise ValueError(f"`counts` must have a class with samples, got {counts}.")
    return found


def _scaled(weights: Tensor, counts: Tensor, scale: Scale) -> Tensor:
    """Give classes without samples 0, and scale the others."""
    weights = weights.masked_fill(counts == 0, 0.0)
    if scale == "samples":
        return (weights * (counts.sum() / (weights * counts).sum())).float()
    return (weights * ((counts > 0).sum() / weights.sum())).float()


# --- labels of data sets ---


def _labels(source: Any, target: Callable[[Any], Any] | None) -> Iterator[Tensor]:
    """Yield all targets, in parts."""
    if isinstance(source, ConcatDataset):
        for each in source.datasets:
            yield from _labels(each, target)
        return
    if target is None:
        known = source if not isinstance(source, Dataset) else _kept(source)
        if known is not None and (found := _tensor(known)) is not None:
            yield found
            return
    if not (hasattr(source, "__getitem__") and isinstance(source, Sized)):
        raise TypeError(
            "`source` must be labels, or a data set with a length, got "
            f"{type(source).__name__}: give the labels."
        )
    samples: Any = source
    for i in range(len(samples)):
        label = target(samples[i]) if target is not None else _last(samples[i])
        if (found := _tensor(label)) is None:
            raise TypeError(
                f"`target` must take a class from a sample, got {type(label).__name__} from "
                f"sample {i}."
            )
        yield found[None] if found.is_floating_point() or found.dtype is torch.bool else found


def _kept(dataset: Dataset[Any]) -> Any:
    """Return the targets that a data set keeps, None if it keeps none."""
    if isinstance(dataset, Subset):
        inner = dataset.dataset
        known = None if isinstance(inner, ConcatDataset) else _kept(inner)
        found = None if known is None else _tensor(known)
        return None if found is None else found[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1]
    if not isinstance(dataset, Sized):
        return None
    for name in _NAMES:
        kept: Any = getattr(dataset, name, None)
        if hasattr(kept, "__len__") and not isinstance(kept, str) and len(kept) == len(dataset):
            transform = getattr(dataset, "target_transform", None)
            return kept if transform is None else [transform(each) for each in kept]
    return None


def _last(sample: Any) -> Any:
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        raise TypeError(
            "a sample must be a pair whose last part is the target, got "
            f"{type(sample).__name__}: say with `target` how to take it, as in "
            "target=lambda sample: sample['label']."
        )
    return sample[-1]


def _tensor(values: Any) -> Tensor | None:
    if isinstance(values, Tensor):
        return values.detach()
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return None


def _counted(labels: Tensor, ignore_index: int) -> Tensor:
    if labels.numel() and (labels.is_floating_point() or labels.dtype is torch.bool):
        if labels.dim() != 2:
            raise ValueError(
                "`source` must hold classes as whole numbers, or a float or bool for each of "
                f"several classes, got {labels.dtype} of shape {tuple(labels.shape)}."
            )
        return labels.sum(0, dtype=torch.float64) if labels.is_floating_point() else labels.sum(0)
    labels = labels.flatten().long()
    labels = labels[labels != ignore_index]
    if labels.numel() and int(labels.min()) < 0:
        raise ValueError(f"classes must be 0 or more, got {int(labels.min())}.")
    return torch.bincount(labels).cpu()


def _added(a: Tensor, b: Tensor) -> Tensor:
    classes = max(len(a), len(b))
    a, b = (functional.pad(x, (0, classes - len(x))) for x in (a, b))
    return a + b
