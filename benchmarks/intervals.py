"""A mean and how far it may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093),
)
"""The 97.5 % quantiles of Student's t with 1 to 19 degrees of freedom."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of 2 to 20 values, and half the width of its 95 % interval."""
    return fmean(values), _STUDENT[len(values) - 2] * stdev(values) / math.sqrt(len(values))
