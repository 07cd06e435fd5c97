"""How well a linear boundary tells classes apart in given features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

NEAR_CHANCE = 0.2
"""Skill below which features hardly separate: a fifth of the way from chance to all right. Our
choice: with two classes it is an accuracy of 60 %."""
CERTAIN = 0.05
"""Share of shuffled targets that may do as well as the real ones. The usual level of a test."""
_NORMAL = 1.959964
"""Standard normal quantile of a two-sided interval of 95 %."""
_LEAST_SHRINKAGE = 1e-3
"""Our choice: classes without any spread of their own would have no distance otherwise."""


@dataclass(frozen=True)
class LinearProbe:
    """What a linear probe found."""

    accuracy: float
    """Balanced: the mean over the classes of the share of their samples that are told right."""
    interval: tuple[float, float]
    """Its interval of 95 %."""
    chance: float
    """What guessing gives: one over the number of classes, however unequal they are."""
    p_value: float
    """Share of shuffled targets that did as well, the real ones counted in."""
    verdict: Literal["separate", "near chance", "insufficient data"]
    """Whether the features separate the classes."""
    samples: int
    """How many were looked at."""
    classes: int
    """How many classes they have."""

    @property
    def skill(self) -> float:
        """Where the accuracy is between chance, 0, and all right, 1."""
        return (self.accuracy - self.chance) / (1 - self.chance)


def linear_probe(
    features: Tensor, targets: Tensor, *, folds: int = 5, permutations: int = 199, seed: int = 0
) -> LinearProbe:
    """Say how well linear boundaries separate classes, by cross-validation.

    The classifier is linear discriminant analysis with equal priors and a covariance that is shrunk
    towards the identity as far as its own noise asks for (Ledoit and Wolf): closed-form, without a
    setting to choose, and good with fewer samples than features. Features are standardised by the
    samples that are fitted, and those that are constant there are left out.

    ``separate``: shuffled targets hardly do as well, and the accuracy is above chance by more than
    its interval. ``near chance``: even the interval's upper end is less than a fifth of the way
    from chance to all right. ``insufficient data``: neither can be said.

    Random states are left alone.

    Args:
        features: ``(samples, features)``, finite.
        targets: ``(samples,)``, whole numbers. Classes with fewer than 2 samples are left out.
        folds: Parts of the cross-validation, at least 2.
        permutations: How often targets are shuffled to see what chance can do, at least 19.
        seed: Of the parts and the shuffles.

    Raises:
        TypeError: If targets are not whole numbers.
        ValueError: If shapes do not fit, a feature is not finite, or fewer than 2 classes have 2
            samples.

    Cost:
        One singular value decomposition of the features for each part.

    Example:
        >>> x = torch.arange(20.0)[:, None] % 2 + torch.linspace(0, 0.1, 20)[:, None]
        >>> linear_probe(x, torch.arange(20) % 2).accuracy
        1.0

    References:
        Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices,
        2004. Ojala and Garriga, Permutation tests for studying classifier performance, 2010.
    """
    _check(features, targets, folds, permutations)
    x, classes = _usable(features.detach().to("cpu", torch.float64), targets.detach().cpu())
    generator = torch.Generator().manual_seed(seed)
    shuffled = [torch.randperm(len(classes), generator=generator) for _ in range(permutations)]
    labels = torch.stack([classes, *(classes[order] for order in shuffled)])
    parts = _parts(classes, folds, generator)
    n_classes = int(classes.max()) + 1
    right = torch.zeros(labels.shape, dtype=torch.bool)
    for part in range(folds):
        test = parts == part
        if test.any():
            told = _told(x[~test], labels[:, ~test], x[test], n_classes)
            right[:, test] = told == labels[:, test]
    counts = torch.bincount(classes).double()
    hits = torch.stack([(right & (labels == k)).sum(1) for k in range(n_classes)], 1).double()
    return _judged(hits, counts)


def _check(features: Tensor, targets: Tensor, folds: int, permutations: int) -> None:
    if targets.is_floating_point() or targets.is_complex():
        raise TypeError(f"`targets` must be whole numbers, got {targets.dtype}.")
    shapes = f"{tuple(features.shape)} and {tuple(targets.shape)}"
    problems = {
        "`features` must be (samples, features) and `targets` (samples,), got " + shapes: (
            features.ndim != 2 or targets.ndim != 1 or len(features) != len(targets)
        ),
        f"`folds` must be at least 2, got {folds}": folds < 2,
        f"`permutations` must be at least 19, got {permutations}": permutations < 19,
    }
    for message, broken in problems.items():
        if broken:
            raise ValueError(f"{message}.")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("`features` must be finite, got NaN or infinity among them.")


def _usable(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out classes of one sample; number the others from 0."""
    _, numbers, counts = torch.unique(targets, return_inverse=True, return_counts=True)
    kept = counts[numbers] >= 2
    left = int((counts >= 2).sum())
    if left < 2:
        raise ValueError(f"`targets` must have 2 classes of at least 2 samples, got {left}.")
    return x[kept], torch.unique(numbers[kept], return_inverse=True)[1]


