"""What the history's metadata say of the modules."""

from __future__ import annotations

import pytest
from runs import Classifier, Net, data, history, trainer
from torch import nn

from lightning_diag.monitors.loss import LossMonitor


@pytest.mark.filterwarnings("ignore:Found 1 module.* in eval mode")
def test_dropout_that_is_at_work_is_taken_down() -> None:
    """That of a part in eval mode does nothing."""
    model = Classifier(nn.Sequential(Net(), nn.Dropout(0.9).eval()))
    trainer(LossMonitor(every_n_steps=1), max_steps=2).fit(model, data())
    assert history().meta["dropout"] == {"net.0.drop": 0.2}
