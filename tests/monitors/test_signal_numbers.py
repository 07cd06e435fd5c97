"""Batch norm and noise of a real fit against a slow, obvious reference (W14, W15)."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from runs import EVERY_STEP, Classifier, Net, data, history, seeded, trainer
from torch import Tensor, nn

from lightning_diag import BatchNormMonitor, GradientNoiseMonitor
from lightning_diag.measure.base import Call
from lightning_diag.measure.noise import GradientPairMeasure, noise_scale
from lightning_diag.measure.tally import Tally

PLACE = "net.norm/batch_norm#0"


class Reference(pl.Callback):
    """Takes float64 copies of what goes into batch norm, and of gradients."""

    def __init__(self) -> None:
        self.gaps: list[list[tuple[float, float]]] = [[]]
        self.gradients: list[Tensor] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        norm = pl_module.net.norm
        self.handle = norm.register_forward_pre_hook(self._look)

    def _look(self, norm: nn.BatchNorm1d, inputs: tuple[Tensor]) -> None:
        x = inputs[0].detach().double()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.running_var.double() + norm.eps
        gap = ((x.mean(0) - norm.running_mean.double()) ** 2 / scale).mean()
        log_ratio = ((x.var(0) + norm.eps) / scale).log().mean()
        self.gaps[-1].append((float(gap), float(log_ratio)))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        weights = [p for p in pl_module.parameters() if p.dim() > 1]
        self.gradients.append(torch.cat([p.grad.double().flatten() for p in weights]))
        self.gaps.append([])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.handle.remove()


def _fit(**options: Any) -> Reference:
    reference = Reference()
    monitors = [BatchNormMonitor(**EVERY_STEP), GradientNoiseMonitor(**EVERY_STEP)]
    fit = trainer(*monitors, reference, max_epochs=6, **options)
    seeded(lambda: fit.fit(Classifier(), data()))
    return reference


@pytest.mark.parametrize("accumulate", [1, 3])
def test_batch_norm_equals_the_reference_on_each_eighth_look(accumulate: int) -> None:
    """P34: each micro-batch is normalised on its own, so the mean over them counts."""
    reference = _fit(accumulate_grad_batches=accumulate)
    watched = history()
    steps, gaps = watched.series("batch_norm/mean_gap", PLACE)
    assert steps == list(range(7, 36 // accumulate, 8))
    ratios = watched.series("batch_norm/variance_ratio", PLACE).values
    for step, gap, ratio in zip(steps, gaps, ratios, strict=True):
        calls = reference.gaps[step]
        assert len(calls) == accumulate
        assert gap == pytest.approx(math.sqrt(sum(c[0] for c in calls) / accumulate), rel=1e-4)
        assert ratio == pytest.approx(math.exp(sum(c[1] for c in calls) / accumulate), rel=1e-4)
    assert set(watched.series("batch_norm/batch_size", PLACE).values) == {8.0}


@pytest.mark.parametrize(
    ("watched", "looks"),
    [
        (range(40), [7, 15, 23, 31, 39]),
        (range(0, 60, 5), [10, 20, 30, 40, 50]),
        (range(0, 60, 10), [10, 20, 30, 40, 50]),
    ],
)
def test_looks_are_eight_steps_apart_however_many_steps_are_watched(
    watched: range, looks: list[int]
) -> None:
    """A short run that is watched rarely has as many looks as it can have."""
    monitor, run, tally = BatchNormMonitor(), Mock(), Tally(1, torch.device("cpu"))
    run.module = nn.Sequential(nn.BatchNorm1d(3))
    monitor.prepare(run)
    (measure,) = monitor.call_measures()
    seen = []
    for step in watched:
        run.step = step
        for _ in range(2):  # both micro-batches of a step
            if not measure.is_due():
                continue
            call = Call("0/batch_norm#0", "batch_norm", "norm", 1, torch.randn(4, 3))
            measure.before(call)
            run.module(call.input)
            seen += [step] * (measure.after(call) is not None)
        monitor.collect(tally)
    assert seen == [step for step in looks for _ in range(2)]
    resumed = BatchNormMonitor()
    resumed.load_observer_state(monitor.observer_state())
    assert resumed.observer_state() == {"next": looks[-1] + 8}


def test_a_layer_in_eval_mode_is_not_observed() -> None:
    """Its running statistics are what it uses."""

    class Frozen(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.net.norm.eval()

    fit = trainer(BatchNormMonitor(**EVERY_STEP), max_epochs=6)
    fit.fit(Frozen(), data())
    assert history().places("batch_norm/mean_gap") == []


def test_a_layer_without_running_statistics_is_not_observed() -> None:
    net = Net()
    net.norm = nn.BatchNorm1d(16, track_running_stats=False)
    fit = trainer(BatchNormMonitor(**EVERY_STEP), max_epochs=6)
    fit.fit(Classifier(net), data())
    assert history().places("batch_norm/mean_gap") == []


@pytest.mark.parametrize(("momentum", "is_seen"), [(None, True), (0.01, True), (0.0, False)])
def test_any_momentum_that_moves_the_statistics_will_do(
    momentum: float | None,
    is_seen: bool,
) -> None:
    """None averages over all batches so far."""
    net = Net()
    net.norm = nn.BatchNorm1d(16, momentum=momentum)
    fit = trainer(BatchNormMonitor(**EVERY_STEP), max_epochs=2)
    fit.fit(Classifier(net), data())
    gaps = history().series("batch_norm/mean_gap", PLACE).values
    assert bool(gaps) == is_seen
    assert all(0 < gap < 3 for gap in gaps)


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}])
def test_cosines_equal_the_reference(options: dict[str, Any]) -> None:
    reference = _fit(**options)
    watched = history()
    steps, cosines = watched.series("gradient/cosine")
    due = [i < 16 or i % 4 < 2 for i in range(len(watched))]
    assert steps == [i for i in range(1, len(due)) if due[i] and due[i - 1]]
    for step, cosine in zip(steps, cosines, strict=True):
        pair = reference.gradients[step - 1 : step + 1]
        expected = float(nn.functional.cosine_similarity(pair[0], pair[1], dim=0))
        assert cosine == pytest.approx(expected, rel=1e-4, abs=1e-6)
    batch = 8 * options.get("accumulate_grad_batches", 1)
    last = watched.series("gradient/noise_scale").values[-1]
    assert last == pytest.approx(noise_scale(cosines[-16:], batch), rel=1e-4)


@pytest.mark.parametrize(("step", "is_near"), [(74, True), (75, False)])
def test_looks_far_apart_are_not_compared(step: int, is_near: bool) -> None:
    """The weights have moved too far."""
    monitor, tally = GradientNoiseMonitor(), Tally(1, torch.device("cpu"))
    nowhere: Any = None
    for now in (10, step):
        columns = GradientPairMeasure().observe(torch.ones(4), torch.ones(4))
        tally.add("GradientPairMeasure", ("",), columns)
        values = monitor.digest(tally.join({}).wait(), nowhere, now).values
    assert values == ({"gradient/cosine": {"": 1.0}} if is_near else {})


def test_a_resumed_fit_goes_on_where_it_was() -> None:
    one = GradientNoiseMonitor(**EVERY_STEP)
    trainer(one, max_epochs=1).fit(Classifier(), data())
    two = GradientNoiseMonitor(**EVERY_STEP)
    two.load_observer_state(one.observer_state())
    old, new = one.observer_state(), two.observer_state()
    (look, sample), (other_look, other) = old.pop("before")[0], new.pop("before")[0]
    assert torch.equal(sample, other)
    assert (look, old) == (other_look, new)
    assert len(new["cosines"][""]) == 5
    assert new["looks"] == 6
