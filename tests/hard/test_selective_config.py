"""`SelectiveBackprop` in YAML files (P43)."""

from __future__ import annotations

import pytest
import torch
import yaml
from cli_config import callback
from torch import Tensor

from lightning_diag import SelectiveBackprop

CONFIG = """
trainer:
  accelerator: cpu
  logger: false
  callbacks:
    - class_path: lightning_diag.SelectiveBackprop
      init_args:
        keep: 0.25
        selection: sampled
        start: 0.1
        score: hard.test_selective_config.flat
"""


def flat(module: object, batch: Tensor) -> Tensor:
    """Return the same score for all samples."""
    return torch.zeros(len(batch))


@pytest.mark.usefixtures("alone")
def test_it_survives_a_round_trip_through_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        callback(SelectiveBackprop, CONFIG, "--print_config")
    printed = capsys.readouterr().out
    given, again = (callback(SelectiveBackprop, text) for text in (CONFIG, printed))
    assert (given.keep, given.selection, given.start, given.end) == (0.25, "sampled", 0.1, 1.0)
    assert given.score is not None
    assert [vars(each) | {"score": None} for each in (given, again)] == [
        vars(given) | {"score": None}
    ] * 2
    (written,) = yaml.safe_load(printed)["trainer"]["callbacks"]
    assert written["init_args"]["score"] == "hard.test_selective_config.flat"
