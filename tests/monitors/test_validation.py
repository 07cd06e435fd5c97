"""What validation logs, and what enters the network, in real fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torchmetrics
from runs import EVERY_STEP, Classifier, Net, data, history, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag.doctor import Doctor
from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.monitors.base import Monitor
from lightning_diag.monitors.data import DataMonitor
from lightning_diag.monitors.validation import ValidationMonitor
from lightning_diag.rules.base import NotObserved, Rule


class Validated(Classifier):
    """Logs numbers and metrics in both stages, and keeps the means by itself."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
        self.train_accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
        self.own: list[dict[str, float]] = []
        self.batches: list[tuple[float, float, int]] = []
        self.train_losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Log a metric for each step and epoch, a number for each of one."""
        out = self.net(batch[0])
        loss = functional.cross_entropy(out, batch[1])
        self.train_accuracy(out, batch[1])
        self.log("train_x", self.train_accuracy, on_step=True, on_epoch=True)
        self.log("step_loss", loss)
        self.log("epoch_loss", loss, on_step=False, on_epoch=True)
        self.train_losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss and a metric."""
        out = self.net(batch[0])
        loss = functional.cross_entropy(out, batch[1])
        self.accuracy(out, batch[1])
        self.log("val_loss", loss, on_step=True, on_epoch=True)
        self.log("val_x", self.accuracy)
        right = float((out.argmax(1) == batch[1]).sum())
        self.batches.append((float(loss) * len(out), right, len(out)))

    def on_validation_epoch_end(self) -> None:
        """Log a number of the whole validation."""
        loss, right, samples = (sum(part) for part in zip(*self.batches, strict=True))
        self.batches.clear()
        self.log("at_end", 7.0)
        if not self.trainer.sanity_checking:
            self.own.append({"val_loss": loss / samples, "val_x": right / samples})


def fit(module: Any, *callbacks: Any, **options: Any) -> History:
    trainer(*callbacks, **options).fit(module, data(), data(20))
    return history()


def test_metrics_are_what_validation_logged_at_the_step_before() -> None:
    """The sanity check is left out; the last validation comes after the last watched step."""
    module = Validated()
    watched = fit(module, ValidationMonitor(**EVERY_STEP), max_epochs=3, num_sanity_val_steps=2)
    for name in ("val_loss", "val_x"):
        series = watched.series(f"validation/{name}")
        assert series.steps == [5, 11, 17]
        assert series.values == pytest.approx([own[name] for own in module.own], rel=1e-5)
    assert watched.series("validation/at_end").values == [7.0] * 3
    assert watched.steps[-1] == 17
    assert watched.meta["validation"] == {
        "loss": "val_loss",
        "metrics": {"val_loss": "min", "val_x": "max", "at_end": ""},
    }
    names = {m for m in watched.metrics() if m.startswith("validation/")}
    assert names == {"validation/val_loss", "validation/val_x", "validation/at_end"}


def test_a_validation_in_the_middle_of_an_epoch_has_its_step() -> None:
    watched = fit(Validated(), ValidationMonitor(**EVERY_STEP), val_check_interval=2, max_epochs=1)
    assert watched.series("validation/val_loss").steps == [1, 3, 5]


def test_what_training_logs_is_taken_at_records_and_at_the_end_of_epochs() -> None:
    module = Validated()
    watched = fit(module, ValidationMonitor(**EVERY_STEP), max_epochs=2)
    losses = module.train_losses
    assert watched.series("metric/step_loss").values == pytest.approx(losses, rel=1e-5)
    epochs = watched.series("metric/epoch_loss")
    assert epochs.steps == [5, 11]
    expected = [sum(losses[:6]) / 6, sum(losses[6:]) / 6]
    assert epochs.values == pytest.approx(expected, rel=1e-5)
    assert len(watched.series("metric/train_x").steps) == 12
    assert watched.series("metric/train_x_epoch").steps == [5, 11]


class Follows(Rule):
    """Finds the newest validation loss."""

    code = "follows"
    seen: ClassVar[list[tuple[int, float]]] = []

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """Note what is there when it is asked."""
        values = history.window("validation/val_loss", 1)
        if not values:
            return self.not_observed("no validation")
        self.seen.append((values[0][0], values[0][1][""]))
        step = values[0][0]
        evidence = Evidence(values[0][1][""], 0.0, 1, 1)
        return [Finding("follows", "note", f"At {step}.", "-", (), (step, step), evidence)]