def _parts(classes: Tensor, folds: int, generator: torch.Generator) -> Tensor:
    """Deal the samples out, class by class, so that each part has its share of each."""
    parts = torch.empty_like(classes)
    dealt = 0
    for k in range(int(classes.max()) + 1):
        members = (classes == k).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        parts[members] = (torch.arange(len(members)) + dealt) % folds
        dealt += len(members)
    return parts


def _told(x: Tensor, labels: Tensor, unseen: Tensor, n_classes: int) -> Tensor:
    """Return the classes of unseen samples, for each row of labels of the seen ones.

    With S the covariance of all samples and B that of the class means, classes have the covariance
    S - B within. All that depends on the labels is of the size of the classes, in coordinates in
    which (1 - a) S + a I is the identity.
    """
    mean, std = x.mean(0), x.std(0)
    varied = std > 1e-12 * (1 + mean.abs())
    x, unseen = (((each - mean) / std)[:, varied] for each in (x, unseen))
    if x.shape[1] == 0:
        return torch.zeros(len(labels), len(unseen), dtype=torch.long)
    shrinkage = _shrinkage(x)
    _, singular, axes = torch.linalg.svd(x, full_matrices=False)
    scale = ((1 - shrinkage) * singular**2 / len(x) + shrinkage).rsqrt()
    # Directions in which no seen sample differs say nothing of the classes.
    white, white_unseen = ((each @ axes.T) * scale for each in (x, unseen))
    members = torch.nn.functional.one_hot(labels, n_classes).double()
    counts = members.sum(1)
    means = torch.einsum("lsk,sd->lkd", members, white) / counts.clamp(min=1)[..., None]
    gram = means @ means.transpose(1, 2)
    weights = torch.diag_embed((1 - shrinkage) * counts / len(x))
    inner = torch.linalg.inv(torch.eye(n_classes, dtype=torch.float64) - weights @ gram)
    scores = (white_unseen @ means.transpose(1, 2)) @ inner
    offsets = (gram @ inner).diagonal(dim1=1, dim2=2) / 2
    scores = (scores - offsets[:, None]).masked_fill((counts == 0)[:, None], -math.inf)
    told: Tensor = scores.argmax(2)
    return told


def _shrinkage(x: Tensor) -> float:
    """Return how far the covariance of standardised samples is moved towards the identity.

    Ledoit and Wolf 2004, section 3.2: the variance of the covariance's entries over their squared
    distance from the identity, with sums over features instead of means.
    """
    n, p = x.shape
    squared = float((x @ x.T).square().sum()) / n**2  # of the covariance, entry by entry
    trace = float(x.square().sum()) / n
    distance = squared - trace**2 / p
    noise = (float(x.square().sum(1).square().sum()) / n - squared) / n
    share = 1.0 if distance <= 0 else noise / distance
    return min(max(share, _LEAST_SHRINKAGE), 1.0)


def _judged(hits: Tensor, counts: Tensor) -> LinearProbe:
    """Compare the first row of hits by class with the others, which are those of chance."""
    classes = len(counts)
    accuracies = (hits / counts).mean(1)
    accuracy, chance = float(accuracies[0]), 1 / classes
    p_value = float((accuracies >= accuracies[0] - 1e-12).double().mean())
    n = classes**2 / float((1 / counts).sum())
    low, high = _wilson(accuracy, n)
    verdict: Literal["separate", "near chance", "insufficient data"] = "insufficient data"
    # Cross-validation of few samples may be below chance by far, which says no more than chance.
    if max(high, _wilson(chance, n)[1]) < chance + NEAR_CHANCE * (1 - chance):
        verdict = "near chance"
    elif p_value <= CERTAIN and low > chance:
        verdict = "separate"
    samples = int(counts.sum())
    return LinearProbe(accuracy, (low, high), chance, p_value, verdict, samples, classes)


def _wilson(share: float, n: float) -> tuple[float, float]:
    """Return Wilson's interval of 95 %; `n` may be an effective number of samples.

    Example:
        >>> [round(bound, 3) for bound in _wilson(0.8, 10)]
        [0.49, 0.943]
    """
    z2 = _NORMAL**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _NORMAL * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)
