"""`GradientNoiseScale` in real fits, against float64 gradients of every micro-batch (W15)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from runs import EVERY_STEP, Classifier, data, history, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_diag import DiagWarning, GradientNoiseScale
from lightning_diag.history import History
from lightning_diag.measure.noise_estimate import two_batch_estimate


def plain_net() -> nn.Module:
    """Return a network that treats every sample by itself."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 3))


def still(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    """Return an optimizer that leaves weights as they are, so that the truth is known."""
    return torch.optim.SGD(parameters, lr=0.0, **options)


def gradient(net: nn.Module, batch: Sequence[Tensor], weights_only: bool = False) -> Tensor:
    """Return the gradient of a batch in float64."""
    net = copy.deepcopy(net).double()
    x, y = batch
    functional.cross_entropy(net(x.double()), y).backward()
    kept = [p for p in net.parameters() if not weights_only or p.dim() > 1]
    return torch.cat([p.grad.flatten() for p in kept if p.grad is not None])


def expected(net: nn.Module, groups: Sequence[Sequence[Tensor]], **options: Any) -> Any:
    """Return both parts from the gradients of groups of samples."""
    found = torch.stack([gradient(net, group, **options) for group in groups])
    small, big = found.square().sum(1).mean(), found.mean(0).square().sum()
    size = len(groups) / sum(1 / len(group[1]) for group in groups)
    return two_batch_estimate(float(small), float(big), size, len(groups))


def fit(module: Any = None, loader: Any = None, **options: Any) -> tuple[Any, GradientNoiseScale]:
    """Train with the monitor; return the module and it."""
    monitor = GradientNoiseScale(**EVERY_STEP)
    module = module or seeded(lambda: Classifier(plain_net(), still))
    settings = {"max_epochs": 1, **options}
    trainer(monitor, **settings).fit(module, data() if loader is None else loader)
    return module, monitor


def seen(metric: str, place: str = "") -> list[float]:
    return list(history().series(f"noise_scale/{metric}", place).values)


@pytest.mark.parametrize("clip", [None, 1e-3])
@pytest.mark.parametrize(("factor", "windows"), [(2, [2, 2, 2]), (4, [4, 2])])
def test_micro_batches_are_compared_with_the_step(
    factor: int, windows: list[int], clip: float | None
) -> None:
    """The last step of an epoch may have fewer, and Lightning divides by the factor all the same.

    P4, P34: what clips comes after.
    """
    module, _ = fit(accumulate_grad_batches=factor, gradient_clip_val=clip)
    batches, at = list(data()), 0
    traces, signals = [], []
    for count in windows:
        parts = expected(module.net, batches[at : at + count])
        traces.append(parts.trace)
        signals.append(parts.signal)
        at += count
    assert seen("trace") == pytest.approx(traces, rel=1e-4)
    assert seen("signal") == pytest.approx(signals, rel=1e-4)
    assert seen("batch_size") == [8.0 * count for count in windows]


def test_unequal_micro_batches_count_by_their_samples() -> None:
    """44 samples: five batches of eight, and one of four."""
    loader = data(44)
    module, _ = fit(loader=loader, accumulate_grad_batches=3)
    batches = list(loader)
    assert [len(y) for _, y in batches] == [8, 8, 8, 8, 8, 4]
    wanted = [expected(module.net, batches[i : i + 3]) for i in (0, 3)]
    assert seen("trace") == pytest.approx([w.trace for w in wanted], rel=1e-4)
    assert seen("signal") == pytest.approx([w.signal for w in wanted], rel=1e-4)
    assert seen("batch_size") == [24.0, 20.0]


def test_without_micro_batches_the_batch_is_split() -> None:
    module, _ = fit(loader=data(96, 16))
    wanted = []
    for x, y in data(96, 16):
        parts = list(zip(x.chunk(8), y.chunk(8), strict=True))
        wanted.append(expected(module.net, parts, weights_only=True))
    assert seen("trace") == pytest.approx([w.trace for w in wanted], rel=1e-4)
    assert seen("signal") == pytest.approx([w.signal for w in wanted], rel=1e-4)
    assert seen("batch_size") == [16.0] * 6


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("factor", [1, 3])
def test_the_loss_scale_is_taken_out(factor: int, fused: bool) -> None:
    """P4: fused optimizers get scaled gradients, others unscaled ones, and backward scaled ones."""
    plain, _ = fit(accumulate_grad_batches=factor)
    full = [seen(metric) for metric in ("trace", "signal")]

    def make(parameters: Any) -> torch.optim.Optimizer:
        return still(parameters, fused=fused)

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    module = Classifier(copy.deepcopy(plain.net), make)
    fit(module, accumulate_grad_batches=factor, plugins=plugins)
    half = History.open("lightning_diag-1")
    for metric, values in zip(("trace", "signal"), full, strict=True):
        found = list(half.series(f"noise_scale/{metric}").values)
        largest = max(map(abs, values))
        assert found == pytest.approx(values, rel=0.05, abs=0.02 * largest)


def test_the_scale_has_an_interval_and_gives_advice() -> None:
    _, monitor = fit(loader=data(480, 16), max_epochs=2)
    scale = monitor.noise_scales[""]
    assert scale.estimates == 60
    assert scale.samples is not None
    assert scale.low < scale.samples < scale.high
    assert seen("samples")[-1] == pytest.approx(scale.samples, rel=1e-4)
    assert seen("low")[-1] == pytest.approx(scale.low, rel=1e-4)
    assert len(seen("samples")) <= len(seen("low")) == 57
    advice = monitor.advice[""]
    assert advice.batch_size == 16
    assert advice.suggested == 1 << round(math.log2(scale.samples))


def test_only_the_newest_estimates_count() -> None:
    monitor = GradientNoiseScale(window=8, **EVERY_STEP)
    trainer(monitor, max_epochs=4).fit(Classifier(plain_net()), data())
    assert monitor.noise_scales[""].estimates == 8


class OddBatches(Classifier):
    """Is given batches in which no tensor tells the number of samples."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch.pair, batch_idx)


class Pair:
    """A batch that nobody can look into."""

    def __init__(self, items: list[tuple[Tensor, Tensor]]) -> None:
        self.pair = tuple(torch.stack(part) for part in zip(*items, strict=True))


@pytest.mark.parametrize("factor", [1, 2])
def test_batches_of_unknown_size_are_not_observed(factor: int) -> None:
    """P13: absent, and never 0."""
    loader = DataLoader(data().dataset, 8, collate_fn=Pair)
    _, monitor = fit(OddBatches(plain_net(), still), loader, accumulate_grad_batches=factor)
    assert [m for m in history().metrics() if m.startswith("noise_scale/")] == []
    assert (monitor.noise_scales, monitor.advice) == ({}, {})


def test_batches_of_one_sample_cannot_be_split() -> None:
    fit(loader=data(6, 1))
    assert [m for m in history().metrics() if m.startswith("noise_scale/")] == []


class Twice(nn.Module):
    """Calls all its layers twice."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x) + self.net(-x)
        return out


def test_layers_called_twice_are_seen_with_micro_batches_only() -> None:
    fit(Classifier(Twice(), still))
    assert [m for m in history().metrics() if m.startswith("noise_scale/")] == []
    module, _ = fit(Classifier(Twice(), still), accumulate_grad_batches=6)
    found = History.open("lightning_diag-1").series("noise_scale/trace").values
    assert list(found) == pytest.approx([expected(module.net, list(data())).trace], rel=1e-4)


class Retaining(Classifier):
    """Runs a second backward pass over the same graph, which adds to the gradients."""

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward(retain_graph=True)
        loss.backward()


@pytest.mark.parametrize("factor", [1, 2])
def test_two_backward_passes_of_a_batch_are_not_observed(factor: int) -> None:
    fit(Retaining(plain_net(), still), accumulate_grad_batches=factor)
    assert [m for m in history().metrics() if m.startswith("noise_scale/")] == []


class Gan(pl.LightningModule):
    """Two optimizers by hand: one player is called once in a batch, the other three times."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.maker, self.judge = nn.Linear(8, 8), nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        first, second = optimizers
        made = self.maker(batch[0])
        loss = self.judge(batch[0]).square().mean() + self.judge(made.detach()).mean()
        second.zero_grad()
        self.manual_backward(loss)
        second.step()
        first.zero_grad()
        self.manual_backward(self.judge(made).square().mean())
        first.step()

    def configure_optimizers(self) -> Any:
        return still(self.maker.parameters()), still(self.judge.parameters())


def test_optimizers_have_noise_scales_of_their_own() -> None:
    monitor = GradientNoiseScale(**EVERY_STEP)
    trainer(monitor, max_epochs=1).fit(Gan(), data())
    assert history().places("noise_scale/trace") == ["optimizer0"]
    assert set(monitor.noise_scales) == {"optimizer0"}


class Hooks(pl.Callback):
    """Counts what hangs on parameters at the end of each micro-batch."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.found.append(sum(len(p._backward_hooks or {}) for p in pl_module.parameters()))


class Breaking(Classifier):
    """Fails in the fourth micro-batch, before its backward pass."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 3:
            raise RuntimeError("on purpose")
        return super().training_step(batch, batch_idx)


def test_nothing_hangs_on_parameters_between_micro_batches_or_after_a_failure() -> None:
    """P17: hooks on parameters are there for one micro-batch, and nowhere but in one."""
    hooks = Hooks()
    monitor = GradientNoiseScale(**EVERY_STEP)
    module = Breaking(plain_net())
    fit = trainer(monitor, hooks, accumulate_grad_batches=3, max_epochs=1)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit.fit(module, data())
    assert hooks.found == [0, 0, 0]
    assert [p for p in module.parameters() if p._backward_hooks] == []


@pytest.mark.parametrize("factor", [1, 2])
def test_an_error_in_backward_switches_it_off_and_training_goes_on(
    factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours must not end the user's backward pass."""

    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("lightning_diag.measure.split.part_squares", fail)
    monkeypatch.setattr("lightning_diag.monitors.noise_scale.spread_square_sum", fail)
    with pytest.warns(DiagWarning, match="GradientNoiseScale is switched off.*a bug"):
        fit(accumulate_grad_batches=factor)
    assert [m for m in history().metrics() if m.startswith("noise_scale/")] == []


def test_a_window_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="`window` must be at least 8 estimates, got 4"):
        GradientNoiseScale(window=4)
