"""The function, the callback and Doctor say before the first step what is wrong (P26, P43, P48)."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from cli_config import callback
from pytorch_lightning.loggers import Logger
from runs import EVERY_STEP, history, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from checks.sick import SICK
from checks.subjects import HEALTHY, Plain, made, mlp, table
from checks.traces import differences, everything
from lightning_diag import Doctor, Preflight, preflight
from lightning_diag._compat import MisconfigurationException
from lightning_diag.before_training import checks_of, preflight_outcome
from lightning_diag.checks import DEFAULT_CHECKS, chosen

FAST = [check.code for check in DEFAULT_CHECKS if check.level == "fast"]


def codes(found: Any) -> list[str]:
    return [finding.code for finding in found]


# --- the function ---


class Data(pl.LightningDataModule):
    """Says how it was used."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.ready = 0
        self.note = note

    def prepare_data(self) -> None:
        """Take note."""
        self.note("prepare_data")

    def setup(self, stage: str) -> None:
        """Make data ready on this instance."""
        self.ready += 1

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader, once ready."""
        assert self.ready
        return table()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Scale the inputs, as augmentations do."""
        return batch[0] * 1000.0, batch[1]


def test_a_datamodule_is_set_up_and_its_hooks_are_those_of_batches() -> None:
    calls: list[str] = []
    module, data = Plain(mlp()), Data(calls.append)
    assert codes(preflight(module, data, level=["initial-loss"])) == ["initial-loss"]
    assert calls == ["prepare_data"]
    assert data.ready == 0
    assert data.trainer is None


def test_a_module_is_asked_for_its_own_loaders() -> None:
    class Own(Plain):
        def setup(self, stage: str) -> None:
            self.data = table()

        def train_dataloader(self) -> Any:
            return self.data

    module = Own(mlp())
    outcome = preflight_outcome(module, level=["initial-loss", "missing-gradient"])
    assert outcome.findings == []
    assert outcome.not_observed == []
    assert not hasattr(module, "data")


def test_both_namespaces_are_checked(lightning: ModuleType) -> None:
    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("lr", self.optimizers().param_groups[0]["lr"])
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(list(self.parameters())[1:], 0.1)

    assert codes(preflight(Module(), table())) == ["parameter-not-in-optimizer"]


def test_causes_stand_before_what_they_explain() -> None:
    """One cause, one verdict."""
    cause, effect = preflight(*made(SICK["init-scale"]), level=["init-scale", "initial-loss"])
    assert (cause.code, cause.cause_of) == ("init-scale", ("initial-loss",))
    assert (effect.code, effect.caused_by) == ("initial-loss", "init-scale")


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match="`module` must be a LightningModule, got int"):
        preflight(3)
    with pytest.raises(TypeError, match="`module` must be a LightningModule, got Linear"):
        preflight(nn.Linear(1, 1))


def test_levels_and_names_choose_checks() -> None:
    assert [check.code for check in chosen("fast", DEFAULT_CHECKS)] == FAST
    asked = [check for check in DEFAULT_CHECKS if check.level != "named"]
    assert chosen("full", DEFAULT_CHECKS) == asked
    family = [check.code for check in chosen(["parameters"], DEFAULT_CHECKS)]
    assert "missing-gradient" in family
    assert "initial-loss" not in family
    with pytest.raises(ValueError, match="`level` must be 'fast', 'full' or a list of checks"):
        preflight(Plain(mlp()), level="slow")
    with pytest.raises(ValueError, match=r"`level` must name checks .*, got 'initial_loss'"):
        preflight(Plain(mlp()), level=["initial_loss"])


@pytest.mark.parametrize("batches", [1, 4, 8])
def test_the_first_loss_is_that_of_a_batch_whatever_is_accumulated(batches: int) -> None:
    """P10."""
    module, data = made(SICK["initial-loss"])
    watcher = Preflight()
    trainer(watcher, accumulate_grad_batches=batches, max_epochs=1).fit(module, data)
    alone, data = made(SICK["initial-loss"])
    torch.manual_seed(0)
    (found,) = watcher.findings
    (other,) = preflight(alone, DataLoader(data.dataset, 64))
    assert found.code == other.code == "initial-loss"
    assert found.evidence.value == pytest.approx(other.evidence.value, rel=0.5)  # other batches
    assert first_loss_over(batches) == first_loss_over(1)


def first_loss_over(micro_batches: int) -> float:
    """Return what the check measures where so many micro-batches make a step."""
    torch.manual_seed(0)
    module, data = made(SICK["initial-loss"])
    watcher = Preflight(level=["initial-loss"])
    fit = trainer(watcher, accumulate_grad_batches=micro_batches, max_epochs=1)
    fit.fit(module, data)
    (found,) = watcher.findings
    return found.evidence.value


# --- the callback ---


