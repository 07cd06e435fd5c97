"""`Doctor` in real fits: what it finds, says, writes, remembers and stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import EVERY_STEP, Classifier, Net, data, trainer
from torch import Tensor, nn

from lightning_diag import (
    DeadReLUTracker,
    DiagWarning,
    Doctor,
    Finding,
    GradientMonitor,
    History,
    LossMonitor,
    UpdateRatioLogger,
)
from lightning_diag.report import console
from lightning_diag.rules.dead_relu import DeadRelu
from lightning_diag.rules.diagnosis import Diagnosis


class Poisoned(Classifier):
    """Computes NaN from a given step on."""

    def __init__(self, step: int = 5) -> None:
        super().__init__(optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))
        self.step = step

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss, or NaN."""
        x, y = batch
        if self.trainer.global_step >= self.step:
            x = x * float("nan")
        return super().training_step((x, y), batch_idx)


def codes(doctor: Doctor) -> list[str]:
    return [finding.code for finding in doctor.findings]


def found(doctor: Doctor) -> dict[str, Finding]:
    return {finding.code: finding for finding in doctor.findings}


def test_finds_says_and_writes(capsys: pytest.CaptureFixture[str]) -> None:
    """One line of code: a finding when it appears, a summary, a history and a page."""
    doctor = Doctor(**EVERY_STEP)
    trainer(doctor).fit(Poisoned(), data())
    assert "non-finite" in codes(doctor)
    finding = found(doctor)["non-finite"]
    assert isinstance(finding, Finding)
    assert finding.severity == "bad"
    assert finding.steps[0] == 5
    printed = capsys.readouterr().out
    assert printed.count("since step 5") == 2  # when found, and in the summary
    page = Path("lightning_diag/report.html").read_text()
    assert "non-finite" in page
    stored = History.open("lightning_diag")
    assert [found.code for found in stored.findings] == codes(doctor)
    assert doctor.history.steps == stored.steps == list(range(12))


def test_finding_is_said_once_and_updated() -> None:
    """Twelve more steps of the same fault are one finding that lasts longer."""
    doctor = Doctor(**EVERY_STEP)
    trainer(doctor, max_epochs=4).fit(Poisoned(), data())
    assert codes(doctor).count("non-finite") == 1
    assert found(doctor)["non-finite"].steps == (5, 23)


@pytest.mark.parametrize("stop_on", [["non-finite"], ["bad"]])
def test_stops_when_told_to(stop_on: list[str]) -> None:
    """`stop_on` takes codes and severities."""
    doctor = Doctor(stop_on=stop_on, **EVERY_STEP)
    fit = trainer(doctor, max_epochs=50)
    fit.fit(Poisoned(), data())
    assert 6 <= fit.global_step <= 12
    assert doctor.findings


def test_does_not_stop_on_other_findings() -> None:
    """Treatments are opt-in."""
    fit = trainer(Doctor(stop_on=["dead-relu"], **EVERY_STEP), max_epochs=3)
    fit.fit(Poisoned(), data())
    assert fit.global_step == 18


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"stop_on": ["nonfinite"]}, "did you mean 'non-finite'"),
        ({"every_n_steps": 0}, "`every_n_steps` must be at least 1 optimizer step, got 0"),
        ({"max_overhead": 0.0}, "`max_overhead` must be a share .* above 0.* got 0.0"),
        ({"startup_seconds": -1.0}, "`startup_seconds` must be 0 seconds or more, got -1.0"),
        ({"mute": ["nonfinite"]}, "`mute` must begin with the code .* did you mean 'non-finite'"),
        ({"mute": ["dead-relu:"]}, "leave the colon out to mute the whole rule"),
        ({"thresholds": {"deadrelu": {}}}, "`thresholds` must name .* did you mean 'dead-relu'"),
        ({"thresholds": {"dead-relu": {"share": 1}}}, "must be of its own, got 'share'"),
        ({"compiled_models": "no"}, "`compiled_models` must be 'eager' or 'leave', got 'no'"),
    ],
)
def test_wrong_value_gets_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    """At construction, naming argument, expectation and value."""
    with pytest.raises(ValueError, match=sentence):
        Doctor(**arguments)


