"""Every sample of a fit, followed over its epochs: which, and what is said of it (W13, P32)."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from cli_config import callback
from runs import EVERY_STEP, Classifier, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_diag import DiagWarning, Doctor, History, SelectiveBackprop, WorstExamples

PLACE = "cross_entropy#0"
SAMPLES, EPOCHS, WRONG = 60, 8, [4, 17, 33]


class Blobs(Dataset[Any]):
    """Three classes far apart, three wrong labels; counts how often each sample is read."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.true = torch.randint(3, (SAMPLES,), generator=generator)
        self.x = 0.1 * torch.randn(SAMPLES, 3, generator=generator)
        self.x[torch.arange(SAMPLES), self.true] += 2
        self.y = self.true.clone()
        self.y[WRONG] = (self.y[WRONG] + 1) % 3
        self.reads: list[int] = []

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads.append(index)
        return self.x[index] + 1e-3 * torch.rand(3), self.y[index]


class Seen(Classifier):
    """Keeps what each batch should have been told as, from the samples themselves."""

    def __init__(self, dataset: Blobs | None = None, drop: float = 0.0) -> None:
        net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(drop), nn.Linear(8, 3))
        super().__init__(net, lambda p: torch.optim.Adam(p, 0.02))
        self.source = dataset
        self.chances: dict[int, list[list[float]]] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        out = self.net(x)
        if self.source is not None:
            distance = (x[:, None] - self.source.x[None]).square().sum(2)
            for index, row in zip(distance.argmin(1).tolist(), out.softmax(1), strict=True):
                self.chances.setdefault(index, []).append(row.tolist())
        return functional.cross_entropy(out, y)


