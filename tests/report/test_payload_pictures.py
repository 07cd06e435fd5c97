"""Pictures and histograms: exactly what was kept, and nothing from a file that holds nonsense."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import pytest

from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.report.payload.histograms import MOST_PLACES, MOST_STEPS, histogram_rows
from lightning_diag.report.payload.layers import Tree
from lightning_diag.report.payload.pictures import MOST_LOOKS, examples, filters, unseen
from lightning_diag.report.payload.png import data_uri


def pixels_of(uri: str) -> tuple[tuple[int, int], list[tuple[int, ...]]]:
    """Decode a PNG of ours: width and height, and its pixels row by row."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert data[at + 8 + length : at + 12 + length] == struct.pack(
            ">I", zlib.crc32(name + content)
        )
        chunks[name] = content
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    assert depth == 8
    rows = zlib.decompress(chunks[b"IDAT"])
    size = width * channels + 1
    assert (len(rows), {rows[i * size] for i in range(height)}) == (height * size, {0})
    body = b"".join(rows[i * size + 1 : (i + 1) * size] for i in range(height))
    return (width, height), [tuple(body[i : i + channels]) for i in range(0, len(body), channels)]


def kept(pixels: bytes, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"shape": shape, "pixels": base64.b64encode(pixels).decode(), **more}


def test_filters_of_a_look_are_one_picture_side_by_side() -> None:
    """W9."""
    history = History()
    for step in (0, 50):
        content = kept(bytes(range(12)), [3, 2, 2, 1], limit=0.5, smoothness=0.25, filters=3)
        history.show("filter/pixels", "net.0.weight", step, content)
    (shown,) = filters(history)
    assert (shown["place"], shown["step"], shown["columns"]) == ("net.0.weight", [0, 50], 3)
    assert (shown["smoothness"], shown["limit"]) == ([0.25, 0.25], [0.5, 0.5])
    size, pixels = pixels_of(shown["images"][1])
    gap = (0, 0)
    rows = [[0, 1, None, 4, 5, None, 8, 9], [2, 3, None, 6, 7, None, 10, 11]]
    assert size == (8, 2)
    assert pixels == [gap if v is None else (v, 255) for row in rows for v in row]


def test_filters_of_colour_keep_their_colours() -> None:
    history = History()
    history.show("filter/pixels", "w", 0, kept(bytes([9, 8, 7, 6, 5, 4]), [2, 1, 1, 3]))
    size, pixels = pixels_of(filters(history)[0]["images"][0])
    assert (size, pixels) == ((3, 1), [(9, 8, 7, 255), (0, 0, 0, 0), (6, 5, 4, 255)])


def test_of_many_looks_the_first_and_the_newest_stay() -> None:
    history = History()
    for step in range(14):
        history.show("filter/pixels", "w", step, kept(bytes(4), [1, 2, 2, 1]))
    steps = filters(history)[0]["step"]
    assert len(steps) == MOST_LOOKS
    assert (steps[0], steps[-1]) == (0, 13)


def test_worst_examples_have_picture_target_prediction_and_loss() -> None:
    """W13."""
    history = History()
    example = kept(bytes([1, 2, 3, 4, 5, 6]), [1, 2, 3], loss="inf", target=3, prediction=5)
    seen = {"stage": "validation", "samples": 64, "examples": [{**example, "index": 17}]}
    history.show("example/worst", "cross_entropy#0", 4, {"examples": []})
    history.show("example/worst", "cross_entropy#0", 9, seen)
    (shown,) = examples(history)
    told = ("place", "stage", "samples", "loss", "target", "prediction", "index")
    assert [shown[key] for key in told] == ["cross_entropy#0", "validation", 64, "inf", 3, 5, 17]
    assert pixels_of(shown["image"]) == ((2, 1), [(1, 2, 3), (4, 5, 6)])


