"""The lines of a history file: numbers to text and back."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from lightning_diag.finding import Finding
from lightning_diag.history.curve import Stretch
from lightning_diag.history.layout import SHAPES, Layout, Row, Shape, compact_index

SCHEMA = 1
"""Version of the format, raised when an older reader would misread it."""

_META: dict[str, type] = {
    **dict.fromkeys(("parameters", "sites", "losses", "modules", "trainer", "dropout"), dict),
    **dict.fromkeys(("validation", "not_judged", "muted", "versions"), dict),
    "optimizers": list,
}

WHOLE = 2.0**53
"""Up to here a float holds every whole number exactly."""


def line(kind: str, content: object) -> bytes:
    r"""Return a line of the file.

    Example:
        >>> line("resume", 120)
        b'{"resume":120}\n'
    """
    text = json.dumps({kind: plain(content)}, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def plain(value: object) -> Any:
    """Return a value as JSON gives it back; what JSON cannot hold becomes text.

    Example:
        >>> plain({"shape": (2, 3), "loss": float("nan")})
        {'shape': [2, 3], 'loss': 'nan'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _word(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value if value is None or isinstance(value, (bool, str)) else str(value)


def shown_line(name: str, place: str, step: int, content: object) -> bytes:
    """Return the line of something that is shown, such as pictures, in plain values already."""
    shown = {"name": name, "place": place, "step": step, "content": content}
    text = json.dumps({"shown": shown}, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def number_texts(numbers: Sequence[float]) -> list[str]:
    """Return numbers as JSON with 6 significant digits, whole numbers exactly.

    Example:
        >>> number_texts([0.123456789, 1234567.0, float("nan")])
        ['0.123457', '1234567', '"nan"']
    """
    if not numbers:
        return []
    # One formatting of all: a call for each number takes three times as long.
    text = "%.6g," * len(numbers) % tuple(numbers)
    texts = text[:-1].split(",")
    if "n" in text or "e+" in text:
        for i, item in enumerate(texts):
            if "n" in item or "e+" in item:
                texts[i] = _special_text(numbers[i], item)
    return texts


def _special_text(value: float, text: str) -> str:
    if not math.isfinite(value):
        return f'"{_word(value)}"'
    return str(int(value)) if value.is_integer() and abs(value) <= WHOLE else text


def _word(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def record_line(row: Row, dense: Mapping[str, Stretch]) -> bytes:
    """Return the line of a record, with the stretch of each dense metric that it carries."""
    values = _template(row.shape) % tuple(number_texts(row.numbers))
    text = (
        f'{{"record":{{"step":{row.step},"epoch":{row.epoch},'
        f'"seconds":{json.dumps(plain(round(row.seconds, 3)))},'
        f'"optimizer_steps":{json.dumps(row.optimizer_steps)},"values":{{{values}}}'
    )
    if dense:
        text += f',"dense":{{{_dense_text(dense, row.step)}}}'
    if row.lists:
        lists = (f"{json.dumps(m)}:{_lists_text(places)}" for m, places in row.lists.items())
        text += f',"lists":{{{",".join(lists)}}}'
    return text.encode("ascii") + b"}}\n"


def dense_line(dense: Mapping[str, Stretch]) -> bytes:
    """Return the line of dense values that no record carries."""
    return f'{{"dense":{{{_dense_text(dense, None)}}}}}\n'.encode("ascii")


@lru_cache(maxsize=SHAPES)
def _template(shape: Shape) -> str:
    """Return the text of a row's values, with a gap for each number."""
    columns = []
    for metric, index in shape.indices.items():
        slots = ["null"] * (index[-1] + 1)
        for i in index:
            slots[i] = "%s"
        columns.append(f"{json.dumps(metric).replace('%', '%%')}:[{','.join(slots)}]")
    return ",".join(columns)


def _dense_text(dense: Mapping[str, Stretch], step: int | None) -> str:
    items = []
    for metric, stretch in dense.items():
        text = f"[{','.join(number_texts(stretch.values))}]"
        if step is None or not stretch.is_unbroken(step):
            text = f'{{"steps":[{",".join(map(str, stretch.steps))}],"values":{text}}}'
        items.append(f"{json.dumps(metric)}:{text}")
    return ",".join(items)


def _lists_text(places: Mapping[int, Sequence[float]]) -> str:
    slots = ["null"] * (max(places) + 1)
    for i, values in places.items():
        slots[i] = f"[{','.join(number_texts(values))}]"
    return f"[{','.join(slots)}]"


def parse_record(content: Mapping[str, Any], layout: Layout) -> Row:
    """Return the row of a record line; `ValueError` and the like where it makes no sense."""
    indices: dict[str, Sequence[int]] = {}
    numbers: array[float] = array("d")
    for metric, column in content["values"].items():
        _check_places(layout, metric, column)
        present: Sequence[int] = range(len(column))
        if None in column:
            present = compact_index([i for i, value in enumerate(column) if value is not None])
            column = [value for value in column if value is not None]  # noqa: PLW2901
        if present:
            indices[metric] = present
            numbers.extend(_parse_numbers(column))
    lists: dict[str, dict[int, array[float]]] = {}
    for metric, column in content.get("lists", {}).items():
        _check_places(layout, metric, column)
        lists[metric] = {i: _parse_numbers(v) for i, v in enumerate(column) if v is not None}
    lists = {metric: places for metric, places in lists.items() if places}
    return Row(
        step=int(content["step"]),
        epoch=int(content["epoch"]),
        seconds=float(content["seconds"]),
        optimizer_steps=tuple(map(int, content["optimizer_steps"])),
        shape=layout.shape(indices),
        numbers=numbers,
        lists=lists,
    )


def parse_dense(content: Mapping[str, Any], step: int) -> dict[str, Stretch]:
    """Return the dense values of a line by metric; a bare list of them ends at `step`."""
    stretches: dict[str, Stretch] = {}
    for metric, item in content.items():
        if isinstance(item, dict):
            stretch = Stretch(array("q", item["steps"]), _parse_numbers(item["values"]))
            ascending = sorted(set(stretch.steps)) == stretch.steps.tolist()
            if len(stretch.steps) != len(stretch.values) or not ascending:
                raise ValueError(f"The steps of {metric!r} must ascend, one for each value.")
            stretches[metric] = stretch
        else:
            stretches[metric] = Stretch.ending(step, _parse_numbers(item))
    return stretches


def parse_note(content: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the numbers of a note by metric and place."""
    return {
        metric: {place: float(value) for place, value in places.items()}
        for metric, places in content.items()
    }


def parse_meta(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata of a line; `ValueError` where a key is not what every reader expects."""
    for key, kind in _META.items():
        if key in content and not isinstance(content[key], kind):
            raise ValueError(f"The metadata {key!r} must be a {kind.__name__}.")
    for key in ("parameters", "sites", "losses"):
        if not all(isinstance(about, dict) for about in content.get(key, {}).values()):
            raise ValueError(f"The metadata {key!r} must hold a dict for each place.")
    return content


def parse_finding(content: Mapping[str, Any]) -> Finding:
    """Return the finding of a line."""
    evidence = {
        name: float(value) if isinstance(value, str) else value
        for name, value in content["evidence"].items()
    }
    return Finding.from_dict({**content, "evidence": evidence})


def _check_places(layout: Layout, metric: str, column: Sequence[object]) -> None:
    if len(column) > len(layout.places(metric)):
        raise ValueError(f"{metric!r} has fewer than {len(column)} places.")


def _parse_numbers(values: Sequence[float | str]) -> array[float]:
    try:
        return array("d", values)  # type: ignore[arg-type]  # those with words go on below
    except TypeError:
        return array("d", [float(value) for value in values])
