"""What arguments of schedules must be; each check raises a `ValueError` of one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence


def positive(name: str, value: float, unit: str = "") -> None:
    """Refuse what is not a finite number above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be above 0{unit and f' {unit}'}, got {value}.")


def not_negative(name: str, value: float) -> None:
    """Refuse what is not a finite number of at least 0."""
    if not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be at least 0, got {value}.")


def share(name: str, value: float) -> None:
    """Refuse what is not from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be from 0 to 1, got {value}.")


def whole(name: str, value: float, least: int) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if not (least <= value < math.inf and value == int(value)):
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value}.")


def total_steps_known(value: float) -> None:
    """Refuse a number of steps that is unknown or none."""
    if value == math.inf:
        raise ValueError(
            "`total_steps` must be known beforehand, got inf: limit the training, for instance "
            "with Trainer(max_steps=...)."
        )
    whole("total_steps", value, 1)


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a name that is not known."""
    if value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}.")
