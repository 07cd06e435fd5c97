"""Attaches `Doctor` to every Trainer of an unchanged script: ``LIGHTNING_DIAG=1 python train.py``.

Lightning calls `callbacks` for every Trainer that is made where this package is installed, so
nothing is imported here until the variable is set.
"""

from __future__ import annotations

import os

SWITCH = "LIGHTNING_DIAG"
OFF = frozenset({"", "0", "false", "no", "off"})
"""Values that are off, in upper or lower case; every other one is on."""


def callbacks() -> list[object]:
    """Return what Lightning adds to a Trainer: nothing, unless the variable is on.

    Example:
        >>> callbacks()
        []
    """
    if os.environ.get(SWITCH, "").strip().lower() in OFF:
        return []
    try:
        from lightning_diag.attach import AttachDoctor  # noqa: PLC0415  # costs nothing when off
    except Exception as error:  # noqa: BLE001  # the script never asked for this package
        from lightning_diag.warning import warn  # noqa: PLC0415  # the same

        warn(f"{SWITCH} is set, and Doctor cannot be attached: {type(error).__name__}: {error}")
        return []
    return [AttachDoctor()]