def test_examples_of_validation_come_after_those_of_training_with_their_loader() -> None:
    """W13: each by its stage, also where both have the same loss call."""
    history = History()
    for name, stage in (("worst_validation", "validation"), ("worst", "train")):
        one = {"loss": 2.5, "index": 3, "loader": 1 if stage == "validation" else None}
        content = {"stage": stage, "samples": 9, "examples": [one]}
        history.show(f"example/{name}", "cross_entropy#0", 4, content)
    shown = [(each["stage"], each["loader"]) for each in examples(history)]
    assert shown == [("train", None), ("validation", 1)]


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, []),
        ({"examples": {"validation": ["mse_loss#0"]}}, []),
        ({"examples": {"validation": []}}, ["validation"]),
        ({"examples": "broken"}, []),
    ],
)
def test_a_stage_without_a_loss_of_samples_is_told(meta: Any, expected: list[str]) -> None:
    """Not observed, never none; files from before that do not say are read all the same."""
    history = History()
    history.update_meta(meta)
    assert unseen(history) == expected


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {"shape": [1, 2], "pixels": "AA=="},
        {"shape": [1, 2, 2, 1], "pixels": "AA=="},
        {"shape": [1, 1, 1, 1], "pixels": "not base64"},
        {"shape": [10**6, 10**6, 1, 1], "pixels": ""},
        {"shape": [1, 1, 1, 2], "pixels": "AAA="},
        {"shape": ["<b>", 1, 1, 1], "pixels": 3},
    ],
)
def test_what_is_no_picture_is_left_out(content: Any) -> None:
    """A history file may hold anything."""
    history = History()
    history.show("filter/pixels", "w", 0, content)
    history.show("example/worst", "loss#0", 0, {"examples": [content]})
    assert filters(history) == []
    assert [each["image"] for each in examples(history)] in ([], [None])


def test_a_picture_whose_sizes_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 x 2 x 1 takes 4 bytes, got 3"):
        data_uri(bytes(3), 2, 2, 1)


def test_without_pictures_there_are_none() -> None:
    assert (filters(History()), examples(History())) == ([], [])


# --- histograms ---


def test_histograms_are_shown_by_place_and_kind_over_time() -> None:
    """W8."""
    history = History()
    for step in (0, 8):
        lists = {
            "activation/histogram": {"a/relu#0": [0.0, 2.5, 3.0, 1.0]},
            "weight/histogram": {"a.weight": [-1.0, 1.0, 5.0, 7.0]},
        }
        history.append(Record(step, {}, {}, lists))
    shown = histogram_rows(history, Tree(history), ())
    assert [(each["kind"], each["place"]) for each in shown] == [
        ("activation", "a/relu#0"),
        ("weight", "a.weight"),
    ]
    first = shown[0]
    assert (first["steps"], first["low"], first["high"]) == ([0, 8], [0, 0], [2.5, 2.5])
    assert first["counts"] == [[3, 1], [3, 1]]


def test_a_histogram_without_a_width_or_with_nan_is_not_shown() -> None:
    history = History()
    for step, values in enumerate(([1.0, 1.0, 3.0, 1.0], [0.0, float("nan"), 3.0, 1.0], [1.0])):
        history.append(Record(step, {}, {}, {"activation/histogram": {"a": values}}))
    assert histogram_rows(history, Tree(history), ()) == []


def test_of_many_histograms_some_places_and_steps_stay_and_those_of_findings() -> None:
    history = History()
    names = [f"n{i}/relu#0" for i in range(200)]
    for step in range(60):
        lists = {"activation/histogram": {name: [0.0, 1.0, 1.0, 2.0] for name in names}}
        history.append(Record(step, {}, {}, lists))
    shown = histogram_rows(history, Tree(history), ["n77/relu#0"])
    assert len(shown) == MOST_PLACES
    assert "n77/relu#0" in [each["place"] for each in shown]
    assert all(len(each["steps"]) == MOST_STEPS for each in shown)
    assert (shown[0]["steps"][0], shown[0]["steps"][-1]) == (0, 59)