class Held(pl.Callback):
    """Counts the batches that somebody still holds when the next one begins."""

    def __init__(self) -> None:
        self.held = 0
        self.batches: list[weakref.ref[Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, idx: int) -> None:
        gc.collect()
        self.held = max(self.held, sum(reference() is not None for reference in self.batches))
        self.batches = [weakref.ref(x) for x in batch]


def loader(dataset: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset, **{"batch_size": 8, "shuffle": True, **options})


class Fit:
    """A fit that is followed, and what is left of it."""

    def __init__(self) -> None:
        self.data = Blobs()
        self.monitor = WorstExamples(trends=True, per_class=1, **EVERY_STEP)
        self.held = Held()
        self.module: Seen = seeded(self._run)
        self.history = History.open("lightning_diag")

    def _run(self) -> Any:
        module = Seen(self.data)
        trainer(self.held, self.monitor, max_epochs=EPOCHS).fit(module, loader(self.data))
        return module

    def listed(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = self.history.shown(f"example/{name}")[PLACE][-1][1]
        return content

    def indices(self, name: str) -> list[int]:
        return [one["index"] for one in self.listed(name)["examples"]]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fit]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fit"))
        yield Fit()


def test_each_sample_has_its_true_index_and_course_under_shuffling(fit: Fit) -> None:
    """Samples are told apart by their content here, by what the sampler gave there."""
    courses = fit.monitor.courses
    assert courses is not None
    assert len(courses.trends) == SAMPLES
    for index, looks in fit.module.chances.items():
        given = int(fit.data.y[index])
        margins = [row[given] - max(row[:given] + row[given + 1 :]) for row in looks]
        right = [row[given] == max(row) for row in looks]
        course = courses.trends.course(index)
        assert course["looks"] == len(looks) == EPOCHS
        assert course["margin"] == pytest.approx(sum(margins) / EPOCHS, abs=1e-3)
        assert course["learnt"] == any(right)
        lost = sum(a and not b for a, b in pairwise(right))
        assert course["forgotten"] == lost
        assert course["target"] == given
        assert course["prediction"] == looks[-1].index(max(looks[-1]))


def test_planted_wrong_labels_are_the_suspicious_ones(fit: Fit) -> None:
    assert sorted(one["index"] for one in fit.monitor.suspicious) == WRONG
    assert sorted(fit.indices("suspicious")) == WRONG
    for one in fit.listed("suspicious")["examples"]:
        assert one["target"] == int(fit.data.y[one["index"]])
        assert one["prediction"] == int(fit.data.true[one["index"]])
    assert fit.listed("suspicious")["samples"] == SAMPLES


def test_the_worst_and_the_mistakes_are_those_of_the_whole_data_set(fit: Fit) -> None:
    assert sorted(fit.indices("worst")[:3]) == WRONG
    assert sorted(fit.indices("mistakes")[:3]) == WRONG
    by_class = fit.listed("by_class")["examples"]
    assert [one["target"] for one in by_class] == [0, 1, 2]
    assert len(set(fit.indices("worst"))) == 16


def test_samples_are_read_again_once_when_the_fit_has_ended(fit: Fit) -> None:
    """P32: nothing is kept of them before."""
    trained, again = fit.data.reads[: SAMPLES * EPOCHS], fit.data.reads[SAMPLES * EPOCHS :]
    assert len(trained) == SAMPLES * EPOCHS
    assert len(again) == len(set(again)) <= 5 * 16
    names = ("worst", "mistakes", "suspicious", "by_class")
    assert {i for name in names for i in fit.indices(name)} <= set(again)
    for one in fit.listed("suspicious")["examples"]:
        assert one["numbers"] == pytest.approx(fit.data.x[one["index"]].tolist(), abs=2e-3)
    early = fit.history.shown("example/suspicious")[PLACE][0][1]["examples"]
    assert all("numbers" not in one for one in early)


def test_no_batch_is_held_beyond_its_step(fit: Fit) -> None:
    assert fit.held.held <= 2  # the trainer's own
    bare = Held()
    seeded(lambda: trainer(bare, max_epochs=1).fit(Seen(), loader(Blobs())))
    assert fit.held.held == bare.held


def test_a_copy_carries_what_is_known_and_no_run(fit: Fit) -> None:
    twin = copy.deepcopy(fit.monitor)
    assert twin.suspicious == fit.monitor.suspicious
    assert not twin.is_hooked
    courses = pickle.loads(pickle.dumps(fit.monitor.courses))  # what is written here
    assert courses.trends.suspicious() == [one["index"] for one in twin.suspicious]


def left(*callbacks: Any) -> list[Any]:
    """Train with dropout and validations; return all that is left."""

    class Validates(Seen):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            self.log("val_loss", functional.cross_entropy(self.net(x), y))

    def run() -> Any:
        module, data = Validates(drop=0.3), Blobs()
        fitting = trainer(*callbacks, max_epochs=4)
        train = loader(data)
        fitting.fit(module, train, loader(data, shuffle=False))
        state = fitting.optimizers[0].state_dict()["state"]
        weights = [p.tolist() for p in module.parameters()]
        moments = [x.tolist() for s in state.values() for x in s.values()]
        return [weights, moments, torch.rand(3).tolist(), type(train), set(vars(train))]

    found: list[Any] = seeded(run)
    return found


def test_weights_moments_random_states_and_the_loader_are_as_without() -> None:
    """Bit for bit, with samples read again at the end."""
    bare = left()
    every = {"trends": True, "mistakes": True, "per_class": 2, **EVERY_STEP}
    assert left(WorstExamples(**every)) == bare
    assert left(Doctor(every_n_steps=1), WorstExamples(trends=True)) == bare


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
def test_a_run_that_goes_on_from_a_checkpoint_knows_what_one_knows_that_never_stopped(
    tmp_path: Path,
) -> None:
    """P25: bit for bit; the checkpoint loads where only weights may, and is small."""

    def run(until: int, saves: bool = True, **options: Any) -> WorstExamples:
        monitor = WorstExamples(trends=True, pictures=False)
        fitting = trainer(monitor, max_epochs=until, default_root_dir=tmp_path)
        sequence = loader(TensorDataset(Blobs().x, Blobs().y), shuffle=False)
        seeded(lambda: fitting.fit(Seen(), sequence, **options))
        if saves:
            fitting.save_checkpoint(tmp_path / "half.ckpt")
        return monitor

    def courses(monitor: WorstExamples) -> list[dict[str, Any]]:
        assert monitor.courses is not None
        return [monitor.courses.trends.course(i) for i in range(SAMPLES)]

    whole = run(6, saves=False)
    run(3)
    torch.load(tmp_path / "half.ckpt", weights_only=True)
    resumed = run(6, saves=False, ckpt_path=tmp_path / "half.ckpt")
    assert courses(resumed) == courses(whole)
    assert resumed.suspicious


def test_within_the_doctor_it_says_where_it_belongs() -> None:
    doctor = Doctor(monitors=[WorstExamples(trends=True)])
    with pytest.raises(ValueError, match="put it into the Trainer's `callbacks`, beside `Doctor`"):
        trainer(doctor, max_epochs=1).fit(Seen(), loader(Blobs()))


class Stream(IterableDataset[Any]):
    """Samples without positions."""

    def __iter__(self) -> Iterator[Any]:
        yield from ((x, y) for x, y in zip(Blobs().x, Blobs().y, strict=True))


class ByHand(Seen):
    """Computes its loss itself, and may return it."""

    returns = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        losses = -self.net(x).log_softmax(1)[torch.arange(len(y)), y]
        loss = losses.mean()
        return {"loss": loss, "losses": losses.detach()} if self.returns else loss


@pytest.mark.parametrize(
    ("module", "data", "text"),
    [
        (Seen, lambda: DataLoader(Stream(), 8), "cannot tell which samples a batch holds"),
        (ByHand, lambda: loader(Blobs()), 'return {"loss": loss, "losses": losses}'),
    ],
)
def test_where_samples_or_losses_are_not_seen_one_sentence_says_what_helps(
    module: Any, data: Any, text: str
) -> None:
    monitor = WorstExamples(trends=True)
    with pytest.warns(DiagWarning) as told:
        trainer(monitor, max_epochs=2).fit(module(), data())
    ours = [str(one.message) for one in told if one.category is DiagWarning]
    assert len(ours) == 1
    assert text in ours[0]
    assert monitor.suspicious == []


def test_beside_selective_backpropagation_it_says_that_it_follows_none() -> None:
    with pytest.warns(DiagWarning) as told:
        trainer(SelectiveBackprop(), WorstExamples(trends=True), max_epochs=1).fit(
            Seen(), loader(Blobs())
        )
    (ours,) = [str(one.message) for one in told if one.category is DiagWarning]
    assert "while SelectiveBackprop trains on a part of each batch: leave one" in ours


def test_losses_that_the_step_returns_rank_samples_without_their_classes() -> None:
    class Returns(ByHand):
        returns = True

    monitor = WorstExamples(trends=True, **EVERY_STEP)
    seeded(lambda: trainer(monitor, max_epochs=EPOCHS).fit(Returns(), loader(Blobs())))
    assert monitor.courses is not None
    assert sorted(monitor.courses.trends.worst()[:3]) == WRONG
    shown = History.open("lightning_diag").shown("example/worst")["training_step"][-1][1]
    assert sorted(one["index"] for one in shown["examples"][:3]) == WRONG


def test_a_sample_that_cannot_be_read_again_costs_its_picture_alone() -> None:
    class Gone(Blobs):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            if len(self.reads) >= SAMPLES * EPOCHS:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    monitor = WorstExamples(trends=True)
    with pytest.warns(DiagWarning, match="without their content.*OSError: the disk is gone"):
        seeded(lambda: trainer(monitor, max_epochs=EPOCHS).fit(Seen(), loader(Gone())))
    shown = History.open("lightning_diag").shown("example/suspicious")[PLACE][-1][1]
    assert sorted(one["index"] for one in shown["examples"]) == WRONG


def test_validation_and_watched_steps_have_confident_mistakes_and_validation_classes() -> None:
    """Against all samples, of which each was validated in order."""
    data = Blobs()
    last: dict[int, list[float]] = {}

    class Validates(Seen):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            out = self.net(x)
            for i, row in enumerate(out.softmax(1).tolist()):
                last[8 * batch_idx + i] = row
            functional.cross_entropy(out, y)

    monitor = WorstExamples(mistakes=True, per_class=2, **EVERY_STEP)
    plain = TensorDataset(data.x, data.y)
    seeded(
        lambda: trainer(monitor, max_epochs=4).fit(
            Validates(), loader(plain), loader(plain, shuffle=False)
        )
    )
    history = History.open("lightning_diag")

    def newest(name: str) -> list[int]:
        content = history.shown(f"example/{name}")[PLACE][-1][1]
        return [one["index"] for one in content["examples"]]

    labels = data.y.tolist()
    wrong = [i for i, row in last.items() if row.index(max(row)) != labels[i]]
    assert wrong
    assert newest("mistakes_validation") == sorted(wrong, key=lambda i: -max(last[i]))[:16]
    by_loss = sorted(last, key=lambda i: last[i][labels[i]])
    expected = [i for c in range(3) for i in [j for j in by_loss if labels[j] == c][:2]]
    assert newest("by_class_validation") == expected
    shown = history.shown("example/mistakes")[PLACE][-1][1]["examples"]
    assert all(one["target"] != one["prediction"] for one in shown)
    sure = [one["probability"] for one in shown]
    assert sure == sorted(sure, reverse=True)
    assert all(one["target"] == labels[one["index"]] for one in shown)


@pytest.mark.parametrize("per_class", [-1, -5])
def test_a_number_of_samples_below_zero_is_refused(per_class: int) -> None:
    with pytest.raises(ValueError, match=f"`per_class` must be 0 or more samples, got {per_class}"):
        WorstExamples(per_class=per_class)


@pytest.mark.usefixtures("alone")
def test_its_options_are_read_from_yaml_and_survive_a_round_trip(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """P43."""
    config = """
    trainer:
      accelerator: cpu
      logger: false
      callbacks:
        - class_path: lightning_diag.WorstExamples
          init_args: {trends: true, per_class: 2, mistakes: true}
    """
    with pytest.raises(SystemExit):
        callback(WorstExamples, config, "--print_config")
    again = callback(WorstExamples, capsys.readouterr().out)
    assert (again.trends, again.per_class, again.mistakes, again.pictures) == (True, 2, True, True)
