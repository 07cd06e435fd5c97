"""The worst samples of a real fit: which, when, and that nothing else of them is kept (W13)."""

from __future__ import annotations

import base64
import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import EVERY_STEP, Classifier, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import Doctor, History, WorstExamples

PLACE = "cross_entropy#0"
LOOKS = [0, 1, 3, 7, 15, 31, 62, 93]
"""Steps that are looked at where all are watched."""


def pictures(samples: int = 64, batch_size: int = 8, *, wrong: int = -1) -> DataLoader[Any]:
    """Return grey pictures of 6 x 6, of which one may have the wrong label."""
    generator = torch.Generator().manual_seed(4)
    y = torch.randint(3, (samples,), generator=generator)
    x = torch.randn(samples, 1, 6, 6, generator=generator) * 0.1
    x[torch.arange(samples), 0, y] += 2.0
    if wrong >= 0:
        y[wrong] = (y[wrong] + 1) % 3
    return DataLoader(TensorDataset(x, y), batch_size)


class Noted(Classifier):
    """Keeps the loss of each sample of each batch, and what was predicted."""

    def __init__(self) -> None:
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
        super().__init__(net, lambda p: torch.optim.SGD(p, 0.2))
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        out = self.net(x)
        with torch.no_grad():
            losses = [functional.cross_entropy(out[i : i + 1], y[i : i + 1]) for i in range(len(x))]
            self.batches.append((torch.stack(losses), y.clone(), out.softmax(1)))
        return functional.cross_entropy(out, y)


def watched(
    *callbacks: Any, monitor: Any = None, loader: Any = None, module: Any = None, **options: Any
) -> tuple[Any, History]:
    """Train with the monitor; return module and history."""

    def run() -> Any:
        model = module() if module else Noted()
        fit = trainer(monitor or WorstExamples(**EVERY_STEP), *callbacks, **options)
        fit.fit(model, loader or pictures())
        return model

    model = seeded(run)
    return model, History.open("lightning_diag")


def newest(history: History, place: str = PLACE) -> dict[str, Any]:
    content: dict[str, Any] = history.shown("example/worst")[place][-1][1]
    return content


