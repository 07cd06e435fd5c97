"""Pictures of a run: filters of the first layer (W9), examples with the largest loss (W13)."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from lightning_diag.history import History
from lightning_diag.report.examples import KINDS, why
from lightning_diag.report.payload.numbers import spread, tidy
from lightning_diag.report.payload.png import data_uri, sheet

MOST_LOOKS = 6
"""Looks at filters that are shown: at most 64 KB each, and six tell a course."""
MOST_LAYERS, MOST_LOSSES = 2, 3
"""Layers whose filters are shown, and losses whose examples are. Our choice."""
MOST_PIXELS = 1 << 20
"""Bytes of a picture that is drawn at all: what is larger was not written by this package."""


def filters(history: History) -> list[dict[str, Any]]:
    """Return the filters of the first layer over time; [] where none were kept.

    The pictures of a look are one image, `columns` side by side, with a pixel between.
    """
    found = []
    for place, looks in list(history.shown("filter/pixels").items())[:MOST_LAYERS]:
        known = [(step, seen, image) for step, seen in looks if (image := _sheet(seen))]
        if known:
            chosen = [known[i] for i in spread(len(known), MOST_LOOKS)]
            found.append(_filters(place, chosen))
    return found


def _filters(place: str, looks: list[tuple[int, Mapping[str, Any], str]]) -> dict[str, Any]:
    newest = looks[-1][1]
    return {
        "place": place,
        "step": [step for step, _, _ in looks],
        "smoothness": [_number(seen.get("smoothness")) for _, seen, _ in looks],
        "limit": [_number(seen.get("limit")) for _, seen, _ in looks],
        "images": [image for _, _, image in looks],
        "shape": newest["shape"],
        "columns": _columns(newest["shape"][0]),
        "filters": newest.get("filters"),
        "kernel": newest.get("kernel"),
    }


def _columns(n: int) -> int:
    """Return how many pictures stand side by side: twice as many as below each other."""
    return min(n, max(1, math.ceil(math.sqrt(2 * n))))


def _sheet(seen: Any) -> str | None:
    """Return the filters of a look as one image, None where they are none."""
    pixels, shape = _pixels(seen)
    if pixels is None or len(shape) != 4:
        return None
    try:
        return sheet(pixels, shape, _columns(shape[0]))
    except ValueError:
        return None


def _pixels(seen: Any) -> tuple[bytes | None, list[int]]:
    """Return the bytes and the shape of what was shown; a file may hold anything there."""
    if not isinstance(seen, Mapping):
        return None, []
    shape, text = seen.get("shape"), seen.get("pixels")
    if not isinstance(shape, list) or not isinstance(text, str):
        return None, []
    if not all(isinstance(n, int) and n > 0 for n in shape) or math.prod(shape) > MOST_PIXELS:
        return None, []
    try:
        return base64.b64decode(text, validate=True), shape
    except ValueError:
        return None, []


def examples(history: History) -> list[dict[str, Any]]:
    """Return the examples of the newest look at each list, worst first; [] where none were kept.

    Lists come in the order of `KINDS`, and those of training before those of validation, as `stage`
    tells.
    """
    return [
        {
            "kind": name.partition("/")[2].removesuffix("_validation"),
            "place": place,
            "stage": str(seen.get("stage", "train")),
            "samples": seen.get("samples"),
            "found": seen.get("found"),
            "threshold": _number(seen.get("threshold")),
            "why": why(name, example),
            "image": _image(example),
            **{key: _plain(example.get(key)) for key in _FIELDS},
        }
        for name in KINDS
        for place, looks in list(history.shown(name).items())[:MOST_LOSSES]
        for seen in [looks[-1][1]]
        if isinstance(seen, Mapping)
        for example in _listed(seen.get("examples"))
    ]


def _listed(examples: Any) -> list[Mapping[str, Any]]:
    """Return the examples of a list; a file may hold anything there."""
    known = examples if isinstance(examples, list) else []
    return [example for example in known if isinstance(example, Mapping)]


def unseen(history: History) -> list[str]:
    """Return the stages that were watched, and in which no loss of samples was seen."""
    stages = history.meta.get("examples")
    known = stages if isinstance(stages, Mapping) else {}
    return [str(stage) for stage, places in known.items() if not places]


_FIELDS = (
    "step",
    "loss",
    "target",
    "prediction",
    "probability",
    "correct",
    "index",
    "batch",
    "sample",
    "rank",
    "loader",
    "numbers",
    "position",
    "margin",
    "looks",
    "forgotten",
    "learnt",
    "text",
    "name",
)
"""What is told of an example, besides its picture."""


def _image(example: Mapping[str, Any]) -> str | None:
    pixels, shape = _pixels(example)
    if pixels is None or len(shape) != 3:
        return None
    try:
        return data_uri(pixels, *shape)
    except ValueError:
        return None


def _number(value: Any) -> float | str | None:
    return tidy(value) if isinstance(value, int | float) else None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return tidy(value)
    return [_plain(each) for each in value] if isinstance(value, list) else value
