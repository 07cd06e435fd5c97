"""A range test before training: what it suggests, and what of the module's own rate (L1)."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch
from runs import trainer

from checks.subjects import HEALTHY, Plain, made, mlp, table
from checks.traces import differences, everything
from lightning_diag import Preflight
from lightning_diag.before_training import subject
from lightning_diag.checks import run
from lightning_diag.checks.learning_rate_too_high import LearningRateTooHigh
from lightning_diag.checks.range import RangeResult, diverging_rate, range_of
from lightning_diag.lr.range_test import read_curve

RATES = [1e-6 * 1.2**i for i in range(80)]
FALL = [2.0] * 40 + [2.0 - i / 20 for i in range(20)]


def judged(rate: float, losses: list[float], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Judge a learning rate by a curve that is known."""
    result = RangeResult(read_curve(RATES[: len(losses)], losses), rate)
    home = "lightning_diag.checks.learning_rate_too_high.range_of"
    monkeypatch.setattr(home, lambda subject: result)
    return run([LearningRateTooHigh()], subject(*made(HEALTHY["mlp"])))


RISE = [*FALL, *[1.0 + i / 5 for i in range(20)]]


def test_the_diverging_rate_is_where_the_loss_is_back() -> None:
    rate = diverging_rate(read_curve(RATES, RISE))
    assert rate is not None
    assert RATES[63] < rate < RATES[68]


def test_a_rate_near_the_diverging_one_is_found_and_a_lower_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = 0.3 * (diverging_rate(read_curve(RATES, RISE)) or 0.0)
    (found,) = judged(limit, RISE, monkeypatch).findings
    assert (found.severity, found.evidence.value) == ("suspect", limit)
    assert judged(0.99 * limit, RISE, monkeypatch).findings == []


@pytest.mark.parametrize(("losses", "why"), [([2.0] * 80, "never clearly fell"), (FALL, "still")])
def test_a_curve_without_fall_and_rise_says_nothing(
    losses: list[float], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = judged(1.0, losses, monkeypatch)
    assert outcome.findings == []
    assert why in outcome.not_observed[0].reason


def sgd(rate: float) -> Any:
    """Return a small classifier with that learning rate."""
    return Plain(mlp(), optimizer=lambda p: torch.optim.SGD(p, rate)), table()


def test_the_line_has_the_suggestions_and_the_modules_own_rate() -> None:
    result = range_of(subject(*made(lambda: sgd(0.05))))
    assert result.lr == 0.05
    assert "valley" in result.line
    assert "The module's learning rate is 0.05." in result.line


class Counted(Plain):
    """Counts how often it was set up."""

    calls: tuple[str, ...] = ()

    def setup(self, stage: str) -> None:
        """Take note, and fail the second time."""
        assert not self.calls
        self.calls = ("setup",)


def test_a_trainer_that_has_set_the_module_up_is_not_heard_of_again() -> None:
    module, data = Counted(mlp()), table()
    before = torch.get_rng_state()
    watcher = Preflight(["lr-range"])
    trainer(watcher, max_steps=1).fit(module, data)
    assert [each.reason for each in watcher.not_observed if "failed" in each.reason] == []
    assert module.calls == ("setup",)
    assert not torch.equal(before, torch.get_rng_state())  # of the training itself


@pytest.mark.parametrize("kind", ["mlp", "stream", "two loaders"])
def test_a_range_test_leaves_no_trace(kind: str) -> None:
    """P26."""
    module, data = made(HEALTHY[kind])
    before = everything(module, data)
    outcome = run([LearningRateTooHigh()], subject(module, data))
    assert differences(before, everything(module, data)) == []
    assert outcome.findings == []
    assert [each for each in outcome.not_observed if "failed" in each.reason] == []


def test_manual_optimisation_is_not_observed() -> None:
    outcome = run([LearningRateTooHigh()], subject(*made(HEALTHY["gan"])))
    assert "manual optimisation" in outcome.not_observed[0].reason


def test_ctrl_c_in_the_middle_reaches_the_user_and_its_handler_stays() -> None:
    """Lightning's trainer would end the process."""

    class Interrupted(Plain):
        steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            type(self).steps += 1
            if self.steps == 9:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    module, data = Interrupted(mlp()), table()
    before, handler = everything(module, data), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run([LearningRateTooHigh()], subject(module, data))
    assert signal.getsignal(signal.SIGINT) is handler
    assert differences(before, everything(module, data)) == []


def test_a_test_that_takes_too_long_is_not_run() -> None:
    (unjudged,) = run(
        [LearningRateTooHigh(seconds=1e-6)], subject(*made(HEALTHY["mlp"]))
    ).not_observed
    assert "may be taken: call `lr_range_test`" in unjudged.reason
