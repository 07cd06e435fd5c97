"""`compare_transfer`: its arms, its verdict, its findings, and that nothing is left (T5, P26)."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag.figures.transfer import transfer_figure
from lightning_diag.finding import Finding
from lightning_diag.transfer import arms
from lightning_diag.transfer.compare import compare_transfer
from lightning_diag.transfer.comparison import ARMS, TransferComparison

QUICK: dict[str, Any] = {
    "head": "head", "metric": "accuracy", "steps": 5, "seeds": 3, "lr_factors": [1.0],
    "accelerator": "cpu",
}  # fmt: skip


class Shaky(TensorDataset):
    """Draws from all random states for each sample, as augmentation does."""

    def __getitem__(self, index: int) -> Any:
        x, y = (tensor[index] for tensor in self.tensors)
        shake = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
        return x + 1e-3 * shake, y


def loaders(generator: torch.Generator | None = None) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return 60 samples to train on and 300 to measure with: which of 3 sums is largest."""
    x = torch.randn(360, 12, generator=torch.Generator().manual_seed(1))
    y = x.unflatten(1, (3, 4)).sum(2).argmax(1)
    train = DataLoader(Shaky(x[:60], y[:60]), 20, shuffle=True, generator=generator)
    return train, DataLoader(TensorDataset(x[60:], y[60:]), 300)


def network(
    lightning: ModuleType,
    weights: str = "random",
    lr: float = 0.1,
    *,
    manual: bool = False,
    seen: list[list[float]] | None = None,
) -> Any:
    """Return a classifier: features that solve the task, that are blind, or that are random."""
    if seen is not None:
        seen.append([])

    class Network(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = not manual
            self.backbone = nn.Sequential(
                nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 6)
            )
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.backbone(x))
            return out

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if seen is not None:
                seen[-1].append(float(batch[0].sum()))
            loss = functional.cross_entropy(self(batch[0]), batch[1])
            if manual:
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            logits = self(batch[0])
            self.log("accuracy", (logits.argmax(1) == batch[1]).float().mean())
            self.log("loss", functional.cross_entropy(logits, batch[1]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr, momentum=0.9, weight_decay=1e-2)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 10)]

    module = Network()
    learn(module.backbone, weights)
    return module


@torch.no_grad()
def learn(backbone: Any, weights: str) -> None:
    """Put weights into a backbone as if it had learned them."""
    first, last = backbone[0], backbone[4]
    if weights == "solving":
        sums = torch.zeros(3, 12)
        for k in range(3):
            sums[k, 4 * k : 4 * k + 4] = 1.0
        first.weight[:6] = torch.cat([sums, -sums])
        first.weight[6:] = 0.0
        last.weight.zero_()
        last.weight[:, :6] = 3 * torch.eye(6)
    elif weights == "blind":
        # No unit of the ReLU ever fires, and none gets a gradient.
        backbone[1].weight.zero_()
        backbone[1].bias.fill_(-5.0)


def compared(lightning: ModuleType, weights: str = "random", **options: Any) -> TransferComparison:
    def pretrained(seed: int) -> Any:
        return network(lightning, weights)

    return compare_transfer(
        pretrained, options.pop("data", None) or loaders(), **{**QUICK, **options}
    )


def test_features_that_solve_the_task_help(lightning: ModuleType) -> None:
    found = compared(lightning, "solving", steps=20)
    assert found.verdict == "transfer helps"
    assert found.findings == ()
    assert [each.name for each in found.arms] == list(ARMS)
    assert found.arm("head-only").mean > found.arm("from-scratch").mean + 0.1
    assert found.probe is not None
    assert found.probe.verdict == "separate"
    assert found.probe.samples == 60
    for difference in found.differences:
        expected = [
            a - b
            for a, b in zip(
                found.arm(difference.arm).values, found.arm("from-scratch").values, strict=True
            )
        ]
        assert difference.values == pytest.approx(expected)
        assert difference.interval[0] < difference.mean < difference.interval[1]
    assert all(each.steps == (20, 20, 20) for each in found.arms)