def fitted(pair: Callable[[], Any], *callbacks: Any, **options: Any) -> Any:
    """Train with fixed seeds; return the module and the data."""
    module, data = seeded(pair)
    trainer(*callbacks, **{"max_epochs": 2, **options}).fit(module, data)
    return module, data


@pytest.mark.parametrize("kind", ["cnn", "gan", "stream", "dictionaries"])
def test_a_training_with_it_ends_with_the_weights_of_one_without_it(kind: str) -> None:
    """P26, bit for bit: dropout, batch norm, drawn orders and players included."""
    pair = HEALTHY[kind]
    with_it, _ = fitted(pair, Preflight(level="full"))
    without, _ = fitted(pair)
    for name, value in without.state_dict().items():
        assert torch.equal(value, with_it.state_dict()[name]), name


class Rows(Logger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    @property
    def name(self) -> str:
        """Anything."""
        return "rows"

    version = name

    def log_hyperparams(self, *_: Any) -> None:
        """Take nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep a row."""
        self.rows.append((step, metrics))


def test_loggers_get_what_they_get_without_it(tmp_path: Path) -> None:
    """P26: also metrics that are added up over an epoch, and files."""

    def logged(*callbacks: Any) -> Any:
        rows = Rows()
        module, _ = fitted(HEALTHY["mlp"], *callbacks, logger=rows)
        return rows.rows, module.trainer.callback_metrics, sorted(tmp_path.rglob("*"))

    assert logged(Preflight("full")) == logged()


def test_findings_are_printed_and_kept_once(capsys: pytest.CaptureFixture[str]) -> None:
    watcher = Preflight()
    fitted(SICK["parameter-not-in-optimizer"], watcher, max_epochs=1)
    assert codes(watcher.findings) == ["parameter-not-in-optimizer"]
    said = capsys.readouterr().out
    assert said.count("parameter-not-in-optimizer  before training") == 1
    assert "No problem found" not in said


def test_a_healthy_set_up_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    watcher = Preflight()
    fitted(HEALTHY["mlp"], watcher, max_epochs=1)
    assert watcher.findings == []
    judged = len(FAST) - len(watcher.not_observed)
    text = f"No problem found before training by {judged} of {len(FAST)} checks"
    assert text in capsys.readouterr().out


def test_it_ends_a_fit_before_its_first_step_if_asked_to() -> None:
    module, data = made(SICK["parameter-not-in-optimizer"])
    fit = trainer(Preflight(stop_on=["bad"]))
    with pytest.raises(MisconfigurationException, match="`stop_on` names `parameter-not-in-opt"):
        fit.fit(module, data)
    assert fit.global_step == 0


def test_a_resumed_fit_is_not_checked_again(tmp_path: Path) -> None:
    module, data = made(SICK["parameter-not-in-optimizer"])
    fit = trainer(Preflight(), max_epochs=1)
    fit.fit(module, data)
    fit.save_checkpoint(tmp_path / "last.ckpt")
    again = Preflight()
    trainer(again, max_epochs=2).fit(module, data, ckpt_path=str(tmp_path / "last.ckpt"))
    assert again.findings == []
    assert again.outcome.seconds == {}


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="`level` must be 'fast', 'full' or a list of checks"):
        Preflight("deep")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`stop_on` must name .*: did you mean 'initial-loss'"):
        Preflight(stop_on=["initial-los"])
    with pytest.raises(ValueError, match="`level` must be 'fast', 'full' or a list of checks"):
        Doctor(preflight="deep")  # type: ignore[arg-type]


def test_it_pickles_without_what_it_found() -> None:
    watcher = Preflight(level=["initial-loss"], stop_on=["bad"])
    fitted(SICK["initial-loss"], watcher, max_epochs=1)
    other = pickle.loads(pickle.dumps(watcher))  # our own
    assert (other.level, other.stop_on, other.findings) == (["initial-loss"], ["bad"], [])


@pytest.mark.usefixtures("alone")
def test_it_is_built_from_yaml() -> None:
    """P43."""
    config = """
trainer:
  accelerator: cpu
  logger: false
  callbacks:
    - class_path: lightning_diag.Preflight
      init_args:
        level: [initial-loss, parameters]
        stop_on: [bad]
    - class_path: lightning_diag.Doctor
      init_args: {preflight: full}
"""
    watcher = callback(Preflight, config)
    assert (watcher.level, watcher.stop_on) == (["initial-loss", "parameters"], ["bad"])
    assert callback(Doctor, config).preflight == "full"


