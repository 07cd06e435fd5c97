"""The learning rate range test: what a curve suggests, and that nothing is left (L1, P26)."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag.figures.range_test import range_figure
from lightning_diag.lr.range_test import RangeTest, lr_range_test, read_curve

LRS = [1e-7 * 10 ** (8 * i / 99) for i in range(100)]


def curve(at: float = 0.1, noise: float = 0.0, seed: int = 0) -> list[float]:
    """Return losses that fall from 2.3 around a tenth of `at`, are lowest near it, and explode."""
    draw = random.Random(seed)
    losses = []
    for lr in LRS:
        fall = 1.5 / (1 + (at / 10 / lr) ** 2)
        losses.append(2.3 - fall + (lr / at / 2) ** 3 + draw.gauss(0, noise))
    return losses


def lrs_of(test: RangeTest) -> dict[str, float]:
    return {each.name: each.lr for each in test.suggestions}


def test_the_three_suggestions_are_where_a_known_curve_has_them() -> None:
    """L1: the fall of 1.5 / (1 + (a / lr)^2) is steepest at a, and its tenths at a/3 and 3 a."""
    found = read_curve(LRS, curve(0.1))
    a, losses = 0.01, curve(0.1)
    lowest = LRS[losses.index(min(losses))]
    assert found.reason == ""
    assert lrs_of(found)["steepest"] == pytest.approx(a, rel=0.25)
    assert lrs_of(found)["valley"] == pytest.approx(a, rel=0.25)
    assert lrs_of(found)["minimum/10"] == pytest.approx(lowest / 10, rel=0.25)
    assert found.lr == lrs_of(found)["valley"]
    assert all(each.source for each in found.suggestions)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_suggestions_neither_depend_on_the_scale_of_the_loss_nor_on_its_end(factor: float) -> None:
    losses = curve(0.1)
    plain = lrs_of(read_curve(LRS, losses))
    assert lrs_of(read_curve(LRS, [factor * x for x in losses])) == pytest.approx(plain)
    ended = [x if i < 85 else 1e30 if i < 88 else math.nan for i, x in enumerate(losses)]
    assert lrs_of(read_curve(LRS, ended)) == pytest.approx(plain, rel=0.2)


def test_noise_moves_the_valley_by_a_factor_of_two_and_a_half_at_most() -> None:
    found = [read_curve(LRS, curve(0.1, 0.1, seed)).lr for seed in range(50)]
    assert all(lr is not None and 0.004 < lr < 0.025 for lr in found)


def test_noise_alone_suggests_nothing() -> None:
    """Of 300 flat curves."""
    draw = random.Random(0)
    curves = [[2.3 + draw.gauss(0, 0.2) for _ in LRS] for _ in range(300)]
    found = [read_curve(LRS, losses) for losses in curves]
    assert sum(bool(each.suggestions) for each in found) <= 3
    assert found[0].lr is None
    assert found[0].reason.startswith("the loss never clearly fell: it began at 2.")


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([2.0 + lr for lr in LRS], "the loss never clearly fell: it began at 2"),
        ([2.0 - 0.2 * math.log10(lr / 1e-7) for lr in LRS], "raise `max_lr`"),
        ([2.0] * 12 + [math.nan] * 88, "12 finite losses are too few, 20 are needed"),
        ([math.nan] * 100, "0 finite losses are too few"),
    ],
)
def test_a_curve_without_fall_and_rise_says_why_it_suggests_nothing(
    losses: list[float], reason: str
) -> None:
    found = read_curve(LRS, losses)
    assert found.suggestions == ()
    assert reason in found.reason


@pytest.mark.parametrize(
    ("lrs", "losses", "message"),
    [
        ([0.1, 0.2], [1.0], "`losses` must be as many as `lrs`, got 1 and 2"),
        ([0.1, 0.1], [1.0, 1.0], "`lrs` must be above 0 and rise"),
        ([0.0, 0.1], [1.0, 1.0], "`lrs` must be above 0 and rise"),
    ],
)
def test_a_curve_that_is_none_is_refused(
    lrs: list[float], losses: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_curve(lrs, losses)


class Data(TensorDataset):
    """Draws from all random states for each sample, as augmentation does."""

    def __getitem__(self, index: int) -> Any:
        x, y = (tensor[index] for tensor in self.tensors)
        shake = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
        return x + 1e-3 * shake, y


def loader(generator: torch.Generator | None = None) -> DataLoader[Any]:
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))
    return DataLoader(Data(x, x[:, :3].argmax(1)), 16, shuffle=True, generator=generator)


def network(lightning: ModuleType, fails_at: int | None = None, *, manual: bool = False) -> Any:
    """Return a classifier with batch norm, dropout, a scheduler and an lr that it knows."""

    class Classifier(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.lr = 0.05
            self.automatic_optimization = not manual
            self.net = nn.Sequential(
                nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3)
            )
            self.seen: list[int] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen.append(batch_idx)
            if len(self.seen) - 1 == fails_at:
                raise KeyError("broken")
            loss = functional.cross_entropy(self.net(batch[0]), batch[1])
            if not manual:
                return loss
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return {"loss": loss}

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise AssertionError

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    return Classifier()


def everything(module: Any, generator: torch.Generator) -> dict[str, Any]:
    """Return all that a range test could leave a trace on."""
    return {
        "weights": {k: v.clone() for k, v in module.state_dict().items()},
        "gradients": [p.grad for p in module.parameters()],
        "modes": [m.training for m in module.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()],
        "names": sorted(vars(module)),
        "lr": module.lr,
        "seen": list(module.seen),
        "trainer": module._trainer,
        "generator": generator.get_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False)["state"]["key"],  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "benchmark": torch.backends.cudnn.benchmark,
        "files": sorted(Path().rglob("*")),
        "level": logging.getLogger("pytorch_lightning").level,
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)


@pytest.mark.parametrize("fails_at", [None, 7], ids=["to the end", "failing"])
def test_it_leaves_no_trace(lightning: ModuleType, fails_at: int | None) -> None:
    """P26: weights, buffers, modes, generators, random states, files; also after an error."""
    generator = torch.Generator().manual_seed(5)
    module, batches = network(lightning, fails_at), loader(generator)
    own = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False,
                            gradient_clip_val=1.0)  # fmt: skip
    options = {"trainer": own, "accelerator": "cpu"}
    before = everything(module, generator)
    if fails_at is None:
        assert lr_range_test(module, batches, **options).lr is not None
    else:
        with pytest.raises(KeyError, match="broken"):
            lr_range_test(module, batches, **options)
    after = everything(module, generator)
    for name in before:
        assert same(before[name], after[name]), name
    assert own.global_step == 0
    assert not own.optimizers
    assert own.train_dataloader is None


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_the_training_after_it_is_the_training_without_it(lightning: ModuleType) -> None:
    """P26, bit for bit."""

    def trained(first: Callable[[Any, Any], object]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        module, batches = network(lightning), loader(torch.Generator().manual_seed(5))
        first(module, batches)
        fit = lightning.Trainer(
            accelerator="cpu", max_steps=20, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        fit.fit(module, batches)
        return {name: tensor.clone() for name, tensor in module.state_dict().items()}

    with_it = trained(lambda m, b: lr_range_test(m, b, steps=30, accelerator="cpu"))
    without = trained(lambda m, b: None)
    assert all(torch.equal(with_it[name], without[name]) for name in without)


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_each_loss_is_that_after_a_step_with_its_learning_rate(
    lightning: ModuleType, manual: bool
) -> None:
    """Compared with a loop of torch alone, on one batch, without momentum."""

    class Line(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = not manual
            self.w = nn.Parameter(torch.tensor([2.0]))
            self.v = nn.Parameter(torch.tensor([1.0]))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = (self.w**2 + self.v**2).sum()
            if manual:
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
                return {"loss": loss}
            return loss

        def configure_optimizers(self) -> Any:
            groups: Any = [{"params": [self.w]}, {"params": [self.v], "lr": 0.2}]
            return torch.optim.SGD(groups, 0.1)

    batches: Any = DataLoader(TensorDataset(torch.zeros(4, 1)))
    found = lr_range_test(Line(), batches, min_lr=1e-3, max_lr=0.1, steps=20, accelerator="cpu")
    w, v, expected = 2.0, 1.0, []
    rates = [1e-3 * 100 ** (i / 19) for i in range(20)]
    for lr in rates:
        w, v = w - lr * 2 * w, v - 2 * lr * 2 * v  # the second group has twice the rate
        expected.append(w * w + v * v)
    assert found.lrs == pytest.approx(rates)
    assert found.losses == pytest.approx(expected, rel=1e-5)


def test_accumulated_batches_are_one_step(lightning: ModuleType) -> None:
    own = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False,
                            accumulate_grad_batches=4)  # fmt: skip
    module = network(lightning)
    found = lr_range_test(module, loader(), trainer=own, steps=25, accelerator="cpu")
    assert 20 <= len(found.losses) <= 25
    assert found.losses[0] == pytest.approx(math.log(3), abs=0.4)


def test_a_test_that_diverges_ends_early(lightning: ModuleType) -> None:
    found = lr_range_test(network(lightning), loader(), max_lr=1e6, accelerator="cpu")
    assert len(found.losses) < 100
    assert found.lr is not None


def test_a_datamodule_is_used_and_left_as_it_is(lightning: ModuleType) -> None:
    class Module(lightning.LightningDataModule):  # type: ignore[name-defined, misc]
        def setup(self, stage: str) -> None:
            self.made = loader()

        def train_dataloader(self) -> Any:
            return self.made

    module = Module()
    found = lr_range_test(network(lightning), datamodule=module, steps=20, accelerator="cpu")
    assert len(found.losses) == 20
    assert not hasattr(module, "made")
    assert module.trainer is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_lr": 0.0}, "`min_lr` must be above 0 and below `max_lr`, got 0.0 and 10.0"),
        ({"max_lr": 1e-8}, "`min_lr` must be above 0 and below `max_lr`"),
        ({"steps": 19}, "`steps` must be at least 20, got 19"),
        ({"stop_factor": 1.0}, "`stop_factor` must be above 1, got 1.0"),
    ],
)
def test_wrong_arguments_are_refused(
    lightning: ModuleType, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lr_range_test(network(lightning), loader(), **options)


def test_what_is_no_module_and_what_returns_no_loss_is_refused(lightning: ModuleType) -> None:
    with pytest.raises(TypeError, match="`model` must be a LightningModule, got Linear"):
        lr_range_test(nn.Linear(1, 1), loader())

    class Silent(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net = nn.Linear(8, 3)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.optimizers().step()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    with pytest.raises(ValueError, match="must return a loss for a range test, got none"):
        lr_range_test(Silent(), loader(), steps=20, accelerator="cpu")


def test_the_figure_shows_the_curve_and_each_suggestion() -> None:
    test = read_curve(LRS, [*curve(0.1)[:90], *[1e9] * 9, math.nan])
    axes = range_figure(test).axes[0]
    assert axes.get_xscale() == "log"
    legend = axes.get_legend()
    assert legend is not None
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["loss", "smoothed", *(f"{e.name}: {e.lr:.2g}" for e in test.suggestions)]
    marked = [line.get_xdata()[0] for line in axes.lines[2:]]  # type: ignore[index]
    assert marked == [each.lr for each in test.suggestions]
    assert axes.get_ylim()[1] < 10


def test_the_figure_of_a_curve_without_suggestion_says_why() -> None:
    test = read_curve(LRS, [2.0 + lr for lr in LRS])
    (text,) = range_figure(test).axes[0].texts
    assert text.get_text() == f"No suggestion: {test.reason}."
    with pytest.raises(ValueError, match="no loss of the range test is finite"):
        range_figure(read_curve(LRS, [math.nan] * 100))