def test_blind_features_hurt_and_separate_nothing(lightning: ModuleType) -> None:
    """T5: the transferred model is worse than one from scratch."""
    found = compared(lightning, "blind", steps=30)
    assert found.verdict == "transfer hurts"
    hurting, inseparable = found.findings
    assert (hurting.code, inseparable.code) == ("negative-transfer", "inseparable-features")
    assert hurting.places == ("backbone",)
    assert hurting.steps == (0, 30)
    assert hurting.evidence.value < hurting.evidence.threshold == 0.0
    assert "accuracy" in hurting.message
    assert "33.3%" in inseparable.message
    assert inseparable.evidence.value < inseparable.evidence.threshold
    for finding in found.findings:
        assert Finding.from_dict(finding.to_dict()) == finding
        assert finding.message in str(found)


def test_the_same_module_in_all_arms_is_neither_help_nor_harm(lightning: ModuleType) -> None:
    """With a margin that a difference of seeds does not exceed."""
    found = compared(lightning, steps=40, margin=0.5, scratch=lambda seed: network(lightning))
    assert found.verdict == "no difference"
    assert "less than the margin of 0.5" in found.reason
    tuned, scratch = found.arm("fine-tuned"), found.arm("from-scratch")
    assert tuned.values == scratch.values


def test_what_learns_nothing_is_no_verdict(lightning: ModuleType) -> None:
    found = compare_transfer(lambda seed: network(lightning, lr=1e-9), loaders(), **QUICK)
    assert found.verdict == "insufficient data"
    assert found.reason == "no arm is surely better than the untrained module: train longer"


def test_what_diverges_is_no_verdict(lightning: ModuleType) -> None:
    found = compared(lightning, "solving", metric="loss", mode="min", lr_factors=[1e12], steps=10)
    assert found.verdict == "insufficient data"
    assert "not finite" in found.reason
    assert "insufficient data" in str(found)


def test_a_loss_is_better_when_it_is_lower(lightning: ModuleType) -> None:
    found = compared(lightning, "solving", metric="loss", mode="min", steps=10)
    assert found.verdict == "transfer helps"
    assert found.differences[0].mean > 0
    assert found.arm("head-only").mean < found.arm("from-scratch").mean


def test_the_frozen_backbone_stays_bit_for_bit(lightning: ModuleType) -> None:
    """P3: weights, running statistics and weight decay; the other arms train all of it."""
    kept: dict[str, list[dict[str, Tensor]]] = {}

    def metric(module: Any, val: Any) -> float:
        assert not module.training
        kept.setdefault("states", []).append(
            {name: each.clone() for name, each in module.state_dict().items()}
        )
        return float(len(kept["states"]))

    torch.manual_seed(0)
    first = network(lightning)
    compare_transfer(lambda seed: first, loaders(), **{**QUICK, "metric": metric})
    before = first.state_dict()
    head_only, tuned = kept["states"][0], kept["states"][1]

    def moved(state: dict[str, Tensor]) -> set[str]:
        return {name for name in before if not torch.equal(before[name], state[name])}

    assert moved(head_only) == {"head.weight", "head.bias"}
    assert moved(tuned) == set(before)


def test_arms_see_the_same_batches_in_the_same_order(lightning: ModuleType) -> None:
    seen: list[list[float]] = []
    for generator in (None, torch.Generator()):
        seen.clear()
        compare_transfer(lambda seed: network(lightning, seen=seen), loaders(generator), **QUICK)
        runs = [each for each in seen if each]
        assert len(runs) == 9
        for i in range(0, 9, 3):
            assert runs[i] == runs[i + 1] == runs[i + 2]
        assert runs[0] != runs[3]


def everything(module: Any, generator: torch.Generator) -> dict[str, Any]:
    """Return all that a comparison could leave a trace on."""
    return {
        "weights": {k: v.clone() for k, v in module.state_dict().items()},
        "gradients": [p.grad for p in module.parameters()],
        "trained": [p.requires_grad for p in module.parameters()],
        "modes": [m.training for m in module.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()],
        "names": sorted(vars(module)),
        "trainer": module._trainer,
        "generator": generator.get_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False)["state"]["key"],  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "benchmark": torch.backends.cudnn.benchmark,
        "files": sorted(Path().rglob("*")),
        "levels": [logging.getLogger(n).level for n in ("pytorch_lightning", "lightning.pytorch")],
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)