@pytest.mark.parametrize("argument", ["monitors", "rules"])
def test_wrong_member_gets_one_sentence(argument: str) -> None:
    """A class instead of an instance is the likely mistake."""
    with pytest.raises(TypeError, match=f"`{argument}` must hold instances of"):
        Doctor(**{argument: [GradientMonitor]})  # type: ignore[arg-type]


class FailsAt(Poisoned):
    """Raises after a while."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__(step=3)
        self.error = error

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Raise at step 8."""
        if self.trainer.global_step == 8:
            message = "on purpose"
            raise self.error(message)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_run_gets_its_summary_too(
    error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """That is when people need it."""
    doctor = Doctor(**EVERY_STEP)
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        trainer(doctor).fit(FailsAt(error), data())
    assert "non-finite" in capsys.readouterr().out
    assert Path("lightning_diag/report.html").is_file()
    assert History.open("lightning_diag").steps[-1] == 7


def test_state_survives_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P25: a resumed run knows what was found, and does not say it again."""
    doctor = Doctor(**EVERY_STEP)
    fit = trainer(doctor, max_epochs=2)
    fit.fit(Poisoned(), data())
    fit.save_checkpoint(tmp_path / "end.ckpt")
    capsys.readouterr()
    resumed = Doctor(**EVERY_STEP)
    trainer(resumed, max_epochs=3).fit(
        Poisoned(), data(), ckpt_path=tmp_path / "end.ckpt", weights_only=True
    )
    assert set(codes(doctor)) <= set(codes(resumed))
    assert found(resumed)["non-finite"].steps == (5, 17)
    assert "non-finite  since step" not in capsys.readouterr().out
    assert resumed.history.steps == list(range(18))


def test_another_fit_begins_anew() -> None:
    """The findings of one run are not those of the next."""
    doctor = Doctor(**EVERY_STEP)
    trainer(doctor).fit(Poisoned(), data())
    assert doctor.findings
    trainer(doctor).fit(Classifier(), data())
    assert "non-finite" not in codes(doctor)
    assert doctor.history.steps == list(range(12))


def test_users_own_monitor_replaces_doctors() -> None:
    """One measurement of each kind, with the user's options."""
    doctor, own = Doctor(**EVERY_STEP), DeadReLUTracker(window=16, **EVERY_STEP)
    trainer(doctor, own).fit(Classifier(), data())
    samples = doctor.history.last("dead_relu/window_samples")
    assert set(samples.values()) == {16.0}


def test_chosen_monitors_are_all_there_are() -> None:
    """What is not measured is not observed, and the rules that need it say so."""
    doctor = Doctor(monitors=[LossMonitor()], **EVERY_STEP)
    trainer(doctor).fit(Classifier(), data())
    assert doctor.history.last("gradient/norm") == {}
    assert doctor.history.series("loss/train").steps == list(range(12))
    unseen = {item.code for item in doctor.diagnosis.not_observed}
    assert {"vanishing-gradient", "dead-relu", "missing-gradient"} <= unseen


def test_parameter_outside_of_the_optimizer_is_found() -> None:
    """P2, P4, P22: a layer that was forgotten trains nothing."""

    class Forgot(Classifier):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            kept = [*self.net.first.parameters(), *self.net.second.parameters()]
            return torch.optim.SGD(kept, 0.1)

    doctor = Doctor(**EVERY_STEP)
    trainer(doctor).fit(Forgot(), data())
    assert "net.head.weight" in found(doctor)["parameter-not-in-optimizer"].places


def test_detached_layer_is_found() -> None:
    """P31: no gradient reaches what the graph does not hold."""

    class Detached(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = self.relu(self.norm(self.first(x))).detach()
            out: Tensor = self.head(self.relu(self.second(h)))
            return out

    doctor = Doctor(**EVERY_STEP)
    trainer(doctor, max_epochs=4).fit(Classifier(Detached()), data())
    assert "net.first.weight" in found(doctor)["missing-gradient"].places


def test_frozen_and_sparse_modules_are_healthy() -> None:
    """P20: no finding on an embedding with sparse gradients beside frozen layers."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 8, sparse=True)
            self.frozen = nn.Linear(8, 8).requires_grad_(requires_grad=False)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = (x[:, :4].abs() * 20).long() % 50
            out: Tensor = self.head(torch.relu(self.frozen(self.embed(tokens).mean(1) + x)))
            return out

    doctor = Doctor(**EVERY_STEP)
    trainer(doctor, max_epochs=10).fit(
        Classifier(Mixed(), lambda p: torch.optim.SGD(p, 0.05)), data()
    )
    assert [f.code for f in doctor.findings if f.severity == "bad"] == []


def test_two_doctors_of_one_process_keep_apart() -> None:
    """Nothing is global: each trainer has its own probe."""
    first, second = Doctor(**EVERY_STEP), Doctor(**EVERY_STEP)
    trainer(first, default_root_dir="a").fit(Poisoned(), data())
    trainer(second, default_root_dir="b", max_epochs=1).fit(Classifier(), data())
    assert len(first.history) == 12
    assert len(second.history) == 6
    assert "non-finite" not in codes(second)


def test_doctor_beside_monitor_of_another_kind_shares_the_probe() -> None:
    """P19: one watched step for all of them."""
    doctor = Doctor(monitors=[GradientMonitor()], **EVERY_STEP)
    own = UpdateRatioLogger(**EVERY_STEP)
    trainer(own, doctor, max_epochs=1).fit(Classifier(), data())
    assert {"gradient/norm", "update/ratio"} <= set(doctor.history.metrics())
    assert len(list(Path().rglob("history.jsonl"))) == 1


def test_terminal_that_is_gone_costs_the_printing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed pipe must not cost findings, report or run."""

    def fail(_: Finding, **__: object) -> None:
        raise BrokenPipeError("nobody listens")

    monkeypatch.setattr(console, "say", fail)
    doctor = Doctor(**EVERY_STEP)
    with pytest.warns(DiagWarning, match="no longer printed: BrokenPipeError: nobody listens"):
        trainer(doctor).fit(Poisoned(), data())
    assert "non-finite" in codes(doctor)
    assert len(doctor.history) == 12
    assert Path("lightning_diag/report.html").is_file()


def test_what_is_muted_is_neither_said_nor_stops_and_is_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    doctor = Doctor(mute=["non-finite"], stop_on=["non-finite"], **EVERY_STEP)
    fit = trainer(doctor)
    fit.fit(Poisoned(), data())
    assert fit.global_step == 12
    assert "non-finite" not in codes(doctor)
    printed = " ".join(capsys.readouterr().out.split())
    assert "BAD non-finite" not in printed
    assert "Muted non-finite (bad, seen from step 5 to 11)" in printed
    page = Path("lightning_diag/report.html").read_text()
    assert "<dt><code>non-finite</code></dt><dd>bad, seen from step 5 to 11</dd>" in page
    stored = History.open("lightning_diag")
    assert stored.meta["muted"] == {"non-finite": "bad, seen from step 5 to 11"}
    assert "non-finite" not in [found.code for found in stored.findings]


def test_thresholds_are_set_by_code_and_name() -> None:
    doctor = Doctor(thresholds={"dead-relu": {"fraction": 0.3}})
    (rule,) = [rule for rule in doctor.rules if rule.code == "dead-relu"]
    assert rule == DeadRelu(fraction=0.3)
    assert len(doctor.rules) == len(Doctor().rules)


def test_rules_are_asked_less_often_as_a_run_grows_long(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def update(self: Diagnosis, history: History) -> list[Finding]:
        asked.append(history.steps[-1])
        return []

    monkeypatch.setattr(Diagnosis, "update", update)
    trainer(Doctor(**EVERY_STEP), max_epochs=50).fit(Classifier(), data())
    assert asked[:100] == list(range(100))
    # Every 3rd step up to 150, then every 4th, from 200 on every 5th and from 250 on every 6th.
    expected = 50 / 3 + 50 / 4 + 50 / 5 + 50 / 6
    assert abs(len(asked[100:]) - expected) <= 3
    assert asked[-1] == 299


def test_the_last_record_is_judged_also_where_none_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Diagnosis, "is_due", lambda self, record: False)
    doctor = Doctor(**EVERY_STEP)
    trainer(doctor).fit(Poisoned(), data())
    assert "non-finite" in codes(doctor)
    assert "non-finite" in Path("lightning_diag/report.html").read_text()
