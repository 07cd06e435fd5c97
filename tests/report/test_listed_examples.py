"""Samples on lists: what the page and the terminal say of them, and why (W13)."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.report.console import summary
from lightning_diag.report.examples import suspicious, suspicious_lines, why
from lightning_diag.report.payload.pictures import examples

COURSE = {"margin": -0.884, "looks": 10, "forgotten": 0, "learnt": False}
ONE = {"index": 1111, "target": 4, "prediction": 2, "probability": 0.96, "loss": 8.0, **COURSE}


def followed(labels: int = 2, **more: Any) -> History:
    """Return a history with suspicious labels, and the list of highest losses."""
    history = History()
    history.append(Record(step=0, values={"loss/train": {"": 1.0}}))
    shown = [{**ONE, "index": 1111 + i, **more} for i in range(labels)]
    content = {"stage": "train", "samples": 1797, "found": 76, "examples": shown}
    history.show("example/worst", "ce#0", 5, {**content, "found": 1797})
    history.show("example/suspicious", "ce#0", 5, {**content, "threshold": -0.56})
    return history


@pytest.mark.parametrize(
    ("name", "changed", "text"),
    [
        ("suspicious", {}, "Another class was likelier by 88% over 10 looks; never right."),
        (
            "suspicious",
            {"learnt": True, "looks": 1},
            "Another class was likelier by 88% over 1 look; right at times.",
        ),
        ("never_learnt", {}, "Answered wrongly at each of 10 looks."),
        ("forgotten", {"forgotten": 1}, "Answered right and then wrong again 1 time in 10 looks."),
        ("worst", {}, ""),
        ("suspicious", {"margin": None}, ""),
        ("suspicious", {"looks": "broken"}, ""),
    ],
)
def test_the_reason_is_one_sentence_of_measured_numbers(
    name: str, changed: dict[str, Any], text: str
) -> None:
    assert why(f"example/{name}", {**ONE, **changed}) == text


def test_the_page_gets_suspicious_labels_first_with_their_reasons() -> None:
    found = examples(followed())
    assert [one["kind"] for one in found] == ["suspicious"] * 2 + ["worst"] * 2
    first = found[0]
    assert (first["index"], first["target"], first["prediction"]) == (1111, 4, 2)
    assert (first["found"], first["samples"], first["threshold"]) == (76, 1797, -0.56)
    assert first["why"].startswith("Another class was likelier by 88%")


def test_the_terminal_names_a_few_and_says_where_all_are() -> None:
    lines = suspicious_lines(followed(labels=9))
    assert lines[0] == "76 of 1,797 labels. Look at these samples first:"
    assert lines[1] == (
        "1111: labelled 4, the network says 2, 96% sure. Another class was likelier by 88% over 10 "
        "looks; never right."
    )
    assert len(lines) == 1 + 5 + 1
    assert lines[-1] == "and 71 more: `WorstExamples.suspicious` has all of them"
    out = Console(file=io.StringIO(), width=80)
    summary([], followed(), console=out)
    assert isinstance(out.file, io.StringIO)
    text = " ".join(out.file.getvalue().split())
    assert "Suspicious 76 of 1,797 labels" in text
    assert "1112: labelled 4, the network says 2" in text


def test_names_of_files_steer_no_terminal() -> None:
    (_, line, *_) = suspicious_lines(followed(name="cat\x1b[2J.png"))
    assert "(cat\\x1b[2J.png)" in line


@pytest.mark.parametrize("content", [None, [], {"examples": 3}, {"examples": [7]}, {}])
def test_without_suspicious_labels_nothing_is_said(content: Any) -> None:
    """A file may hold anything."""
    history = History()
    assert suspicious_lines(history) == []
    history.show("example/suspicious", "ce#0", 0, content)
    assert suspicious(history) is None
    assert examples(history) == []
