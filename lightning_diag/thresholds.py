"""What rules and checks share: fields that are thresholds, checked when one is built."""

from __future__ import annotations

import math


class Thresholds:
    """A frozen dataclass whose fields are thresholds."""

    def _require(self, *names: str, least: float, most: float = math.inf, unit: str = "") -> None:
        """Check that thresholds are numbers from `least` to `most`."""
        for name in names:
            value = getattr(self, name)
            if not least <= value <= most:
                limit = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
                what = f"{limit} {unit}".rstrip()
                raise ValueError(f"`{name}` must be {what}, got {value!r}.")

    def _require_order(self, *names: str) -> None:
        """Check that thresholds ascend."""
        values = [getattr(self, name) for name in names]
        for i in range(1, len(names)):
            if values[i] < values[i - 1]:
                message = (
                    f"`{names[i]}` must be at least `{names[i - 1]}`, {values[i - 1]!r}, "
                    f"got {values[i]!r}."
                )
                raise ValueError(message)
