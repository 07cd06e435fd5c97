"""What is shown: kept in a bounded number, read back, superseded, and passed over if unknown."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from history_checks import lines_of, record, write

from lightning_diag.history import History
from lightning_diag.history.shelf import MOST, Shelf

NAME, PLACE = "filter/pixels", "net.0.weight"


def steps(history: History, place: str = PLACE) -> list[int]:
    return [step for step, _ in history.shown(NAME)[place]]


def shown(history: History, until: int, every: int = 1) -> History:
    """Append a record for each step, and show something at some of them."""
    for step in range(until):
        if step % every == 0:
            history.show(NAME, PLACE, step, {"pixels": f"of {step}"})
        history.append(record(step))
    return history


def test_a_history_shows_what_it_was_given_by_place_and_step() -> None:
    history = History()
    history.show(NAME, PLACE, 3, {"shape": (1, 2), "limit": float("nan")})
    history.show(NAME, "other", 4, [])
    history.show("example/worst", PLACE, 5, "text")
    assert history.shown(NAME) == {
        PLACE: [(3, {"shape": [1, 2], "limit": "nan"})],
        "other": [(4, [])],
    }
    assert history.shown("nothing") == {}


@pytest.mark.parametrize("count", [MOST, MOST + 1, 500])
def test_sixteen_steps_are_kept_first_newest_and_an_even_spread(count: int) -> None:
    shelf = Shelf()
    for step in range(count):
        shelf.put(NAME, PLACE, step, step)
        assert len(shelf.of(NAME)[PLACE]) == min(step + 1, MOST)
    kept = [step for step, _ in shelf.of(NAME)[PLACE]]
    assert (kept[0], kept[-1]) == (0, count - 1)
    gaps = [b - a for a, b in pairwise(kept[:-1])]
    assert max(gaps) <= 4 * min(gaps)


def test_a_file_gives_back_what_was_shown_also_after_a_crash(tmp_path: Path) -> None:
    """A torn last line costs what it says, and nothing else."""
    path = tmp_path / "history.jsonl"
    history = shown(History(path), 4)
    history.close()
    assert History.open(path).shown(NAME) == history.shown(NAME)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"shown":{"name":"filter/pixels","pla')
    assert steps(History.open(path)) == [0, 1, 2, 3]
    assert steps(History(path)) == [0, 1, 2, 3]


def test_a_resumed_run_supersedes_what_was_shown_from_its_step_on(tmp_path: Path) -> None:
    """P25: pictures of a future that was given up are gone, in memory and in the file."""
    path = tmp_path / "history.jsonl"
    history = shown(History(path), 8, every=2)
    history.resume(4)
    assert steps(history) == [0, 2]
    history.show(NAME, PLACE, 5, {})
    history.close()
    assert steps(History.open(path)) == [0, 2, 5]
    elsewhere = History.continue_from(path, tmp_path / "new.jsonl", 3)
    assert steps(elsewhere) == [0, 2]
    elsewhere.close()
    assert steps(History.open(tmp_path / "new.jsonl")) == [0, 2]


def test_the_same_step_shown_again_is_replaced() -> None:
    history = History()
    for text in ("old", "new"):
        history.show(NAME, PLACE, 7, text)
    assert history.shown(NAME)[PLACE] == [(7, "new")]


def test_what_is_shown_survives_thinning_and_a_file_that_is_written_anew(tmp_path: Path) -> None:
    """The file outgrows its limit many times, and keeps to it."""
    path = tmp_path / "history.jsonl"
    history = History(path, max_bytes=20_000)
    for step in range(2000):
        history.append(record(step))
        if step % 10 == 0:
            history.show(NAME, PLACE, step, {"pixels": "x" * 100})
    assert len(history.shown(NAME)[PLACE]) == MOST
    assert path.stat().st_size <= 20_000
    history.close()
    assert History.open(path).shown(NAME) == history.shown(NAME)


def test_readers_that_do_not_know_the_kind_pass_over_it(tmp_path: Path) -> None:
    """The page says so: an older reader finds the records as ever."""
    path = tmp_path / "history.jsonl"
    shown(History(path), 3).close()
    kinds = [next(iter(line)) for line in lines_of(path)]
    assert kinds.count("shown") == 3
    renamed = path.read_text().replace('{"shown":', '{"unheard-of":')
    path.write_text(renamed)
    assert History.open(path).steps == [0, 1, 2]


@pytest.mark.parametrize("content", [{}, {"name": "a"}, {"name": "a", "place": "b", "step": "x"}])
@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_a_line_that_makes_no_sense_costs_only_itself(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    path = tmp_path / "history.jsonl"
    write(path, 0, 1).close()
    with path.open("a") as file:
        file.write(json.dumps({"shown": content}) + "\n")
    found = History.open(path)
    assert found.steps == [0, 1]
    assert found.shown("a") == {}
