"""Every argument goes through a LightningCLI's YAML file and back (P43)."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from cli_config import callbacks

from lightning_diag import (
    AdaptiveGradientClipping,
    AutoClip,
    Doctor,
    GradientClipAdvisor,
    GradientNoiseScale,
)

pytestmark = pytest.mark.usefixtures("alone")

CONFIG = """
trainer:
  accelerator: cpu
  logger: false
  callbacks:
    - class_path: lightning_diag.Doctor
    - class_path: lightning_diag.GradientNoiseScale
      init_args: {every_n_steps: 5, window: 32}
    - class_path: lightning_diag.GradientClipAdvisor
      init_args: {percentile: 95, least: 10}
    - class_path: lightning_diag.AutoClip
      init_args: {percentile: 25, window: 50}
    - class_path: lightning_diag.AdaptiveGradientClipping
      init_args: {clipping: 0.05, eps: 0.01, exclude_last: false, exclude: ["head.*"]}
"""


def built(config: str, *arguments: str) -> dict[type, Any]:
    """Return the callbacks that a file describes."""
    return {type(each): each for each in callbacks(config, *arguments)}


def check(found: dict[type, Any]) -> None:
    """Compare with what the file says."""
    assert Doctor in found
    noise, advisor = found[GradientNoiseScale], found[GradientClipAdvisor]
    clip, units = found[AutoClip], found[AdaptiveGradientClipping]
    assert (noise.every_n_steps, noise.window) == (5, 32)
    assert (advisor.percentile, advisor.least) == (95.0, 10)
    assert (clip.percentile, clip.window) == (25.0, 50)
    assert (units.clipping, units.eps, units.exclude_last) == (0.05, 0.01, False)
    assert units.exclude == ["head.*"]


def test_arguments_are_read_from_yaml_and_survive_a_round_trip(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(built(CONFIG))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        built(CONFIG, "--print_config")
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["trainer"]["callbacks"][3]["init_args"]["window"] == 50
    check(built(printed))
