"""What is kept, worked out slowly: one element after the other, in plain Python."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any


def exactly(share: float, size: int) -> Fraction:
    """Return a share as people write it, times a size."""
    return Fraction(str(share)) * size


def kept(
    losses: Sequence[float],
    counts: Sequence[bool],
    classes: Sequence[int] | None = None,
    *,
    keep: float | None = None,
    threshold: float | None = None,
    min_kept: int | None = None,
    ratio: Any = None,
    skip_top: float = 0.0,
    is_binary: bool = False,
) -> list[bool]:
    """Return which elements are kept."""
    valid = [i for i, each in enumerate(counts) if each]
    if ratio is None:
        chosen = _hardest(losses, valid, _count(losses, valid, keep, threshold, skip_top), skip_top)
        least = 1 if min_kept is None else min_kept
        if len(chosen) < least:
            chosen = _hardest(losses, valid, least, skip_top)
        return [i in chosen for i in range(len(losses))]
    assert classes is not None
    least = min_kept or 0
    groups: dict[int, list[int]] = {}
    for i in valid:
        groups.setdefault(classes[i], []).append(i)
    found: set[int] = set()
    if isinstance(ratio, Mapping) or is_binary:
        named = ratio if isinstance(ratio, Mapping) else {0: ratio}
        rest = [i for i in valid if classes[i] not in named]
        found |= _hardest(losses, rest, len(rest), skip_top)
        size = len(found)
        for name, times in named.items():
            quota = max(least, math.ceil(exactly(times, size)))
            found |= _hardest(losses, groups.get(name, []), quota, skip_top)
    else:
        rarest = min(Counter(classes[i] for i in valid).values(), default=0)
        for members in groups.values():
            quota = max(least, math.ceil(exactly(ratio, rarest)))
            found |= _hardest(losses, members, quota, skip_top)
    return [i in found for i in range(len(losses))]


def _count(
    losses: Sequence[float],
    valid: Sequence[int],
    keep: float | None,
    threshold: float | None,
    skip_top: float,
) -> int:
    if threshold is not None:
        above = sum(losses[i] > threshold for i in valid)
        return max(0, above - math.floor(exactly(skip_top, len(valid))))
    if isinstance(keep, int):
        return keep
    return math.ceil(exactly(0.25 if keep is None else keep, len(valid)))


def _hardest(
    losses: Sequence[float], members: Sequence[int], quota: int, skip_top: float
) -> set[int]:
    order = sorted(members, key=lambda i: (-losses[i], i))
    skipped = math.floor(exactly(skip_top, len(members)))
    return set(order[skipped : skipped + quota])