def test_rules_are_asked_again_after_each_validation_and_before_the_summary() -> None:
    Follows.seen.clear()
    doctor = Doctor(rules=[Follows()], preflight="off", **EVERY_STEP)
    module = Validated()
    fit(module, doctor, max_epochs=2)
    step, value = Follows.seen[-1]
    assert step == 11
    assert value == pytest.approx(module.own[-1]["val_loss"], rel=1e-5)
    assert doctor.findings[0].steps == (5, 11)
    assert history().findings[0].steps == (5, 11)


def test_a_fit_may_end_on_what_a_validation_shows() -> None:
    doctor = Doctor(rules=[Follows()], stop_on=["follows"], **EVERY_STEP)
    fit(Validated(), doctor, max_epochs=9)
    assert len(doctor.history) == 6


def test_a_resumed_run_goes_on_with_its_notes(tmp_path: Path) -> None:
    def run(epochs: int, resume: Path | None = None) -> Any:
        done = trainer(ValidationMonitor(**EVERY_STEP), max_epochs=epochs)
        done.fit(seeded(Validated), data(), data(20), ckpt_path=resume)
        return done

    run(2).save_checkpoint(tmp_path / "half.ckpt")
    run(4, tmp_path / "half.ckpt")
    for metric in ("validation/val_loss", "metric/epoch_loss"):
        assert history().series(metric).steps == [5, 11, 17, 23]


class Silent(Classifier):
    """Validates and logs nothing."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Run the network."""
        self.net(batch[0])


def test_a_validation_that_logs_nothing_leaves_nothing() -> None:
    watched = fit(Silent(), ValidationMonitor(**EVERY_STEP), max_epochs=1)
    assert not any(metric.startswith("validation/") for metric in watched.metrics())
    assert "validation" not in watched.meta


# What comes in ----------------------------------------------------------------------------------


def images(scale: float = 1.0, offset: float = 0.0, samples: int = 48) -> DataLoader[Any]:
    """Return 3 by 8 by 8 pictures and 3 classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 3, 8, 8, generator=generator) * scale + offset
    return DataLoader(TensorDataset(x, torch.arange(samples) % 3), 8)


class Pictures(nn.Module):
    """A convolution, with a norm layer behind it or not."""

    def __init__(self, *norm: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), *norm, nn.ReLU(), nn.Flatten())
        self.head = nn.LazyLinear(3)
        self(torch.zeros(2, 3, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits a sample."""
        out: Tensor = self.head(self.body(x))
        return out


def entered(net: nn.Module, loader: DataLoader[Any], metric: str) -> dict[str, float]:
    """Return the last numbers of what enters a network in training."""
    trainer(DataMonitor(**EVERY_STEP), max_epochs=1).fit(Classifier(net), loader)
    return history().last(metric)


def test_the_input_is_that_of_the_first_layer_and_no_other() -> None:
    """C7."""
    loader = images(scale=60.0, offset=120.0)
    place = "net.body.0/conv2d#0"
    last = entered(Pictures(), loader, "input/mean")
    assert list(last) == [place]
    x = torch.cat([batch[0] for batch in loader]).double()
    assert last[place] == pytest.approx(float(x[24:32].mean()), rel=1e-5)
    watched = history()
    assert watched.last("input/std")[place] == pytest.approx(
        float(x[24:32].std(correction=0)), rel=1e-5
    )
    channels = x[:32].movedim(1, -1).reshape(-1, 3)
    offset = (channels.mean(0) / channels.std(0, correction=0)).square().mean().sqrt()
    assert watched.last("input/samples")[place] == 32
    assert watched.last("input/offset")[place] == pytest.approx(float(offset), rel=0.01)
    assert watched.last("input/max")[place] == pytest.approx(float(x[:32].abs().max()), rel=1e-6)
    assert watched.last("input/normalised")[place] == 0.0


def test_a_norm_layer_behind_the_first_one_is_known() -> None:
    last = entered(Pictures(nn.BatchNorm2d(4)), images(), "input/normalised")
    assert last == {"net.body.0/conv2d#0": 1.0}


class Words(nn.Module):
    """Embeds indices."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits a sample."""
        out: Tensor = self.head(self.embed(x).mean(1))
        return out


@pytest.mark.parametrize("frozen", [False, True])
def test_what_comes_out_of_an_embedding_is_no_input(*, frozen: bool) -> None:
    net = Words()
    net.embed.weight.requires_grad_(not frozen)
    tokens = TensorDataset(torch.arange(48).view(24, 2) % 9, torch.arange(24) % 3)
    assert entered(net, DataLoader(tokens, 8), "input/mean") == {}


class Sequences(nn.Module):
    """A recurrent layer, whose call nothing can see."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits a sample."""
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def test_the_input_of_a_recurrent_layer_is_read_off_the_batch() -> None:
    x = torch.randn(48, 6, 5) * 40
    loader = DataLoader(TensorDataset(x, torch.arange(48) % 3), 8)
    last = entered(Sequences(), loader, "input/std")
    assert list(last) == ["net.rnn"]
    assert last["net.rnn"] == pytest.approx(float(x[24:32].double().std(correction=0)), rel=1e-5)


