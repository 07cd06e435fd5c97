"""`EarlyStoppingWindow` is built from a LightningCLI's YAML file, and printed as one (L5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_diag import EarlyStoppingWindow

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


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI minds the test runner's arguments, and calls what jsonargparse has replaced."""
    monkeypatch.setattr("sys.argv", ["train"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def built(config: str, *arguments: str) -> EarlyStoppingWindow:
    Path("config.yaml").write_text(config, encoding="utf-8")
    cli: Any = LightningCLI(
        BoringModel,
        run=False,
        args=["--config=config.yaml", *arguments],
        save_config_callback=None,
        seed_everything_default=0,
    )
    (found,) = [c for c in cli.trainer.callbacks if isinstance(c, EarlyStoppingWindow)]
    return found


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
