"""What people look at: the samples with the largest loss (W13), the first layer's filters (W9)."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning_diag.history import History
from lightning_diag.loggers.table import Row
from lightning_diag.report.examples import KINDS
from lightning_diag.report.payload import pictures

_COLUMNS = (
    "list",
    "loss",
    "target",
    "prediction",
    "probability",
    "index",
    "name",
    "why",
    "margin",
    "looks",
    "forgotten",
    "learnt",
    "step",
    "batch",
    "sample",
    "rank",
    "stage",
    "loader",
    "place",
    "numbers",
    "text",
)
_WORST = "worst"
_SHEET, _CELL = 32, 96
"""Our choice: pictures on one sheet, and pixels along the side of each."""


class Examples(NamedTuple):
    """A table of examples, those of training before those of validation, worst first."""

    columns: list[str]
    """What is told of each."""
    rows: list[Row]
    """A row for each; what was not observed is None."""
    images: list[bytes | None]
    """Their pictures as PNG, None where a sample is none."""


def worst_examples(history: History) -> Examples | None:
    """Return the examples with the largest loss, and those on other lists; None without any."""
    shown = pictures.examples(history)
    if not shown:
        return None
    has_lists = any(one["kind"] != _WORST for one in shown)
    kinds = {name.partition("/")[2]: told for name, told in KINDS.items()}
    found: list[dict[str, Any]] = [
        {**one, "list": kinds[one["kind"]] if has_lists else None, "why": one["why"] or None}
        for one in shown
    ]
    columns = [name for name in _COLUMNS if any(one.get(name) is not None for one in found)]
    rows: list[Row] = [[_cell(one.get(name)) for name in columns] for one in found]
    return Examples(columns, rows, [_png(one["image"]) for one in found])


def filter_images(history: History) -> dict[str, bytes]:
    """Return the newest picture of the first layer's filters as PNG, by the weight's name."""
    images = {seen["place"]: _png(seen["images"][-1]) for seen in pictures.filters(history)}
    return {place: image for place, image in images.items() if image is not None}


def opened(png: bytes, *, least: int = 96) -> Any:
    """Return a PNG as an image of PIL, enlarged until its shorter side has `least` pixels.

    Raises:
        ImportError: If pillow is missing.
    """
    from PIL import Image  # noqa: PLC0415  # loggers that show images need it too

    image = Image.open(io.BytesIO(png)).convert("RGB")
    times = -(-least // min(image.size))
    size = (image.width * times, image.height * times)
    return image.resize(size, Image.Resampling.NEAREST) if times > 1 else image


def contact_sheet(images: Sequence[bytes | None], most: int = _SHEET, columns: int = 8) -> Any:
    """Return the first pictures side by side as an image of PIL, None if there are none.

    Raises:
        ImportError: If pillow is missing.
    """
    shown = [opened(png, least=_CELL) for png in images if png is not None][:most]
    if not shown:
        return None
    from PIL import Image  # noqa: PLC0415  # as above

    for image in shown:
        image.thumbnail((_CELL, _CELL))
    width, height = min(columns, len(shown)), -(-len(shown) // columns)
    sheet = Image.new("RGB", (width * (_CELL + 2), height * (_CELL + 2)), "white")
    for i, image in enumerate(shown):
        sheet.paste(image, ((i % columns) * (_CELL + 2), (i // columns) * (_CELL + 2)))
    return sheet


def _cell(value: Any) -> str | float | None:
    if value is None or isinstance(value, int | float | str):
        return value
    return str(value)


def _png(uri: str | None) -> bytes | None:
    return None if uri is None else base64.b64decode(uri.partition(",")[2])