@pytest.mark.parametrize("factor", [1, 4])
def test_highest_and_mean_loss_equal_the_reference_whatever_the_accumulation(factor: int) -> None:
    """P10: pooled over the micro-batches of a step."""
    module, history = watched(max_epochs=12, accumulate_grad_batches=factor)
    worst, mean = (history.series(f"example/{name}_loss", PLACE) for name in ("worst", "mean"))
    assert worst.steps == mean.steps == [s for s in LOOKS if s < 96 // factor]
    for step, high, middle in zip(worst.steps, worst.values, mean.values, strict=True):
        losses = torch.cat([b[0] for b in module.batches[step * factor : (step + 1) * factor]])
        assert high == pytest.approx(float(losses.max()), rel=1e-5)
        assert middle == pytest.approx(float(losses.mean()), rel=1e-5)


@pytest.mark.parametrize("factor", [1, 4])
def test_the_worst_of_the_newest_half_are_shown(factor: int) -> None:
    """Eight of each look at most, each sample once, as it was seen last."""
    module, history = watched(max_epochs=12, accumulate_grad_batches=factor)
    looks = [step for step in LOOKS if step < 96 // factor]
    recent = [step for step in looks if 2 * step >= looks[-1]]
    expected: dict[int, tuple[float, int, int, float]] = {}
    for step in recent:
        rows = []
        for batch in range(step * factor, (step + 1) * factor):
            losses, y, shares = module.batches[batch]
            for i, loss in enumerate(losses.tolist()):
                index = batch % 8 * 8 + i
                rows.append(
                    (loss, index, int(y[i]), int(shares[i].argmax()), float(shares[i].max()))
                )
        for loss, index, target, prediction, share in sorted(rows, reverse=True)[:8]:
            expected[index] = (loss, target, prediction, share)
    order = sorted(expected.items(), key=lambda item: -item[1][0])[:16]
    content = newest(history)
    assert content["stage"] == "train"
    assert content["samples"] == 8 * factor * len(recent)
    found = content["examples"]
    assert [one["index"] for one in found] == [index for index, _ in order]
    for one, (_, (loss, target, prediction, share)) in zip(found, order, strict=True):
        assert one["loss"] == pytest.approx(loss, rel=1e-4)
        assert (one["target"], one["prediction"]) == (target, prediction)
        assert one["probability"] == pytest.approx(share, rel=1e-4)
        assert (one["rank"], one["shape"]) == (0, [6, 6, 1])


def test_a_wrong_label_is_the_worst_example_with_its_picture() -> None:
    """Wrong and confident."""
    loader = pictures(wrong=13)
    _, history = watched(loader=loader, max_epochs=40)
    first = newest(history)["examples"][0]
    image, label = loader.dataset[13]
    assert first["index"] == 13
    assert first["target"] == int(label)
    assert first["prediction"] != first["target"]
    assert first["probability"] > 0.9
    low, high = image.min(), image.max()
    expected = ((image - low) / (high - low) * 255).round().to(torch.uint8)
    assert base64.b64decode(first["pixels"]) == expected.numpy().tobytes()


def test_shuffled_samples_have_their_true_index() -> None:
    """P32: as the sampler drew them, which the label and the picture at that index show."""
    loader = pictures()
    shuffled = DataLoader(loader.dataset, 8, shuffle=True)
    _, history = watched(loader=shuffled, max_epochs=2)
    kept = newest(history)["examples"]
    assert len({one["index"] for one in kept}) == len(kept)
    for one in kept:
        image, label = loader.dataset[one["index"]]
        low, high = image.min(), image.max()
        expected = ((image - low) / (high - low) * 255).round().to(torch.uint8)
        assert base64.b64decode(one["pixels"]) == expected.numpy().tobytes()
        assert one["target"] == int(label)
    assert type(shuffled) is DataLoader


def test_within_the_doctor_shuffled_samples_have_no_index() -> None:
    """Its monitors leave the loader alone."""
    shuffled = DataLoader(pictures().dataset, 8, shuffle=True)
    doctor = Doctor(monitors=[WorstExamples()], every_n_steps=1)
    _, history = watched(monitor=doctor, loader=shuffled, max_epochs=1)
    assert {one["index"] for one in newest(history)["examples"]} == {None}


def test_without_pictures_nothing_of_the_samples_is_stored() -> None:
    """Neither in the history, nor in its file."""
    monitor = WorstExamples(pictures=False, **EVERY_STEP)
    _, history = watched(monitor=monitor, max_epochs=2)
    for one in newest(history)["examples"]:
        assert (one["pixels"], one["numbers"], one["shape"]) == (None, None, None)
        assert one["target"] in (0, 1, 2)
    text = Path("lightning_diag/history.jsonl").read_text()
    assert '"pixels":"' not in text
    assert '"numbers":[' not in text


class Stops(pl.Callback):
    """Ends the run in the middle of an epoch."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 21:
            raise RuntimeError("out of memory")


def test_a_run_that_dies_has_its_examples() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        watched(Stops(), max_epochs=9)
    shown = History.open("lightning_diag").shown("example/worst")[PLACE]
    assert [step for step, _ in shown] == [0]
    assert len(shown[0][1]["examples"]) == 8


def test_what_is_shown_is_renewed_as_the_run_goes_on_and_at_its_end() -> None:
    _, history = watched(max_epochs=80)
    steps = [step for step, _ in history.shown("example/worst")[PLACE]]
    assert steps[0] == 0
    assert steps[1:3] == [93, 186]
    assert steps[-1] == 620


class Held(pl.Callback):
    """Watches over the batches: whether somebody else holds one when its step is over."""

    def __init__(self) -> None:
        self.held = 0
        self.batches: list[weakref.ref[Tensor]] = []

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        gc.collect()
        self.held = max(self.held, sum(reference() is not None for reference in self.batches))
        self.batches = [weakref.ref(x) for x in batch]


class Fails(Classifier):
    """Raises in the middle of a step, before its loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == 3:
            raise RuntimeError("on purpose")
        return super().training_step(batch, batch_idx)


def test_no_batch_is_held_beyond_its_step_also_if_that_fails() -> None:
    held, bare = Held(), Held()
    watched(held, max_epochs=2)
    seeded(lambda: trainer(bare, max_epochs=2).fit(Noted(), pictures()))
    assert held.held == bare.held
    held, monitor = Held(), WorstExamples(**EVERY_STEP)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(RuntimeError, match="on purpose"):
        watched(held, monitor=monitor, module=lambda: Fails(net))
    gc.collect()
    ours = {id(vars(monitor)), id(monitor), id(monitor._batch)}
    for batch in (reference() for reference in held.batches):
        assert not ours & {id(holder) for holder in gc.get_referrers(batch)}


def test_a_copy_carries_no_samples() -> None:
    monitor = WorstExamples(**EVERY_STEP)
    watched(monitor=monitor, max_epochs=1)
    state = monitor.__getstate__()
    assert not state["_recent"]
    assert (state["_run"], state["_batch"], state["_looks"]) == (None, None, [])
    watched(monitor=copy.deepcopy(monitor), max_epochs=1)
    assert newest(History.open("lightning_diag-1"))["examples"]


class Two(Classifier):
    """Two losses of a step; the second has targets for each position of a sequence."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        out = self.net(x)
        steps = out[:, :, None].expand(-1, -1, 5)
        many = functional.cross_entropy(steps, y[:, None].expand(-1, 5))
        return functional.mse_loss(out.sum(1), y.float()) + many


def test_each_loss_call_has_its_own_examples() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    _, history = watched(module=lambda: Two(net), max_epochs=2)
    assert set(history.shown("example/worst")) == {"cross_entropy#0", "mse_loss#0"}
    whole = newest(history, "mse_loss#0")["examples"][0]
    assert whole["loss"] == pytest.approx((whole["target"] - whole["prediction"]) ** 2, rel=1e-3)
    part = newest(history, "cross_entropy#0")["examples"][0]
    assert 0 <= part["correct"] <= 1
    assert (part["target"], part["prediction"]) == (None, None)


class Logged(Noted):
    """Validates, with a loss call."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", functional.cross_entropy(self.net(x), y))


def test_validation_changes_nothing_of_what_is_told_of_training() -> None:

    class Both(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return pictures()

        def val_dataloader(self) -> Any:
            return pictures(samples=8)

    seeded(
        lambda: trainer(WorstExamples(**EVERY_STEP), max_epochs=2, val_check_interval=0.5).fit(
            Logged(), Both()
        )
    )
    content = newest(History.open("lightning_diag"))
    assert content["samples"] == 8 * len([s for s in LOOKS if 8 <= s < 16])
    assert {one["step"] for one in content["examples"]} == {15}


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
def test_a_resumed_run_looks_at_the_same_steps(tmp_path: Any) -> None:
    """P25: as one that was never interrupted; its examples begin anew, and no tensor is saved."""
    _, whole = watched(max_epochs=8)

    def run(until: int, **options: Any) -> None:
        monitor = WorstExamples(**EVERY_STEP)
        fit = trainer(monitor, max_epochs=until, default_root_dir=tmp_path)
        fit.fit(Noted(), pictures(), **options)
        assert set(monitor.observer_state()) == {"next", "show_next"}
        fit.save_checkpoint(tmp_path / "half.ckpt")

    run(4)
    run(8, ckpt_path=tmp_path / "half.ckpt")
    resumed = History.open(tmp_path / "lightning_diag")
    expected = whole.series("example/worst_loss", PLACE).steps
    assert resumed.series("example/worst_loss", PLACE).steps == expected
    steps = [step for step, _ in resumed.shown("example/worst")[PLACE]]
    assert steps == sorted(set(steps))
    assert steps[-1] == expected[-1]


def test_the_doctor_keeps_both_kinds_of_pictures() -> None:
    doctor = Doctor(every_n_steps=1, max_overhead=1e9, startup_seconds=1e9)
    seeded(lambda: trainer(doctor, max_epochs=1).fit(Noted(), pictures()))
    assert doctor.history.shown("example/worst")[PLACE]
    assert History.open("lightning_diag").shown("example/worst")[PLACE]