def test_a_module_whose_step_fails_at_first_is_not_checked_but_trained() -> None:
    class Late(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if not self.trainer.callbacks:  # type: ignore[attr-defined]
                raise ValueError("only in a real trainer")
            return super().training_step(batch, batch_idx)

    watcher = Preflight(["initial-loss", "missing-gradient"])
    fitted(lambda: (Late(mlp()), table()), watcher, max_epochs=1)
    (reason,) = {each.reason for each in watcher.not_observed}
    assert reason == (
        "`training_step` failed on a copy of the module: ValueError: only in a real trainer"
    )


def test_what_a_closure_reaches_on_the_original_is_put_back() -> None:
    module, data = made(HEALTHY["mlp"])
    seen: list[Any] = []

    def spy(*_: Any) -> None:
        seen.append(1)
        module.net[0].weight.data.add_(1.0)
        module.counted = len(seen)

    module.net[0].register_forward_hook(spy)
    before = everything(module, data)
    preflight(module, data)
    assert seen
    assert differences(before, everything(module, data)) == []


def test_a_part_that_refuses_to_be_copied_is_put_back() -> None:
    """A copy shares it then, trains it with the rest, and gives its memory back."""

    class Shared(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Any:
            return self

    module = Plain(nn.Sequential(Shared(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)))
    before = everything(module)
    preflight(module, table(), level="full")
    # What is trained in place has a new version, though the old values.
    assert set(differences(before, everything(module))) <= {"versions"}


def test_a_huge_module_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_diag.checks.memory.free_bytes", lambda device: 1000)
    outcome = preflight_outcome(Plain(mlp()), table(), level=["initial-loss", "symmetric-init"])
    assert outcome.findings == []
    (reason,) = {each.reason for each in outcome.not_observed}
    assert reason.startswith("copies of the module take 0.0")


# --- Doctor ---


def test_doctor_says_once_what_a_check_and_a_rule_both_see(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One cause, one verdict."""
    doctor = Doctor(**EVERY_STEP)
    fitted(SICK["parameter-not-in-optimizer"], doctor, Preflight(), max_epochs=6)
    assert codes(doctor.findings) == ["parameter-not-in-optimizer"]
    said = capsys.readouterr().out.partition("──── lightning_diag")[0]
    assert said.count("parameter-not-in-optimizer") == 1
    assert "before training" in said


def test_doctor_keeps_what_only_a_check_can_see() -> None:
    doctor = Doctor(preflight=["uncalled-module"], **EVERY_STEP)
    fitted(SICK["uncalled-module"], doctor, max_epochs=6)
    assert codes(doctor.findings) == ["uncalled-module"]
    stored = history()
    assert codes(stored.findings) == ["uncalled-module"]
    assert stored.meta["preflight"]["checks"] == ["uncalled-module"]


def test_what_a_rule_no_longer_sees_has_passed() -> None:
    """A layer that only later batches reach is found at first, and not at the end."""

    class Later(Plain):
        def __init__(self) -> None:
            super().__init__(mlp())
            self.extra = nn.Linear(8, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.global_step < 2:
                return super().training_step(batch, batch_idx)
            return functional.cross_entropy(self(batch[0]) + self.extra(batch[0]), batch[1])

    doctor = Doctor(preflight=["missing-gradient"], **EVERY_STEP)
    fitted(lambda: (Later(), table()), doctor, max_epochs=10)
    found = {finding.code: finding for finding in doctor.findings}
    assert found["missing-gradient"].until == 0


def test_doctor_mutes_checks_by_code_and_place() -> None:
    for mute in ("uncalled-module", "uncalled-module:drop*"):
        doctor = Doctor(mute=[mute], **EVERY_STEP)
        fitted(SICK["uncalled-module"], doctor, max_epochs=1)
        assert doctor.findings == []


def test_doctor_without_preflight_asks_no_check() -> None:
    doctor = Doctor(preflight="off", **EVERY_STEP)
    fitted(SICK["uncalled-module"], doctor, max_epochs=1)
    assert doctor.findings == []
    assert "preflight" not in doctor.history.meta


def test_what_was_found_before_training_survives_a_checkpoint(tmp_path: Path) -> None:
    doctor = Doctor(**EVERY_STEP)
    module, data = made(SICK["uncalled-module"])
    fit = trainer(doctor, max_epochs=1)
    fit.fit(module, data)
    fit.save_checkpoint(tmp_path / "last.ckpt")
    again = Doctor(**EVERY_STEP)
    trainer(again, max_epochs=2).fit(module, data, ckpt_path=str(tmp_path / "last.ckpt"))
    assert codes(again.findings) == ["uncalled-module"]


def test_doctor_leaves_to_its_rules_what_they_see() -> None:
    """One cause, one verdict: the rules find these in the first steps, with more to go by."""
    asked = {check.code for check in Doctor().checks}
    assert asked == {c.code for c in checks_of("fast") if c.family != "cost"} - {
        rule.code for rule in Doctor().rules
    }
    assert {"batch-mixing", "leaked-sample", "label-out-of-range"} <= asked
    assert "initial-loss" not in asked
    assert "initial-loss" in {check.code for check in Doctor(preflight="full").checks}
