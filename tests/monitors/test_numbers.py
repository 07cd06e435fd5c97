"""Every number of a real fit against a slow, obvious reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from runs import EVERY_STEP, Classifier, all_monitors, data, history, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional

from lightning_diag import GradientMonitor, LossMonitor, UpdateRatioLogger
from lightning_diag.history import History

close = pytest.approx


class Reference(pl.Callback):
    """Takes float64 copies of gradients and weights in the same hooks, one tensor at a time."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.before: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []
        self.clipped: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        named = dict(pl_module.named_parameters())
        self.gradients.append({n: p.grad.double().clone() for n, p in named.items()})
        self.before.append({n: p.detach().double().clone() for n, p in named.items()})

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if len(self.after) < len(self.before):
            named = dict(pl_module.named_parameters())
            self.after.append({n: p.detach().double().clone() for n, p in named.items()})
            grads = [p.grad.double().square().sum() for p in named.values()]
            self.clipped.append(float(sum(grads).sqrt()))


def values(watched: History, metric: str, place: str = "") -> list[float]:
    """Return a metric's values over all steps."""
    return list(watched.series(metric, place).values)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 4},
        {"gradient_clip_val": 0.3},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"precision": "bf16-mixed"},
    ],
    ids=["plain", "accumulated", "clipped", "clipped by value", "bf16"],
)
def test_gradients_and_updates_equal_the_reference(options: dict[str, Any]) -> None:
    """W1, W2, W6, P34, P37: per parameter and in all, before and after clipping."""
    reference = Reference()
    fit = trainer(*all_monitors(), reference, **options)
    seeded(lambda: fit.fit(Classifier(), data()))
    watched = history()
    assert len(watched) == len(reference.gradients) == fit.global_step
    for name in reference.gradients[0]:
        expected = [g[name].norm().item() for g in reference.gradients]
        assert values(watched, "gradient/norm", name) == close(expected, rel=1e-5)
        expected = [g[name].abs().max().item() for g in reference.gradients]
        assert values(watched, "gradient/max", name) == close(expected, rel=1e-5)
        expected = [(g[name] == 0).double().mean().item() for g in reference.gradients]
        assert values(watched, "gradient/zero_fraction", name) == close(expected, abs=1e-6)
        change = [
            (a[name] - b[name]).norm() / b[name].norm()
            for a, b in zip(reference.after, reference.before, strict=True)
            if b[name].norm() > 0
        ]
        # a change of the last bits of a float32 weight is known to a few digits only
        assert values(watched, "update/ratio", name) == close([float(c) for c in change], rel=1e-4)
    totals = [
        math.hypot(*(g.norm().item() for g in grads.values())) for grads in reference.gradients
    ]
    assert values(watched, "gradient/total_norm") == close(totals, rel=1e-5)
    assert values(watched, "gradient/clipped_norm") == close(reference.clipped, rel=1e-5)
    clipped = [
        after < 0.9999 * before for after, before in zip(reference.clipped, totals, strict=True)
    ]
    assert values(watched, "gradient/clipped_fraction")[-1] == close(sum(clipped) / len(clipped))
    layer = [
        math.hypot(g["net.second.weight"].norm().item(), g["net.second.bias"].norm().item())
        for g in reference.gradients
    ]
    assert values(watched, "gradient/layer_norm", "net.second") == close(layer, rel=1e-5)


def test_depth_ratio_compares_first_and_last_weight() -> None:
    """W1: root mean squares, so that layers of different sizes can be compared."""
    reference = Reference()
    trainer(GradientMonitor(**EVERY_STEP), reference).fit(Classifier(), data())
    expected = [
        float(
            g["net.first.weight"].square().mean().sqrt()
            / g["net.head.weight"].square().mean().sqrt()
        )
        for g in reference.gradients
    ]
    assert values(history(), "gradient/depth_ratio") == close(expected, rel=1e-5)