@pytest.mark.parametrize("fails", [False, True], ids=["to the end", "failing"])
def test_it_leaves_no_trace(
    lightning: ModuleType, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P26: weights, buffers, modes, generators, random states, files; also after an error."""
    for namespace in ("pytorch_lightning", "lightning.pytorch"):
        monkeypatch.setattr(logging.getLogger(namespace), "level", logging.INFO)
    generator = torch.Generator().manual_seed(5)
    module, batches = network(lightning), loaders(generator)
    calls = count()

    def metric(module: Any, val: Any) -> float:
        if fails and next(calls) == 6:
            raise KeyError("broken")
        return 1.0

    own = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, gradient_clip_val=1.0
    )
    options = {**QUICK, "metric": metric, "trainer": own}
    before = everything(module, generator)
    if fails:
        with pytest.raises(KeyError, match="broken"):
            compare_transfer(lambda seed: module, batches, **options)
    else:
        compare_transfer(lambda seed: module, batches, **options)
    after = everything(module, generator)
    for name in before:
        assert same(before[name], after[name]), name
    assert own.global_step == 0
    assert not own.optimizers


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_the_training_after_it_is_the_training_without_it(lightning: ModuleType) -> None:
    """P26, bit for bit."""

    def trained(first: Callable[[Any, Any], object]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        module, batches = network(lightning), loaders(torch.Generator().manual_seed(5))
        first(module, batches)
        fit = lightning.Trainer(
            accelerator="cpu", max_steps=9, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        fit.fit(module, batches[0])
        return {name: tensor.clone() for name, tensor in module.state_dict().items()}

    with_it = trained(lambda m, b: compare_transfer(lambda seed: m, b, **QUICK))
    without = trained(lambda m, b: None)
    assert all(torch.equal(with_it[name], without[name]) for name in without)


def test_it_gives_the_same_again(lightning: ModuleType) -> None:
    torch.manual_seed(1)
    one = compared(lightning)
    torch.manual_seed(2)
    assert compared(lightning) == one


def test_each_arm_takes_the_learning_rate_that_suits_it(lightning: ModuleType) -> None:
    found = compared(lightning, "solving", lr_factors=[1e-9, 1.0])
    assert [each.lr_factor for each in found.arms] == [1.0, 1.0, 1.0]
    slow = compared(lightning, "solving", lr_factors=[1e-9])
    assert slow.arm("from-scratch").values == pytest.approx(slow.untrained, abs=0.25)
    assert [each.lr_factor for each in slow.arms] == [1e-9] * 3


def test_seconds_end_each_training(lightning: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second whenever it is looked at."""
    clock: Iterator[float] = (float(i) for i in count())
    monkeypatch.setattr(arms, "_now", lambda: next(clock))
    found = compared(lightning, steps=None, seconds=4)
    assert all(each.steps == (4, 4, 4) for each in found.arms)
    assert found.budget == "4 seconds with each of 3 seeds"


def test_data_may_be_drawn_with_each_seed_and_come_from_a_datamodule(
    lightning: ModuleType,
) -> None:
    asked: list[int] = []

    class Data(lightning.LightningDataModule):  # type: ignore[name-defined, misc]
        def setup(self, stage: str) -> None:
            self.made = loaders()
            self.drawn = torch.rand(1)
            splits.append((stage, float(self.drawn)))

        def train_dataloader(self) -> Any:
            return self.made[0]

        def val_dataloader(self) -> Any:
            return self.made[1]

    splits: list[tuple[str, float]] = []
    module = Data()

    def data(seed: int) -> Any:
        asked.append(seed)
        return module

    found = compared(lightning, data=data, lr_factors=[0.5, 1.0])
    assert asked == [3, 4, 5, 3, 4, 5, 0, 1, 2]
    assert len(found.arm("head-only").values) == 3
    assert not hasattr(module, "made")
    # What `setup` draws is the same for training and for measuring, and differs by seed.
    assert {stage for stage, _ in splits} == {"fit", "validate"}
    assert len({drawn for _, drawn in splits}) == 6


def test_parts_are_named_and_what_fits_nothing_is_refused_with_near_misses(
    lightning: ModuleType,
) -> None:
    found = compared(lightning, head=["backbone.4", "head"], backbone="backbone.0")
    assert found.verdict
    with pytest.raises(Exception, match="which fits no layer of this model: did you mean 'head'"):
        compared(lightning, head="haed")
    with pytest.raises(Exception, match="The backbone has no parameter that is trained"):
        compared(lightning, head="*")

    def frozen(seed: int) -> Any:
        module = network(lightning)
        module.backbone.requires_grad_(requires_grad=False)
        return module

    with pytest.raises(Exception, match="since freezing is done here"):
        compare_transfer(frozen, loaders(), **QUICK)


def test_a_module_that_cannot_be_drawn_anew_needs_one_from_scratch(lightning: ModuleType) -> None:
    def pretrained(seed: int) -> Any:
        module = network(lightning)
        module.scale = nn.Parameter(torch.ones(1))
        return module

    with pytest.raises(Exception, match="`reset_parameters` to draw them with: give `scratch`"):
        compare_transfer(pretrained, loaders(), **QUICK)
    assert compare_transfer(pretrained, loaders(), scratch=pretrained, **QUICK).verdict


def test_targets_that_are_no_classes_leave_the_probe_out(lightning: ModuleType) -> None:
    found = compared(lightning, targets=lambda batch: batch[1].float())
    assert found.probe is None
    assert found.probe_problem == "batches have no class numbers: give `targets`"
    other = compared(lightning, steps=2, targets=lambda batch: (batch[1] > 0).long())
    assert other.probe is not None
    assert (other.probe.samples, other.probe.classes) == (40, 2)


def test_the_probe_sees_each_sample_once(lightning: ModuleType) -> None:
    """Those of later epochs are the same again."""
    found = compared(lightning, steps=20)
    assert found.probe is not None
    assert found.probe.samples == 60


def test_a_manual_module_is_compared(lightning: ModuleType) -> None:
    """P35."""
    found = compare_transfer(
        lambda seed: network(lightning, manual=True), loaders(), **{**QUICK, "steps": 10}
    )
    assert all(each.steps == (10, 10, 10) for each in found.arms)
    assert found.arm("from-scratch").mean > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "most"}, "`mode` must be 'max' or 'min', got 'most'"),
        ({"seconds": 3}, "One of `steps` and `seconds` must be given, got 5 and 3"),
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"steps": None, "seconds": math.inf}, "`seconds` must be above 0, got inf"),
        ({"seeds": 2}, "`seeds` must be at least 3, got 2"),
        ({"lr_factors": []}, "`lr_factors` must be above 0, at least one, got"),
        ({"margin": -0.1}, "`margin` must be at least 0, got -0.1"),
        ({"metric": "acc"}, "that validation logs, got 'acc': validation logs accuracy, loss"),
        ({"data": [1, 2, 3]}, "`data` must be a loader to train on and one to measure with"),
    ],
)
def test_wrong_arguments_are_refused(
    lightning: ModuleType, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compared(lightning, **options)


def test_what_makes_no_module_is_refused(lightning: ModuleType) -> None:
    with pytest.raises(TypeError, match="must be a function that is called with a seed"):
        compare_transfer(network(lightning), loaders(), **QUICK)
    with pytest.raises(TypeError, match="`pretrained` must return a LightningModule"):
        compare_transfer(lambda seed: nn.Linear(2, 2), loaders(), **QUICK)


def test_the_figure_shows_each_arm_and_the_verdict(lightning: ModuleType) -> None:
    found = compared(lightning, "solving", steps=20)
    axes = transfer_figure(found).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == list(ARMS)
    assert axes.get_title(loc="left") == "Transfer helps"
    assert axes.get_xlabel() == "accuracy after 20 steps with each of 3 seeds"
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "."]
    assert [tuple(each) for each in dots] == [each.values for each in found.arms]  # type: ignore[arg-type]
    told = [text.get_text() for text in axes.texts]
    assert [f"{each.mean:+.3g}" in text for each, text in zip(found.differences, told, strict=True)]
