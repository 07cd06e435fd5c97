"""History files of every schema there was are read and judged as on the day they were written.

The file of schema 1 is a real run of 24 steps, watched at each: four of six first ReLUs are dead
from the start, the run broke at step 15, was resumed at step 12, and breaks at step 20. A file is
never written anew; a new schema adds one.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.history.text import SCHEMA
from lightning_diag.rules import default_rules
from lightning_diag.rules.diagnosis import Diagnosis

DATA = Path(__file__).parent / "data"
FILES = [DATA / f"history-schema-{schema}.jsonl" for schema in range(1, SCHEMA + 1)]


def judged(history: History) -> dict[str, Finding]:
    """Return what today's rules find, by code."""
    diagnosis = Diagnosis(default_rules())
    diagnosis.update(history)
    return {finding.code: finding for finding in diagnosis.findings}


def test_there_is_a_file_of_each_schema() -> None:
    assert sorted(DATA.glob("history-schema-*.jsonl")) == FILES
    for schema, file in enumerate(FILES, 1):
        assert json.loads(file.read_text().partition("\n")[0]) == {"schema": schema}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_old_file_is_judged_as_ever(file: Path, tmp_path: Path) -> None:
    history = History.open(file)
    (broken,) = judged(history).values()
    assert (broken.code, broken.severity, broken.steps) == ("non-finite", "bad", (20, 23))
    assert broken.places == ("net.1/relu#0", "net.3/relu#0")
    assert broken.evidence.value == 48
    (stored,) = (finding for finding in history.findings if finding.code == "non-finite")
    assert (stored.steps, stored.places) == (broken.steps, broken.places)
    with History.continue_from(file, tmp_path / "before.jsonl", 20) as before:
        (dead,) = judged(before).values()
    assert (dead.code, dead.severity, dead.steps) == ("dead-relu", "suspect", (0, 19))
    assert dead.places[0] == "net.1/relu#0"
    assert dead.evidence.value == pytest.approx(4 / 6, rel=1e-5)


def test_every_kind_of_line_of_schema_1_is_read() -> None:
    history = History.open(FILES[0])
    assert history.steps == list(range(24))
    assert len(history.metrics()) == 78
    assert history.series("loss/train").values[:2] == [1.09854, 1.21186]
    assert math.isnan(history.series("loss/train").values[20])
    assert history.series("gradient/norm", "net.0.weight").values[3] == 0.0691798
    assert history.series("validation/val_loss").steps == [5, 11, 17, 23]
    assert (
        history.series("dead_relu/fraction", "net.1/relu#0").values[-5:] == [0.666667] + [0.0] * 4
    )
    assert history.lists("dead_relu/units", "net.1/relu#0", 1)[0][1] == [0, 1, 2, 3]
    assert history.lists("activation/histogram", "net.1/relu#0")
    assert history.meta["trainer"]["max_epochs"] == 4
    assert [finding.code for finding in history.findings] == ["dead-relu", "non-finite"]
    assert [record.epoch for record in history.records()][::6] == [0, 1, 2, 3]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_old_file_goes_on_in_todays_schema(file: Path, tmp_path: Path) -> None:
    old = History.open(file)
    with History.continue_from(file, tmp_path / "new.jsonl", 12) as continued:
        assert continued.steps == list(range(12))
    lines = (tmp_path / "new.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"schema": SCHEMA}
    again = History.open(tmp_path / "new.jsonl")
    assert repr(list(again.records())) == repr(list(old.records())[:12])
    assert again.meta == old.meta


def test_a_newer_file_is_one_sentence_that_says_what_to_do(tmp_path: Path) -> None:
    first, *rest = FILES[-1].read_text().splitlines(keepends=True)
    path = tmp_path / "history.jsonl"
    path.write_text("".join([first.replace(str(SCHEMA), str(SCHEMA + 1)), *rest]))
    with pytest.raises(ValueError, match=r"update lightning_diag to read it\.$") as caught:
        History.open(tmp_path)
    assert str(caught.value).count(".") == 2
    assert f"schema {SCHEMA + 1} " in str(caught.value)