def scaled(scale: float) -> MixedPrecision:
    """Return fp16 with a real grad scaler, on the CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    return MixedPrecision("16-mixed", "cpu", scaler=scaler)


def fp16_run(fused: bool, scale: float, module: Classifier | None = None) -> History:
    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3, fused=fused)

    def run() -> None:
        fit = trainer(*all_monitors(), plugins=[scaled(scale)], max_epochs=1)
        chosen = module or Classifier(optimizer=make)
        fit.fit(chosen, data())

    seeded(run)
    return history()


@pytest.mark.parametrize("fused", [False, True])
def test_loss_scale_is_taken_out(fused: bool) -> None:
    """P4: fp32 and 16-mixed agree within 1 %, whether or not the optimizer unscales by itself."""

    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3)

    def run() -> None:
        trainer(*all_monitors(), max_epochs=1).fit(Classifier(optimizer=make), data())

    seeded(run)
    full = history()
    full_norm = values(full, "gradient/total_norm")
    full_ratio = values(full, "update/ratio", "net.head.weight")
    full_max = values(full, "gradient/max", "net.head.weight")
    fp16_run(fused, 1024.0)
    half = History.open("lightning_diag-1")
    assert values(half, "gradient/total_norm") == close(full_norm, rel=1e-2)
    assert values(half, "gradient/max", "net.head.weight") == close(full_max, rel=2e-2)
    assert values(half, "update/ratio", "net.head.weight") == close(full_ratio, rel=1e-2)
    assert values(half, "amp/scale") == [1024.0] * 6
    assert values(half, "update/skipped") == [0.0] * 6


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_step_has_no_update(fused: bool) -> None:
    """P12: while the scale settles, the update is absent, not 0, and nothing is an explosion."""
    watched = fp16_run(fused, 2.0**40)
    skipped = values(watched, "update/skipped")
    assert skipped[0] == 1.0
    steps = watched.series("update/ratio", "net.head.weight").steps
    assert steps == [step for step, skip in zip(watched.steps, skipped, strict=True) if not skip]
    assert watched.last("gradient/nonfinite_count")


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_loss_is_not_divided_by_accumulation(factor: int) -> None:
    """P10: the same samples, one loss, whatever the accumulation."""
    losses: list[float] = []

    class Plain(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.item())
            return loss

    monitor = LossMonitor(**EVERY_STEP)
    fit = trainer(monitor, accumulate_grad_batches=factor, max_epochs=1)
    fit.fit(Plain(), data(samples=56))  # 7 batches: the last window is shorter
    expected = [sum(part) / len(part) for part in chunks(losses, factor)]
    assert values(history(), "loss/train") == close(expected, rel=1e-5)


def chunks(items: list[float], size: int) -> list[list[float]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def test_every_step_has_its_loss_between_two_looks() -> None:
    """The loss curve is whole although few steps are watched."""
    fit = trainer(LossMonitor(every_n_steps=7, startup_seconds=1e9), max_epochs=10)
    fit.fit(Classifier(), data())
    series = history().series("loss/train")
    assert series.steps == list(range(60))
    assert len(history()) < 40


def test_learning_rates_are_those_of_the_step() -> None:
    """The scheduler has already moved on when the batch ends."""

    class Scheduled(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(
                [
                    {"params": self.net.head.parameters(), "name": "head", "lr": 0.1},
                    {"params": self.net.first.parameters(), "lr": 0.2},
                ],
                lr=1.0,
            )
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    trainer(LossMonitor(**EVERY_STEP), max_epochs=1).fit(Scheduled(), data())
    assert values(history(), "lr/value", "head")[:3] == close([0.1, 0.05, 0.025])
    assert values(history(), "lr/value", "SGD/group1")[:3] == close([0.2, 0.1, 0.05])


class Mixed(nn.Module):
    """One of each kind of call, with the tensors kept for the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 16)
        self.head = nn.Linear(16, 3)
        self.seen: dict[str, list[Tensor]] = {}

    def keep(self, name: str, x: Tensor) -> Tensor:
        self.seen.setdefault(name, []).append(x.detach().double().clone())
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits a sample."""
        h = self.keep("linear", self.linear(self.keep("input", x * 4)))
        h = self.keep("tanh", torch.tanh(self.keep("tanh in", h * 3)))
        h = self.keep("relu", functional.relu(self.keep("relu in", h - 0.5)))
        out: Tensor = self.head(h)
        return out


@pytest.mark.parametrize("factor", [1, 3])
def test_activations_equal_the_reference(factor: int) -> None:
    """W3, W7, W8: pooled over the micro-batches of a step."""
    net = Mixed()
    fit = trainer(*all_monitors(), accumulate_grad_batches=factor, max_epochs=1)
    fit.fit(Classifier(net), data())
    watched = history()
    pooled = {
        name: [torch.cat(part) for part in (xs[i : i + factor] for i in range(0, len(xs), factor))]
        for name, xs in net.seen.items()
    }
    for name, place in (("tanh", "net/tanh#0"), ("relu", "net/relu#0")):
        out = pooled[name]
        reductions: dict[str, Callable[[Tensor], Tensor]] = {
            "mean": lambda x: x.mean(),
            "std": lambda x: x.std(correction=0),
            "max": lambda x: x.abs().max(),
            "zero_fraction": lambda x: (x == 0).double().mean(),
        }
        for metric, reduce in reductions.items():
            expected = [float(reduce(x)) for x in out]
            found = values(watched, f"activation/{metric}", place)
            assert found == close(expected, rel=1e-5, abs=1e-7), (metric, place)
    expected = [float((x.abs() >= 3).double().mean()) for x in pooled["tanh in"]]
    assert 0 < max(expected) < 1
    assert values(watched, "activation/saturated_fraction", "net/tanh#0") == close(expected)
    expected = [
        float(o.var(correction=0) / i.var(correction=0))
        for i, o in zip(pooled["input"], pooled["linear"], strict=True)
    ]
    found = values(watched, "activation/variance_gain", "net.linear/linear#0")
    assert found == close(expected, rel=1e-5)
    assert "activation/saturated_fraction" not in {
        place for place in watched.places("activation/saturated_fraction") if "linear" in place
    }


def test_dead_units_are_those_that_never_fired() -> None:
    """W5, P46: over all samples of the window, by unit."""

    class Killed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 10)
            self.head = nn.Linear(10, 3)
            with torch.no_grad():
                self.linear.bias[3:7] = -1e3
                self.linear.bias[8] = -1.0  # sparse, not dead

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(self.linear(x)))
            return out

    monitors = all_monitors()
    fit = trainer(*monitors, max_epochs=3)
    fit.fit(Classifier(Killed(), lambda p: torch.optim.SGD(p, 1e-4)), data())
    watched = history()
    assert watched.last("dead_relu/fraction") == {"net/relu#0": close(0.4)}
    assert watched.lists("dead_relu/units", "net/relu#0")[-1][1] == [3, 4, 5, 6]
    assert watched.last("dead_relu/since_step") == {"net/relu#0": 0.0}
    # the training set of 48 samples is smaller than the default window
    assert watched.last("dead_relu/window_samples") == {"net/relu#0": 48.0}
    assert watched.series("dead_relu/fraction", "net/relu#0").steps[0] == 5


def test_zero_weights_have_no_ratio() -> None:
    """P37: a weight that was all zero has a change, and no ratio."""

    class Zero(Classifier):
        def __init__(self) -> None:
            super().__init__()
            nn.init.zeros_(self.net.head.bias)

    trainer(UpdateRatioLogger(**EVERY_STEP), max_epochs=1).fit(Zero(), data())
    assert history().series("update/ratio", "net.head.bias").steps == [1, 2, 3, 4, 5]
    assert history().series("update/norm", "net.head.bias").steps == [0, 1, 2, 3, 4, 5]


def test_missing_gradient_is_missing_not_zero() -> None:
    """P31: a parameter that the loss does not reach has no norm."""

    class Detached(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(2, 2)

    trainer(GradientMonitor(**EVERY_STEP), max_epochs=1).fit(Detached(), data())
    assert history().last("gradient/missing")["unused.weight"] == 1.0
    assert "unused.weight" not in history().last("gradient/norm")


@pytest.mark.parametrize("make", [GradientMonitor, UpdateRatioLogger], ids=["gradient", "update"])
def test_tied_weights_count_once(make: Callable[..., Any]) -> None:
    """A weight that two layers share is one parameter, under the first of its names."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(8, 8)
            self.two = nn.Linear(8, 8)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.two(torch.relu(self.one(x)))
            return out[:, :3]

    trainer(make(**EVERY_STEP), max_epochs=1).fit(Classifier(Tied()), data())
    metric = "gradient/norm" if make is GradientMonitor else "update/ratio"
    assert history().places(metric) == ["net.one.weight", "net.one.bias", "net.two.bias"]


