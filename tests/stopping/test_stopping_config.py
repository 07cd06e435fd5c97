"""`EarlyStoppingWindow` is built from a LightningCLI's YAML file, and printed as one (L5)."""

from __future__ import annotations

import pytest
import yaml
from cli_config import callback

from lightning_diag import EarlyStoppingWindow

pytestmark = pytest.mark.usefixtures("alone")

CONFIG = """
trainer:
  accelerator: cpu
  logger: false
  callbacks:
    - class_path: lightning_diag.EarlyStoppingWindow
      init_args:
        monitor: val_loss
        window: 7
        average: ema
        trend_window: null
        restore_best: true
"""


def built(config: str, *arguments: str) -> EarlyStoppingWindow:
    return callback(EarlyStoppingWindow, config, *arguments)


def test_arguments_survive_a_round_trip(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        built(CONFIG, "--print_config")
    printed = capsys.readouterr().out
    arguments = yaml.safe_load(printed)["trainer"]["callbacks"][0]["init_args"]
    assert arguments["average"] == "ema"
    for stop in (built(CONFIG), built(printed)):
        assert (stop.monitor, stop.window, stop.average) == ("val_loss", 7, "ema")
        assert stop.trend_window is None
        assert stop.restore_best
        assert stop.confidence == EarlyStoppingWindow("x").confidence


def test_a_wrong_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, ValueError)) as stop:
        built(CONFIG.replace("window: 7", "window: 1"))
    assert "at least 2 checks, got 1" in capsys.readouterr().err + str(stop.value)
