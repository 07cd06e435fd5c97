"""The page is written while the run goes on, and whatever ends it; it costs no more than it may."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import EVERY_STEP, Classifier, Evaluated, data, seeded, trainer
from torch import Tensor

from lightning_diag import Doctor
from lightning_diag import doctor as doctor_module
from lightning_diag.history import History
from lightning_diag.probe.schedule import Budget, Times, overhead
from lightning_diag.report.html import write_html
from lightning_diag.report.live_page import PART, SECONDS, LivePage
from lightning_diag.warning import DiagWarning

PAGE = Path("lightning_diag/report.html")


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told() -> dict[str, Any]:
    """Return the payload of the page that lies there now."""
    found = re.search(r'id="run">(.*?)</script>', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    payload: dict[str, Any] = json.loads(found.group(1))
    return payload


# --- when ---


def test_the_page_is_written_at_most_once_a_minute() -> None:
    clock = Clock()
    page = LivePage(0.01, clock=clock)
    written = []
    for _ in range(600):
        clock.now += 1.0
        page.refresh(lambda: written.append(clock.now))
    assert written == [100.0 + SECONDS * i for i in range(1, 11)]


@given(st.floats(1e-4, 1.0), st.lists(st.floats(0.0, 30.0), min_size=1, max_size=20))
def test_writing_costs_at_most_its_part_of_what_watching_may(
    share: float, costs: list[float]
) -> None:
    clock = Clock()
    page = LivePage(share, clock=clock)
    ends: list[float] = []

    def write(seconds: float) -> None:
        clock.now += seconds

    for cost in costs:
        clock.now += page.wait + 1e-3
        before = clock.now
        assert page.refresh(lambda cost=cost: write(cost)) == pytest.approx(cost, abs=1e-6)  # type: ignore[misc]
        if ends:
            assert before - ends[-1] >= SECONDS
        ends.append(clock.now)
        assert cost <= PART * share * page.wait + 1e-6


def test_a_page_that_cannot_be_written_is_told_once_and_not_tried_again() -> None:
    clock = Clock()
    page = LivePage(0.01, clock=clock)
    tries = []

    def fail() -> None:
        tries.append(clock.now)
        raise OSError("disk full")

    clock.now += SECONDS
    with pytest.warns(DiagWarning, match="not refreshed until the end: OSError: disk full"):
        page.refresh(fail)
    clock.now += 1e6
    assert page.refresh(fail) == 0.0
    assert len(tries) == 1


# --- the budget ---

TIMES = Times(plain=0.1, watched=0.2, after=0.1)


def test_what_the_page_cost_puts_off_the_next_look() -> None:
    budget = Budget(every_n_steps=1, max_overhead=0.01, startup_seconds=0.0)
    plain, charged = (budget.next_step(10_000, 50, TIMES, extra) for extra in (0.0, 8.0))
    assert plain == 10_001
    assert charged > plain


def test_what_the_page_cost_is_counted_as_cost_of_watching() -> None:
    without, with_page = (overhead(1000, 10, TIMES, extra) for extra in (0.0, 2.0))
    assert without == pytest.approx(1 / 101)
    assert with_page == pytest.approx(3 / 103)


# --- in a fit ---


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Write the page at every record and note; give the payload of each page so written."""
    shown: list[Any] = []
    real = write_html

    def spy(*arguments: Any, **options: Any) -> Path:
        path = real(*arguments, **options)
        shown.append(told())
        return path

    monkeypatch.setattr("lightning_diag.report.live_page.SECONDS", -1.0)
    monkeypatch.setattr("lightning_diag.report.live_page.PART", 1e12)
    monkeypatch.setattr(doctor_module, "write_html", spy)
    return shown


def test_the_page_of_a_running_fit_says_so_and_the_last_one_that_it_has_ended(
    eager: list[Any],
) -> None:
    trainer(Doctor(**EVERY_STEP)).fit(Classifier(), data())
    *during, last = eager
    assert len(during) >= 11
    assert {page["state"] for page in during} == {"running"}
    assert (last["state"], last["ended"]) == ("ended", "finished")
    assert [page["axis"]["step"][-1] for page in during][:3] == [0, 1, 2]


