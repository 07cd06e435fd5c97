"""Histograms of gradients and weights in a real fit: of what the optimizer gets, and seldom."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from runs import EVERY_STEP, Classifier, data, history, seeded, trainer
from torch import Tensor, nn

from lightning_diag import Doctor, GradientMonitor, WeightMonitor
from lightning_diag.measure.spreads import BINS

NAME = "net.1.weight"


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 3))


class Keeps(Classifier):
    """Keeps the gradient and the weight of one layer as each optimizer's step finds them."""

    def __init__(self) -> None:
        super().__init__(net())
        self.gradients: list[Tensor] = []
        self.weights: list[Tensor] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Keep copies."""
        weight = dict(self.named_parameters())[NAME]
        assert weight.grad is not None
        self.gradients.append(weight.grad.clone())
        self.weights.append(weight.detach().clone())


def counted(x: Tensor, low: float, high: float) -> list[float]:
    """Count with torch's own histogram."""
    inside = x.clamp(low, high * (1 - 1e-6))
    bins: list[float] = torch.histc(inside.float(), BINS, low, high).tolist()
    return bins


@pytest.mark.parametrize("accumulate", [1, 4])
def test_histograms_are_of_what_the_optimizer_finds(accumulate: int) -> None:
    """W8: accumulated and before clipping, weights before the step."""
    module: Keeps = seeded(Keeps)
    fit = trainer(
        Doctor(**EVERY_STEP),
        max_epochs=12,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1e-3,
    )
    fit.fit(module, data(samples=48 * accumulate))
    for metric, kept in (
        ("gradient/histogram", module.gradients),
        ("weight/histogram", module.weights),
    ):
        found = history().lists(metric, NAME)
        assert [step for step, _ in found] == [1, 17, 33, 49, 65]
        for step, (low, high, *bins) in found:
            assert low == -high
            assert sum(bins) == 512
            # an element at the very edge of a bin may be counted on either side
            assert (
                sum(abs(a - b) for a, b in zip(bins, counted(kept[step], low, high), strict=True))
                <= 2
            )


def test_a_gradients_range_is_that_of_the_look_before() -> None:
    module: Keeps = seeded(Keeps)
    trainer(GradientMonitor(**EVERY_STEP), max_epochs=3).fit(module, data())
    for step, (_, high, *_) in history().lists("gradient/histogram", NAME):
        rms = float(module.gradients[step - 1].norm()) / math.sqrt(512)
        assert high == pytest.approx(4 * rms, rel=1e-4)


def test_at_most_eight_layers_have_histograms_the_first_and_the_last_among_them() -> None:
    deep = nn.Sequential(*[nn.Linear(8, 8) for _ in range(20)], nn.Linear(8, 3))
    trainer(Doctor(**EVERY_STEP), max_epochs=1).fit(Classifier(deep), data())
    for metric in ("gradient/histogram", "weight/histogram"):
        places = history().places(metric)
        assert len(places) == 8
        assert (places[0], places[-1]) == ("net.0.weight", "net.20.weight")


def test_what_is_not_finite_does_not_end_the_histograms() -> None:
    """P13: the range stays that of the last finite look; NaN is not counted."""

    class Poisoned(Classifier):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            if self.trainer.global_step >= 16:
                for parameter in self.parameters():
                    if parameter.grad is not None:
                        parameter.grad.fill_(math.nan)

    trainer(GradientMonitor(**EVERY_STEP), max_epochs=4).fit(Poisoned(net()), data())
    found = dict(history().lists("gradient/histogram", NAME))
    assert sum(found[1][2:]) == 512
    assert sum(found[17][2:]) == 0
    assert found[17][1] > 0


def test_frozen_weights_and_biases_have_none() -> None:
    module = Classifier(net())
    module.net[0].requires_grad_(requires_grad=False)
    trainer(GradientMonitor(**EVERY_STEP), WeightMonitor(**EVERY_STEP)).fit(module, data())
    names = [NAME, "net.3.weight"]
    assert history().places("gradient/histogram") == names
    assert history().places("weight/histogram") == names


def test_a_resumed_run_goes_on_counting_looks(tmp_path: Any) -> None:
    first = trainer(WeightMonitor(**EVERY_STEP), max_epochs=1, default_root_dir=tmp_path)
    first.fit(Classifier(net()), data())
    first.save_checkpoint("last.ckpt")
    again = trainer(WeightMonitor(**EVERY_STEP), max_epochs=4, default_root_dir=tmp_path)
    again.fit(Classifier(net()), data(), ckpt_path="last.ckpt")
    steps = [step for step, _ in history(tmp_path).lists("weight/histogram", NAME)]
    assert steps == [1, 17]