class TwoTowers(nn.Module):
    """Two layers take data, each its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return three logits a sample."""
        out: Tensor = self.head(self.one(x[0]).relu() + self.two(x[1]).relu())
        return out


def test_a_second_layer_that_takes_data_is_seen_as_well() -> None:
    y = torch.arange(8) % 3
    batches: Any = [((torch.randn(8, 4), torch.randn(8, 6) + 9), y) for _ in range(6)]
    last = entered(TwoTowers(), DataLoader(batches, batch_size=None), "input/mean")
    assert list(last) == ["net.one/linear#0", "net.two/linear#0"]
    assert last["net.two/linear#0"] > 5 > last["net.one/linear#0"]


def test_accumulated_batches_of_one_sample_pool() -> None:
    x = torch.randn(40, 8) + 5
    loader = DataLoader(TensorDataset(x, torch.arange(40) % 3), 1)
    fit_one = trainer(DataMonitor(**EVERY_STEP), max_epochs=1, accumulate_grad_batches=4)
    fit_one.fit(Classifier(nn.Sequential(nn.Linear(8, 3))), loader)
    watched, place = history(), "net.0/linear#0"
    assert watched.series("input/samples", place).values[:4] == [4, 8, 12, 16]
    assert watched.series("data/mean", "train/0").values[0] == pytest.approx(
        float(x[:4].mean()), rel=1e-5
    )


def test_batches_of_both_stages_are_seen_alike() -> None:
    class Both(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            """Do nothing."""

    trainer(DataMonitor(**EVERY_STEP), max_epochs=2).fit(
        Both(Pictures()), images(), images(offset=3.0, samples=96)
    )
    watched = history()
    assert watched.places("data/mean") == ["train/0", "validation/0"]
    x = torch.cat([batch[0] for batch in images(offset=3.0, samples=96)])[:64]
    series = watched.series("data/mean", "validation/0")
    assert series.steps == [5, 11]
    assert series.values == pytest.approx([float(x.mean())] * 2, rel=1e-5)
    assert watched.last("data/samples")["validation/0"] == 64


def test_of_several_validation_sets_the_first_is_compared_with_training() -> None:
    class Both(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            """Do nothing."""

    sets = [images(offset=3.0, samples=32), images(offset=-9.0, samples=32)]
    trainer(DataMonitor(**EVERY_STEP), max_epochs=1).fit(Both(Pictures()), images(), sets)
    x = torch.cat([batch[0] for batch in sets[0]])
    watched = history()
    assert watched.last("data/samples")["validation/0"] == 32
    assert watched.last("data/mean")["validation/0"] == pytest.approx(float(x.mean()), rel=1e-5)


BATCHES: list[Any] = [
    {"x": torch.randn(4, 8), "name": ["a"] * 4, "n": 3},
    (torch.randn(4, 8), {"deep": [torch.ones(4), None]}, "text", 3, object()),
    [torch.randn(4, 8).to_sparse(), torch.randn(4, 8)],
    (torch.randn(4, 8), torch.tensor([float("nan")] * 4), torch.zeros(0, 3), torch.tensor(1.0)),
]


class Anything(Classifier):
    """Takes the first tensor of whatever it is given."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return some loss."""
        members = list(batch.values()) if isinstance(batch, dict) else list(batch)
        x = next(x for x in members if isinstance(x, Tensor) and x.layout is torch.strided)
        out: Tensor = self.net(x)
        return out.square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing."""


@pytest.mark.parametrize("batch", BATCHES, ids=["dict", "tuple", "sparse", "odd"])
def test_batches_may_be_anything(batch: Any) -> None:
    """Warnings are errors: a monitor that fails would warn."""
    batches: Any = [batch] * 6
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)
    monitors: list[Monitor] = [DataMonitor(**EVERY_STEP), ValidationMonitor(**EVERY_STEP)]
    trainer(*monitors, max_epochs=1).fit(Anything(Net()), loader, loader)
    assert history().last("input/mean")


def test_waiting_is_timed_and_nothing_stays_attached() -> None:
    fetchers: list[Any] = []

    class Looks(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            """Remember the fetcher."""
            fetchers.append(self.trainer.fit_loop._data_fetcher)

    trainer(DataMonitor(**EVERY_STEP), max_epochs=2).fit(Looks(), data())
    shares = history().series("data/wait_fraction").values
    assert shares
    assert all(0 < share < 1 for share in shares)
    assert fetchers[0]._start_profiler.__name__ == "_on_before_fetch"