def test_a_validation_is_on_the_page_as_soon_as_it_has_ended(eager: list[Any]) -> None:
    class Logs(Evaluated):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", 0.5)

    trainer(Doctor(**EVERY_STEP), max_epochs=2).fit(Logs(), data(), data())
    seen = [page["loss"]["validation"] for page in eager if page["state"] == "running"]
    assert {"name": "val_loss", "step": [5], "value": [0.5]} in seen


def test_writing_during_the_fit_changes_nothing_of_it(eager: list[Any]) -> None:
    def weights(*callbacks: Any) -> Tensor:
        def run() -> Tensor:
            module = Classifier()
            trainer(*callbacks).fit(module, data(shuffle=True))
            return torch.cat([p.detach().flatten() for p in module.parameters()])

        result: Tensor = seeded(run)
        return result

    assert torch.equal(weights(), weights(Doctor(**EVERY_STEP)))
    assert eager


def test_a_page_that_cannot_be_written_stops_neither_fit_nor_summary(
    monkeypatch: pytest.MonkeyPatch, eager: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: Any, **options: Any) -> Path:
        raise RuntimeError("no template")

    monkeypatch.setattr(doctor_module, "write_html", fail)
    fit = trainer(Doctor(**EVERY_STEP))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DiagWarning)
        fit.fit(Classifier(), data())
    said = [str(w.message) for w in caught if issubclass(w.category, DiagWarning)]
    assert [text for text in said if "no template" in text] == [
        "The report is not refreshed until the end: RuntimeError: no template",
        "The report could not be written: no template",
    ]
    assert fit.global_step == 12
    assert "lightning_diag" in capsys.readouterr().out


class Breaks(Classifier):
    """Raises in its training step, as a bug or Ctrl-C does."""

    def __init__(self, error: Callable[[str], BaseException]) -> None:
        super().__init__()
        self.error = error

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Raise in the eighth step."""
        if self.trainer.global_step == 7:
            raise self.error("on purpose")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.cuda.OutOfMemoryError])
def test_a_run_that_died_has_its_page_and_history_and_both_say_how(
    error: type[BaseException],
) -> None:
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        trainer(Doctor(**EVERY_STEP)).fit(Breaks(error), data())
    shown = told()
    assert (shown["state"], shown["ended"]) == ("ended", error.__name__)
    assert shown["axis"]["step"] == list(range(7))
    stored = History.open("lightning_diag")
    assert stored.meta["ended"] == error.__name__
    write_html(stored, stored.findings, PAGE)
    again = told()
    for key in ("state", "ended", "sentence", "findings", "facts", "layers", "environment"):
        assert again[key] == shown[key]
    assert again["axis"]["step"] == shown["axis"]["step"]


def test_a_fit_within_the_handling_of_another_error_has_not_died_of_that() -> None:
    doctor = Doctor(**EVERY_STEP)
    try:
        int("another")
    except ValueError:
        trainer(doctor, max_epochs=1).fit(Classifier(), data())
    assert doctor.history.meta["ended"] == "finished"


def test_a_resumed_run_has_not_ended_until_it_does(tmp_path: Path, eager: list[Any]) -> None:
    first = trainer(Doctor(**EVERY_STEP), max_epochs=1, default_root_dir=tmp_path)
    first.fit(Classifier(), data())
    first.save_checkpoint("last.ckpt")
    eager.clear()
    again = trainer(Doctor(**EVERY_STEP), max_epochs=2, default_root_dir=tmp_path)
    again.fit(Classifier(), data(), ckpt_path="last.ckpt")
    *during, last = eager
    assert {(page["state"], page["ended"]) for page in during} == {("running", "")}
    assert (last["state"], last["ended"]) == ("ended", "finished")


def test_what_the_page_cost_is_in_the_runs_own_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LivePage, "refresh", lambda self, write: 1e6)
    doctor = Doctor(every_n_steps=4, max_overhead=1e9, startup_seconds=1e9)
    trainer(doctor, max_epochs=20).fit(Classifier(), data())
    shares = doctor.history.series("overhead/fraction").values
    assert shares[-1] > 0.99
