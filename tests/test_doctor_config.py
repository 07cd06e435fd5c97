"""Rules are chosen, set and muted in a LightningCLI's YAML file, too (P43)."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from cli_config import callback

from lightning_diag import DeadReLUTracker, Doctor, LossMonitor
from lightning_diag.rules.dead_relu import DeadRelu
from lightning_diag.rules.non_finite import NonFinite

pytestmark = pytest.mark.usefixtures("alone")

CONFIG = """
trainer:
  accelerator: cpu
  logger: false
  callbacks:
    - class_path: lightning_diag.Doctor
      init_args:
        mute: [slow-dataloader, "dead-relu:net.3*"]
        thresholds:
          dead-relu: {fraction: 0.3, samples: 500}
          slow-dataloader:
            fraction: 0.8
"""


def built(config: str, *arguments: str) -> Doctor:
    return callback(Doctor, config, *arguments)


def test_thresholds_and_mutes_are_read_from_yaml() -> None:
    doctor = built(CONFIG)
    assert doctor.mute == ["slow-dataloader", "dead-relu:net.3*"]
    (dead,) = [rule for rule in doctor.rules if rule.code == "dead-relu"]
    assert dead == DeadRelu(fraction=0.3, samples=500)
    (slow,) = [rule for rule in doctor.rules if rule.code == "slow-dataloader"]
    assert getattr(slow, "fraction") == 0.8  # noqa: B009


def test_they_survive_a_round_trip(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        built(CONFIG, "--print_config")
    printed = capsys.readouterr().out
    config: dict[str, Any] = yaml.safe_load(printed)
    arguments = config["trainer"]["callbacks"][0]["init_args"]
    assert arguments["mute"] == ["slow-dataloader", "dead-relu:net.3*"]
    assert arguments["thresholds"]["dead-relu"] == {"fraction": 0.3, "samples": 500}
    again = built(printed)
    assert again.rules == built(CONFIG).rules
    assert again.mute == built(CONFIG).mute


def test_a_wrong_code_is_refused_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, ValueError)) as stop:
        built(CONFIG.replace("[slow-dataloader,", "[slow-dataloaders,"))
    assert "did you mean 'slow-dataloader'" in capsys.readouterr().err + str(stop.value)


def test_monitors_and_rules_are_built_from_yaml() -> None:
    """P43: with their own arguments; what is left out keeps its default."""
    doctor = built(
        """
trainer:
  accelerator: cpu
  logger: false
  callbacks:
    - class_path: lightning_diag.Doctor
      init_args:
        every_n_steps: 20
        stop_on: [non-finite]
        monitors:
          - class_path: lightning_diag.LossMonitor
            init_args: {window: 32}
          - class_path: lightning_diag.DeadReLUTracker
        rules:
          - class_path: lightning_diag.rules.dead_relu.DeadRelu
            init_args: {fraction: 0.25}
          - class_path: lightning_diag.rules.non_finite.NonFinite
    - class_path: lightning_diag.GradientMonitor
      init_args: {max_overhead: 0.5}
"""
    )
    loss, dead = doctor.monitors
    assert isinstance(loss, LossMonitor)
    assert isinstance(dead, DeadReLUTracker)
    assert (loss.window, dead.window) == (32, DeadReLUTracker().window)
    assert doctor.rules == [DeadRelu(fraction=0.25), NonFinite()]
    assert (doctor.every_n_steps, doctor.stop_on) == (20, ["non-finite"])
