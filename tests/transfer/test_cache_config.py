"""The cache in a LightningCLI's YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_diag import FeatureCache

CONFIG = """
trainer:
  accelerator: cpu
  logger: false
  callbacks:
    - class_path: lightning_diag.FeatureCache
      init_args:
        folder: features
        frontier: backbone.layer3
        inputs: [image, mask=mask]
        dtype: bfloat16
        max_bytes: 1000000
        views: 4
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI minds the test runner's arguments, and calls what jsonargparse has replaced."""
    monkeypatch.setattr("sys.argv", ["train"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def built(config: str, *arguments: str) -> FeatureCache:
    """Return the cache that a file describes."""
    Path("config.yaml").write_text(config, encoding="utf-8")
    cli: Any = LightningCLI(
        BoringModel,
        run=False,
        args=["--config=config.yaml", *arguments],
        save_config_callback=None,
        seed_everything_default=0,
    )
    (cache,) = [each for each in cli.trainer.callbacks if isinstance(each, FeatureCache)]
    return cache


def test_arguments_survive_a_round_trip(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        built(CONFIG, "--print_config")
    printed = capsys.readouterr().out
    config: dict[str, Any] = yaml.safe_load(printed)
    arguments = config["trainer"]["callbacks"][0]["init_args"]
    assert arguments["inputs"] == ["image", "mask=mask"]
    first, second = built(CONFIG), built(printed)
    assert first.settings == second.settings
    assert (first.frontier, first.within) == (second.frontier, second.within)
    assert second.within == "backbone"
    assert second.settings.views == 4
