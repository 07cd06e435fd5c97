"""Which samples an epoch holds, from the losses of earlier ones: pure functions (H4).

A sample's loss is turned into a weight, weights into the number of times that each sample is
expected in the epoch, and these into draws. Systematic draws take each sample as often as expected,
rounded up or down, so an epoch strays from the chances far less than independent draws would.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_diag.hard.drawing import Drawing

_BITS = 11
"""Our choice: last bits of a float32 that ranks of many losses leave out, 2^-12 to 2^-13 of it."""
_BINS = 1 << (32 - _BITS)
_OLDEST = 1 << 16
"""Our choice: losses of that many epochs ago are not older."""
_LARGE = 1 << 20
"""Our choice: from here on losses are not sorted, and draws not shuffled twice: half the time."""
_APART = 64
"""Our choice: parts of an epoch over which the draws of one sample are spread."""


def generator(seed: int, epoch: int) -> torch.Generator:
    """Return random numbers for an epoch, the same in every process."""
    # torch takes the lower 32 bits of a seed: neighbouring seeds must not share epochs
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (1 << 32))


def ranks(losses: Tensor) -> Tensor:
    """Return the mean rank of each loss, from 0 (lowest) to 1; NaN where there is no loss.

    Equal losses share their rank. Of a million and more, so do those within 0.02 %: instead of a
    sort they are counted by their first bits.

    Shape:
        ``(samples,)``, float32 -> the same.

    Example:
        >>> ranks(torch.tensor([0.5, 3.0, torch.nan, 0.5]))
        tensor([0.2500, 1.0000,    nan, 0.2500])
    """
    unknown = losses.isnan()
    has_unknown = bool(unknown.any())
    known = losses[~unknown] if has_unknown else losses
    bins, counts = _counted(known)
    middle = counts.cumsum(0) - (counts + 1) / 2
    found = (middle / max(1, len(known) - 1)).to(torch.float32).index_select(0, bins)
    if not has_unknown:
        return found
    return torch.full_like(losses, torch.nan).masked_scatter_(~unknown, found)


def _counted(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each loss the number of its value, in ascending order, and how many each has."""
    if len(losses) < _LARGE:
        _, bins, counts = losses.unique(return_inverse=True, return_counts=True)
        return bins, counts
    bits = (losses + 0.0).view(torch.int32)  # adding turns -0 into 0
    order = bits.where(bits >= 0, bits ^ 0x7FFFFFFF)  # negative ones count backwards
    bins = order.bitwise_right_shift_(_BITS).add_(_BINS // 2)
    return bins, torch.bincount(bins, minlength=_BINS)


def weights(losses: Tensor, ages: Tensor, how: Drawing) -> Tensor:
    """Return what the chance of each sample is proportional to, before `uniform` is mixed in.

    By rank it is exp(rank / temperature), so the hardest sample weighs exp(1 / temperature) times
    the easiest; by loss it is loss ^ (1 / temperature), of losses from the lowest one up where some
    are negative. A rank or loss that was not seen for `age` epochs is drawn towards the average by
    2 ^ (-age / half_life). A sample that was never seen weighs as much as the hardest, one that was
    seen without a loss as much as the easiest.

    Shape:
        `losses` ``(samples,)``, NaN where never seen and -inf where seen without a loss, `ages`
        ``(samples,)`` -> ``(samples,)``, float32, at most 1.

    Example:
        >>> losses = torch.tensor([1.0, 4.0, torch.nan])
        >>> weights(losses, torch.zeros(3), Drawing("loss", temperature=2.0))
        tensor([0.5000, 1.0000, 1.0000])
    """
    unknown, finite = losses.isnan(), losses.isfinite()
    if not bool(finite.any()):
        return torch.ones_like(losses)
    if how.by == "rank":
        x = ranks(losses)
    else:
        x = losses.clamp(min=float(losses.where(finite, torch.inf).min()))
    if how.half_life is not None:
        average = float(x.nanmean(dtype=torch.float64))
        x = x.sub_(average).mul_(_faded(ages, how.half_life)).add_(average)
    if how.by == "rank":
        x = x.sub_(1).div_(how.temperature).exp_()
    else:
        highest = float(x.where(~unknown, -torch.inf).max())
        lowest = min(0.0, float(x.where(~unknown, torch.inf).min()))
        span = highest - lowest
        x = x.sub_(lowest).div_(span).pow_(1 / how.temperature) if span > 0 else x.fill_(1.0)
    return x.masked_fill_(unknown, 1.0)


def _faded(ages: Tensor, half_life: float) -> Tensor:
    """Return 2 ^ (-age / half_life) of whole numbers from 0."""
    ages = ages.clamp(0, _OLDEST).to(torch.int32)
    return torch.exp2(torch.arange(_OLDEST + 1) / -half_life).index_select(0, ages)


def chances(weight: Tensor, uniform: float, classes: Tensor | None = None) -> Tensor:
    """Return the chance of each sample: weights that add up to 1, mixed with equal ones.

    Args:
        weight: ``(samples,)``, 0 or more.
        uniform: Share of chances that are alike, from 0 to 1.
        classes: ``(samples,)``, whole numbers from 0: each keeps its share of all samples.

    Shape:
        ``(samples,)``, float64.

    Example:
        >>> chances(torch.tensor([3.0, 1.0]), 0.5)
        tensor([0.6250, 0.3750], dtype=torch.float64)
    """
    samples = len(weight)
    if samples == 0 or bool((weight == weight[0]).all()):
        return torch.full((samples,), 1 / max(1, samples), dtype=torch.float64)
    w = weight.to(torch.float64)
    if classes is None:
        return w.mul_((1 - uniform) / w.sum()).add_(uniform / samples)
    sizes = torch.bincount(classes)
    totals = torch.bincount(classes, weights=w)
    w = torch.where(totals[classes] > 0, w, 1.0)  # a class without any weight: all alike
    scale = (1 - uniform) / samples * sizes / torch.bincount(classes, weights=w)
    return w.mul_(scale[classes]).add_(uniform / samples)


def hardest(losses: Tensor, share: float, classes: Tensor | None = None) -> Tensor:
    """Return a mask of the samples with the highest losses; those without a loss come last.

    Args:
        losses: ``(samples,)``, NaN or -inf where there is none.
        share: Share of samples, of each class if given; at least one is taken.
        classes: ``(samples,)``, whole numbers from 0.

    Example:
        >>> hardest(torch.tensor([1.0, 3.0, torch.nan, 2.0]), 0.5)
        tensor([False,  True, False,  True])
    """
    x = losses.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    mask = torch.zeros(len(x), dtype=torch.bool)
    if classes is None:
        mask[x.topk(max(1, round(share * len(x)))).indices] = True
        return mask
    order = x.argsort(descending=True, stable=True)
    order = order[classes[order].argsort(stable=True)]
    sizes = torch.bincount(classes)
    kept = (sizes * share).round().clamp(min=1).to(torch.int64)
    place = torch.arange(len(x)) - (sizes.cumsum(0) - sizes)[classes[order]]
    mask[order[place < kept[classes[order]]]] = True
    return mask


def expected(chance: Tensor, size: int, *, replacement: bool) -> Tensor:
    """Return how often each sample is expected in an epoch.

    Without replacement none may be expected more than once: those that would be are certain, and
    the others share the rest in proportion to their chances.

    Args:
        chance: ``(samples,)``, adding up to 1.
        size: Draws of the epoch; at most as many as samples without replacement.
        replacement: Whether a sample may come more than once.

    Shape:
        ``(samples,)``, float64, adding up to `size`.

    Example:
        >>> expected(torch.tensor([0.8, 0.1, 0.1]), 2, replacement=False)
        tensor([1.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    samples = len(chance)
    if bool((chance == chance[0]).all()):
        return torch.full((samples,), size / samples, dtype=torch.float64)
    found = chance.to(torch.float64) * size
    if replacement:
        return found
    certain = torch.zeros(samples, dtype=torch.bool)
    while bool((found > 1).any()):
        certain |= found >= 1
        left = size - int(certain.sum())
        rest = chance.to(torch.float64).masked_fill(certain, 0.0)
        total = float(rest.sum())
        if left <= 0 or total <= 0:
            found = certain.to(torch.float64)
            break
        found = (rest * (left / total)).masked_fill_(certain, 1.0)
    short = size - float(found.sum())
    if short > 0.5:  # more draws than samples that have a chance: the others fill up
        found = torch.where(found > 0, found, short / float((found == 0).sum()))
    return found


def drawn(
    expect: Tensor, size: int, numbers: torch.Generator, classes: Tensor | None = None
) -> Tensor:
    """Return the samples of an epoch, in random order.

    Each comes as often as is expected of it, up or down to the next whole number, and the expected
    number on average. So does each class as a whole. Where one of each is expected, this is a
    shuffle.

    Args:
        expect: ``(samples,)``, adding up to `size`.
        size: Draws.
        numbers: Where random numbers come from.
        classes: ``(samples,)``, whole numbers from 0.

    Shape:
        ``(size,)``, int64.
    """
    samples = len(expect)
    order = torch.randperm(samples, generator=numbers)
    if size == samples and bool((expect == 1).all()):
        return order
    if classes is not None:
        order = order[classes[order].argsort(stable=True)]
    ends = expect.index_select(0, order).cumsum_(0)
    ends = ends.add_(torch.rand((), generator=numbers, dtype=torch.float64)).floor_()
    ends = ends.clamp_(max=size).to(torch.int64)
    ends[-1] = size
    counts = ends.diff(prepend=ends.new_zeros(1))
    found = order.repeat_interleave(counts, output_size=size)
    if classes is not None or size < _LARGE:
        return found[torch.randperm(size, generator=numbers)]
    # the order is random already, but the draws of one sample must not be neighbours
    whole = size - size % _APART
    spread = found[:whole].view(-1, _APART).t().reshape(-1)
    return torch.cat([spread, found[whole:]])


def effective_share(expect: Tensor) -> float:
    """Return how many samples an epoch rests on, as a share: 1 if all are expected alike.

    It is Kish's effective sample size of the numbers of draws.

    Example:
        >>> effective_share(torch.tensor([1.0, 1.0, 0.0, 0.0]))
        0.5

    References:
        Kish, Survey Sampling, 1965, section 8.2.
    """
    e = expect.to(torch.float64)
    found = float(e.sum().square() / e.square().sum().clamp(min=1e-300)) / max(1, len(e))
    return found if math.isfinite(found) else 0.0