def test_histogram_counts_every_output() -> None:
    """W8: a fixed number of bins, over the range of an earlier step."""
    net = Mixed()
    trainer(*all_monitors(), max_epochs=1).fit(Classifier(net), data())
    found = history().lists("activation/histogram", "net/tanh#0")
    assert [step for step, _ in found] == [2]
    low, high, *counts = found[0][1]
    assert low == close(float(net.seen["tanh"][0].min()))
    assert high == close(float(net.seen["tanh"][0].max()))
    outputs = net.seen["tanh"][2].clamp(low, high)
    assert counts == torch.histc(outputs.float(), 32, low, high).tolist()


def test_a_step_whose_gradients_vanish_was_neither_clipped_nor_spared() -> None:
    """Clipping leaves nothing as it is, whatever it does to the steps that it is there for."""

    class Nothing(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * float(batch_idx not in (1, 4))

    fit = trainer(GradientMonitor(**EVERY_STEP), gradient_clip_val=1e-3, max_epochs=1)
    fit.fit(Nothing(), data())
    fractions = history().series("gradient/clipped_fraction")
    assert fractions.steps == [0, 2, 3, 5]
    assert fractions.values == [1.0] * 4


def test_frozen_parameters_that_an_optimizer_holds_are_absent() -> None:
    """P3, P20: nobody misses their gradients, and there is no update to measure."""
    module = Classifier()
    module.net.first.requires_grad_(requires_grad=False)
    trainer(*all_monitors(), max_epochs=1).fit(module, data())
    watched = history()
    for metric in ("gradient/missing", "gradient/norm", "update/norm", "update/ratio"):
        assert "net.second.weight" in watched.places(metric)
        assert "net.first.weight" not in watched.places(metric)
