"""Where records go: the history and its file, the loggers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from lightning_diag.history import History
from lightning_diag.probe.recorder import HISTORY_FILE, Recorder, history_folder
from lightning_diag.record import Record


class Logger:
    """Stands in for any experiment logger: takes scalars."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.logged.append((step, dict(metrics)))


def record(step: int) -> Record:
    return Record(
        step=step,
        values={"gradient/total_norm": {"": float(step)}},
        lists={"activation/histogram": {"a": [0.0, 1.0, 2.0, 3.0]}},
    )


def test_records_reach_the_file_at_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a" / "b", [])
    recorder.keep(record(3))
    assert History.open(tmp_path / "a" / "b").steps == [3]
    recorder.close()


def test_without_a_folder_the_history_is_in_memory_alone(tmp_path: Path) -> None:
    recorder = Recorder(None, [])
    recorder.keep(record(3))
    recorder.close()
    assert recorder.history.steps == [3]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("same", [True, False])
def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path: Path, *, same: bool) -> None:
    """Steps after the checkpoint are taken again, and do not count twice."""
    first = Recorder(tmp_path / "old", [])
    for step in range(5):
        first.keep(record(step))
    first.close()
    folder = tmp_path / ("old" if same else "new")
    second = Recorder(folder, [], str(tmp_path / "old"), step=3)
    second.keep(record(3))
    second.close()
    assert second.history.steps == History.open(folder).steps == [0, 1, 2, 3]
    if not same:
        assert History.open(tmp_path / "old").steps == [0, 1, 2, 3, 4]


def test_an_earlier_history_that_is_gone_is_no_trouble(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "new", [], str(tmp_path / "gone"), step=3)
    recorder.keep(record(3))
    assert recorder.history.steps == [3]
    recorder.close()


def test_ranks_that_do_not_write_go_on_with_the_numbers_of_the_first() -> None:
    recorder, numbers = Recorder(None, []), History()
    numbers.append(record(1))
    recorder.adopt(None)
    assert recorder.history is not numbers
    recorder.adopt(numbers)
    recorder.keep(record(2))
    assert numbers.steps == [1, 2]


def logged(recorder: Recorder, step: int, **scalars: float) -> None:
    recorder.keep(record(step))
    recorder.log(scalars, record(step))


def test_loggers_hear_every_name_the_first_time_and_numbers_from_then_on() -> None:
    """P39: tables get all their columns with their first row."""
    loggers = [Logger(), Logger()]
    recorder = Recorder(None, loggers)
    logged(recorder, 0, a=1.0, b=math.nan)
    logged(recorder, 4, a=math.nan, b=math.inf)
    logged(recorder, 5, a=math.nan, b=math.nan)
    logged(recorder, 6)
    for logger in loggers:
        (first, declared), second = logger.logged
        assert first == 0
        assert declared.keys() == {"diag/a", "diag/b"}
        assert second == (4, {"diag/b": math.inf})


def test_loggers_get_the_trainers_step_where_it_differs() -> None:
    logger = Logger()
    recorder = Recorder(None, [logger])
    recorder.keep(record(3), 7)
    recorder.log({"a": 1.0}, record(3))
    assert logger.logged == [(7, {"diag/a": 1.0})]


def test_without_loggers_nothing_is_declared_and_nothing_fails() -> None:
    recorder = Recorder(None, [])
    logged(recorder, 0, a=1.0)
    recorder.show_layers()
    recorder.show_findings([], [])
    recorder.close()
    assert recorder.history.steps == [0]


def test_loggers_that_show_scalars_alone_are_not_asked_for_more() -> None:
    logger = Logger()
    recorder = Recorder(None, [logger])
    logged(recorder, 0)
    recorder.show_findings([], [])
    recorder.close()
    assert logger.logged == []


def test_what_is_drawn_as_a_whole_comes_ever_more_rarely_and_at_the_end() -> None:
    """P19: and its cost is told, so that the budget can be charged with it."""
    recorder = Recorder(None, [Logger()])
    drawn: list[tuple[int, bool]] = []
    recorder._screens.show_layers = (  # type: ignore[method-assign]
        lambda history, step, *, last: drawn.append((step, last))
    )
    told = []
    for step in range(300):
        recorder.keep(record(step))
        told.append(recorder.log({"a": 1.0}, record(step)))
    assert drawn == [(63, False), (255, False)]
    assert [step for step, seconds in enumerate(told) if seconds > 0] == [63, 255]
    recorder.show_layers()
    recorder.close()
    assert drawn[2:] == [(299, True)]


def test_each_run_has_its_own_folder(tmp_path: Path) -> None:
    for expected in ("lightning_diag", "lightning_diag-1", "lightning_diag-2"):
        folder = history_folder(tmp_path, None)
        assert folder == tmp_path / expected
        Recorder(folder, []).close()
        assert (folder / HISTORY_FILE).exists()


def test_a_resumed_run_goes_on_in_its_folder_if_that_is_where_it_would_be(tmp_path: Path) -> None:
    old = tmp_path / "lightning_diag-1"
    assert history_folder(tmp_path, str(old)) == old
    elsewhere = tmp_path / "version_1"
    assert history_folder(elsewhere, str(old)) == elsewhere / "lightning_diag"
