"""The cache in a LightningCLI's YAML file."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from cli_config import callback

from lightning_diag import FeatureCache

pytestmark = pytest.mark.usefixtures("alone")

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


def built(config: str, *arguments: str) -> FeatureCache:
    return callback(FeatureCache, config, *arguments)


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
