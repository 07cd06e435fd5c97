"""The payload as text that may stand inside a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lightning_diag.report.payload.numbers import harmless

_ESCAPED = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"}


def as_text(payload: Mapping[str, Any]) -> str:
    r"""Write plain values as JSON in ASCII that no browser takes for markup.

    Raises:
        ValueError: If a number is not finite: JSON has none such.

    Example:
        >>> as_text({"name": "</script>"})
        '{"name":"\\u003c/script\\u003e"}'
    """
    written = json.dumps(harmless(payload), allow_nan=False, separators=(",", ":"))
    return written.translate(_ESCAPED)
