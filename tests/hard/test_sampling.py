"""`OHEMSampling` in a Trainer: what it draws from, what it feeds on, what it leaves behind (H4)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from cli_config import callback
from pytorch_lightning.callbacks import ModelCheckpoint
from runs import Classifier, data, seeded, trainer
from torch import Tensor
from torch.nn import functional
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from hard.fixed import HARD, Diary, Known, numbered
from lightning_diag import DiagWarning
from lightning_diag._compat import MisconfigurationException
from lightning_diag.hard.sampler import OHEMSampler
from lightning_diag.hard.sampling import OHEMSampling
from lightning_diag.hard.selective import SelectiveBackprop
from lightning_diag.transfer.cache import FeatureCache

N = 18


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3)


def fit(
    *callbacks: Any, loader: Any = None, module: Any = None, resume: Any = None, **options: Any
) -> Diary:
    torch.manual_seed(0)
    diary = Diary()
    module = module or Classifier(Known(), sgd)
    loader = numbered() if loader is None else loader
    trainer(diary, *callbacks, **options).fit(module, loader, ckpt_path=resume)
    return diary


def test_one_line_has_hard_samples_come_more_often() -> None:
    sampling = OHEMSampling(uniform=0.1, temperature=0.2)
    loader = numbered()
    diary = fit(sampling, loader=loader, max_epochs=6)
    assert sorted(diary.drawn(0)) == list(range(N))
    later = [sample for epoch in range(1, 6) for sample in diary.drawn(epoch)]
    assert len(later) == 5 * N
    assert sum(sample in HARD for sample in later) > 2 * 5 * len(HARD)
    losses = sampling.state_dict()["losses"]
    assert sorted(losses.argsort(descending=True)[:3].tolist()) == HARD


def test_hard_epochs_train_on_hard_samples_alone() -> None:
    diary = fit(OHEMSampling(hardest=len(HARD) / N, mixed_epochs=1), max_epochs=4)
    assert set(diary.drawn(2)) == set(HARD)
    assert len(diary.drawn(2)) == N
    assert set(diary.drawn(3)) > set(HARD)


def test_workers_load_what_one_process_does() -> None:
    alone = fit(OHEMSampling(), max_epochs=3)
    loader = numbered(num_workers=2, persistent_workers=True)
    assert fit(OHEMSampling(), loader=loader, max_epochs=3).epochs == alone.epochs


def test_the_loader_is_as_it_was_when_the_fit_has_ended() -> None:
    loader = numbered()
    before, own = dict(loader.__dict__), dict(vars(loader.batch_sampler))
    diary = fit(OHEMSampling(), loader=loader)
    assert all(isinstance(sampler, OHEMSampler) for sampler in diary.samplers)
    assert loader.__dict__ == before
    assert vars(loader.batch_sampler) == own
    assert type(loader) is DataLoader


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_so_it_is_when_the_fit_has_failed(error: type[BaseException]) -> None:
    class Failing(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise error

    loader = numbered()
    before = dict(loader.__dict__)
    with pytest.raises((RuntimeError, SystemExit)):
        fit(OHEMSampling(), loader=loader, module=Failing(Known()))
    assert loader.__dict__ == before
    assert type(loader) is DataLoader


@pytest.mark.parametrize("shuffle", [True, False])
def test_random_states_are_those_of_a_bare_run(shuffle: bool) -> None:
    """Which samples are drawn is all that changes."""

    def run(*callbacks: Any) -> Tensor:
        fit(*callbacks, loader=data(24, 4, shuffle=shuffle), module=Classifier())
        return torch.get_rng_state()

    assert torch.equal(run(), run(OHEMSampling()))


def test_the_same_samples_give_the_same_weights_as_a_bare_run() -> None:
    """Dropout and batch norm included."""
    drawn: list[list[int]] = []

    class Noting(pl.Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            x = trainer.train_dataloader.dataset.tensors[0]
            drawn.append([int((x == row).all(1).nonzero()) for row in batch[0]])

    def run(loader: Any, *callbacks: Any) -> Any:
        module = seeded(Classifier)
        trainer(*callbacks).fit(module, loader)
        return module.state_dict(), torch.get_rng_state()

    loader = data(24, 4)
    weights, state = run(loader, OHEMSampling(temperature=0.2), Noting())

    class Again(Sampler[list[int]]):
        def __iter__(self) -> Iterator[list[int]]:
            passed = drawn[:6]
            del drawn[:6]
            return iter(passed)

        def __len__(self) -> int:
            return 6

    bare, bare_state = run(DataLoader(loader.dataset, batch_sampler=Again()))
    assert all(torch.equal(weights[name], bare[name]) for name in bare)
    assert torch.equal(state, bare_state)
    assert drawn == []


# What it draws from


@pytest.mark.parametrize(
    "make",
    [
        lambda data: DataLoader(data, 4),
        lambda data: DataLoader(data, 4, sampler=RandomSampler(data, num_samples=N)),
        lambda data: DataLoader(data, 4, sampler=DistributedSampler(data, 1, 0)),
        lambda data: DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 4, True)),
        lambda data: DataLoader(
            data, sampler=BatchSampler(RandomSampler(data), 4, drop_last=True), batch_size=None
        ),
    ],
)
def test_loaders_of_all_kinds_take_the_sampler(make: Callable[[Any], Any]) -> None:
    loader = make(numbered().dataset)
    before, own = dict(loader.__dict__), dict(vars(loader.batch_sampler or loader.sampler))
    diary = fit(OHEMSampling(hardest=0.2, mixed_epochs=1), loader=loader, max_epochs=3)
    assert len(diary.drawn(0)) in (N, N - N % 4)
    assert len(set(diary.drawn(2))) <= 4
    assert set(HARD) <= set(diary.drawn(2))
    assert loader.__dict__ == before
    assert vars(loader.batch_sampler or loader.sampler) == own


def test_a_subset_is_not_left() -> None:
    """Else validation samples would be trained on."""
    pool = [1, 3, 5, 7, 9, 11]
    loader = numbered(shuffle=False, sampler=SubsetRandomSampler(pool))
    diary = fit(OHEMSampling(), loader=loader, max_epochs=4)
    assert sorted(diary.drawn(0)) == pool
    for epoch in range(1, 4):
        assert len(diary.drawn(epoch)) == 6
        assert set(diary.drawn(epoch)) <= set(pool)


@pytest.mark.parametrize(("size", "batches"), [(0.5, 3), (2.0, 9)])
def test_an_epoch_is_as_long_as_asked(size: float, batches: int) -> None:
    diary = fit(OHEMSampling(size=size), max_epochs=3)
    assert [len(diary.epochs[epoch]) for epoch in range(3)] == [batches] * 3


def test_loaders_that_are_made_anew_get_the_same_sampler() -> None:
    class Fresh(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return numbered()

    diary = fit(
        OHEMSampling(hardest=0.2, mixed_epochs=1),
        loader=Fresh(),
        max_epochs=3,
        reload_dataloaders_every_n_epochs=1,
    )
    assert len(set(map(id, diary.samplers))) == 1
    assert set(HARD) <= set(diary.drawn(2))
    assert len(set(diary.drawn(2))) == 4


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(8), 0)] * 8)


class Batches:
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(2, 8), torch.zeros(2).long())])


class Buckets(Sampler[list[int]]):
    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda data: DataLoader(Stream(), 4),
            "Stream is an IterableDataset, whose samples cannot be drawn by position: give it",
        ),
        (lambda data: DataLoader(data, batch_sampler=Buckets()), "Buckets has no `sampler`"),
        (
            lambda data: DataLoader(data, sampler=WeightedRandomSampler([1.0] * N, N)),
            "has a WeightedRandomSampler, which draws in a way of its own: leave the sampler out",
        ),
        (lambda data: Batches(), "the training loader is a Batches, and only torch's DataLoader"),
        (lambda data: [DataLoader(data), DataLoader(data)], "needs one training loader, and there"),
        (lambda data: DataLoader(data, sampler=OHEMSampler(N)), "an OHEMSampler already"),
    ],
)
def test_loaders_that_cannot_take_it_are_refused_with_advice(
    make: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit(OHEMSampling(), loader=make(numbered().dataset))


@pytest.mark.filterwarnings("ignore:Total length of")
def test_a_loader_without_a_batch_is_no_error() -> None:
    """Its batch sampler is false, and so is an empty data set."""
    for loader in (numbered(3, drop_last=True), numbered(0, shuffle=False)):
        assert fit(OHEMSampling(), loader=loader).epochs == {}


def test_selective_backpropagation_beside_it_is_refused() -> None:
    """Also where it would begin later only."""
    selective = SelectiveBackprop(start=0.5)
    with pytest.raises(MisconfigurationException, match="beside SelectiveBackprop, which trains"):
        fit(OHEMSampling(), selective)


class Frozen(pl.LightningModule):
    """A frozen layer and a head."""

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.body = torch.nn.Linear(8, 4).requires_grad_(requires_grad=False)
        self.head = torch.nn.Linear(4, 2)
        self.fails_at = fails_at

    def forward(self, x: Tensor) -> Tensor:
        """Return two logits a sample."""
        out: Tensor = self.head(self.body(x))
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        if self.global_step == self.fails_at:
            raise RuntimeError("on purpose")
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """Return plain SGD."""
        return torch.optim.SGD(self.head.parameters(), lr=1e-2)


@pytest.mark.parametrize("is_first", [True, False])
def test_cached_features_are_drawn_as_samples_are(is_first: bool, tmp_path: Path) -> None:
    """Their loader gives batches of its own."""

    def run(*others: Any) -> tuple[Any, Tensor]:
        sampling, module = OHEMSampling(), seeded(Frozen)
        both = [*others, sampling] if is_first else [sampling, *others]
        trainer(*both, max_epochs=3).fit(module, numbered())
        return sampling.state_dict(), module.head.weight

    cache = FeatureCache(str(tmp_path))
    (with_it, weight), (without, bare) = run(cache), run()
    assert cache.speed_up is not None
    assert torch.equal(with_it["losses"], without["losses"])
    assert torch.equal(weight, bare)
    loader, failing = numbered(), FeatureCache(str(tmp_path))
    both = [failing, OHEMSampling()] if is_first else [OHEMSampling(), failing]
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer(*both).fit(Frozen(fails_at=7), loader)
    assert type(loader) is DataLoader
    assert isinstance(loader.sampler, RandomSampler)


def test_two_in_one_trainer_are_refused() -> None:
    """As it would not be clear whose draws count."""
    with pytest.raises((MisconfigurationException, RuntimeError)):
        fit(OHEMSampling(), OHEMSampling(seed=1))


def test_the_same_batches_in_every_epoch_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"Trainer\(overfit_batches=1\)"):
        fit(OHEMSampling(), overfit_batches=1)


# What it feeds on


class Own(Classifier):
    """A loss that torch has no function of."""

    def __init__(self, *, returns: bool) -> None:
        super().__init__(Known(), sgd)
        self.returns = returns

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss, and that of each sample if so asked."""
        losses = -self.net(batch[0]).log_softmax(1)[:, 0]
        return {"loss": losses.mean(), **({"losses": losses} if self.returns else {})}


def test_a_loss_of_ones_own_is_returned() -> None:
    sampling = OHEMSampling(hardest=0.2, mixed_epochs=1)
    diary = fit(sampling, module=Own(returns=True), max_epochs=3)
    assert set(HARD) <= set(diary.drawn(2))


def test_where_no_loss_is_seen_one_sentence_says_what_to_return() -> None:
    with pytest.raises(MisconfigurationException) as caught:
        fit(OHEMSampling(), module=Own(returns=False))
    assert str(caught.value) == (
        "OHEMSampling saw no loss of each of the 4 samples of the batch: return "
        '{"loss": loss, "losses": losses} from `training_step`, where `losses` holds the loss of '
        "each sample of the batch, shape (samples,)."
    )


def test_where_no_loss_is_seen_in_manual_optimisation_the_first_epoch_says_so() -> None:
    """Its steps return nothing, so that one alone may have been skipped."""

    class Manual(Own):
        def __init__(self) -> None:
            super().__init__(returns=False)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.manual_backward(super().training_step(batch, batch_idx)["loss"])
            self.optimizers().step()  # type: ignore[union-attr]

    with pytest.warns(DiagWarning, match="saw no loss of each of the") as told:
        fit(OHEMSampling(), module=Manual(), max_epochs=1)
    assert len([one for one in told if one.category is DiagWarning]) == 1


def test_where_the_network_is_compiled_it_says_so() -> None:
    module = Classifier(Known(), sgd)
    module.net._compiled_call_impl = module.net._call_impl  # as `compile()` sets it
    with pytest.raises(MisconfigurationException, match="as a part of the module is compiled: ret"):
        fit(OHEMSampling(), module=module)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_that_is_skipped_is_not_taken_for_a_missing_loss() -> None:
    class Skipping(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 0 else super().training_step(batch, batch_idx)

    diary = fit(OHEMSampling(), module=Skipping(Known(), sgd))
    assert len(diary.epochs) == 2


def test_the_losses_of_one_sample_are_added_up() -> None:
    class Two(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            out = self.net(x)
            ignored = torch.where(x[:, 0] == 5, -100, y)
            return functional.cross_entropy(out, y) + functional.cross_entropy(out, ignored)

    one, two = OHEMSampling(), OHEMSampling()
    fit(one, max_epochs=1)
    fit(two, max_epochs=1, module=Two(Known(), lambda p: torch.optim.SGD(p, lr=0.0)))
    ratio = two.state_dict()["losses"] / one.state_dict()["losses"]
    expected = torch.full((N,), 2.0)
    expected[5] = 1.0
    torch.testing.assert_close(ratio, expected, rtol=1e-2, atol=0)


def test_classes_are_the_targets_of_the_loss() -> None:
    loader = numbered()
    loader.dataset.tensors[1][9:] = 1  # type: ignore[attr-defined]
    diary = fit(OHEMSampling(keep_classes=True, temperature=0.1), loader=loader, max_epochs=3)
    for epoch in (1, 2):
        assert sum(sample >= 9 for sample in diary.drawn(epoch)) == 9


def test_classes_that_are_not_known_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="takes classes from the targets"):
        fit(OHEMSampling(keep_classes=True), module=Own(returns=True))


def test_importance_weights_are_there_for_each_batch() -> None:
    sampling = OHEMSampling(unbias=1.0, uniform=0.2)
    means: dict[int, list[float]] = {}

    class Weighted(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert sampling.weights is not None
            assert len(sampling.weights) == len(batch[1])
            losses = functional.cross_entropy(self.net(batch[0]), batch[1], reduction="none")
            means.setdefault(self.current_epoch, []).extend((sampling.weights * losses).tolist())
            return (sampling.weights * losses).mean()

    fit(sampling, module=Weighted(Known(), lambda p: torch.optim.SGD(p, lr=0.0)), max_epochs=20)
    assert sampling.weights is None
    first, *later = [sum(means[epoch]) / N for epoch in range(20)]
    assert sum(later) / 19 == pytest.approx(first, rel=0.05)
    assert OHEMSampling().weights is None


def test_the_weighted_mean_is_one_call_and_the_plain_one_outside_of_training() -> None:
    sampling = OHEMSampling(unbias=1.0)
    losses = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    assert sampling.mean(losses) == losses.mean()
    sampling.weights = torch.tensor([2.0, 0.5])
    assert sampling.mean(losses) == (2 * (1 + 3) + 0.5 * (5 + 7)) / 4
    with pytest.raises(ValueError, match=r"for each of 2 samples.*got the shape \(\)"):
        sampling.mean(losses.mean())


# Resuming


class Saved(Classifier):
    """Noise of its own would be Lightning's to restore."""

    def __init__(self) -> None:
        super().__init__(Known(), sgd)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Diary, dict[str, Any]]:
    """Train four epochs of five batches, and save after each step, validation-like and at ends."""
    folder = tmp_path_factory.mktemp("whole")
    steps = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    ends = ModelCheckpoint(folder, "end-{step}", every_n_epochs=1, save_top_k=-1)
    sampling = options()
    diary = fit(sampling, steps, ends, max_epochs=4, enable_checkpointing=True)
    return folder, diary, sampling.state_dict()


def options() -> OHEMSampling:
    return OHEMSampling(hardest=0.3, mixed_epochs=1)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used")
@pytest.mark.parametrize(
    ("name", "workers"), [("step=2", 0), ("step=5", 1), ("step=13", 1), ("end-step=10", 0)]
)
def test_a_fit_that_goes_on_draws_what_it_would_have_drawn(
    whole: tuple[Path, Diary, dict[str, Any]], name: str, workers: int
) -> None:
    """P16: in the middle of an epoch too; Lightning's warning that it cannot would be an error."""
    folder, diary, state = whole
    sampling = options()
    loader = numbered(num_workers=workers, persistent_workers=bool(workers))
    again = fit(sampling, loader=loader, max_epochs=4, resume=folder / f"{name}.ckpt")
    step = int(name.rpartition("=")[2])
    batches = [batch for epoch in range(4) for batch in diary.epochs[epoch]]
    assert [batch for epoch in again.epochs.values() for batch in epoch] == batches[step:]
    found = sampling.state_dict()
    assert torch.equal(found["losses"], state["losses"])
    assert torch.equal(found["seen_at"], state["seen_at"])
    assert not {"state_dict", "load_state_dict"} & set(loader.__dict__)


def test_a_checkpoint_holds_nothing_that_a_fit_without_it_would_miss(
    whole: tuple[Path, Diary, dict[str, Any]],
) -> None:
    checkpoint = torch.load(whole[0] / "step=13.ckpt", weights_only=True)
    assert "combined_loader" not in checkpoint["loops"]["fit_loop"]["state_dict"]
    assert set(checkpoint["callbacks"]["OHEMSampling"]) == {
        *("losses", "seen_at", "classes", "epoch", "noted", "position"),
    }


def test_a_second_fit_goes_on_with_the_losses_of_the_first() -> None:
    sampling, diary = OHEMSampling(hardest=0.2, mixed_epochs=1), Diary()
    driver = trainer(sampling, diary, max_epochs=2)
    module = Classifier(Known(), sgd)
    driver.fit(module, numbered())
    driver.fit_loop.max_epochs = 3
    driver.fit(module, numbered())
    assert set(HARD) <= set(diary.drawn(2))
    assert len(set(diary.drawn(2))) == 4


def test_the_losses_of_other_data_are_not_taken() -> None:
    sampling = OHEMSampling()
    driver = trainer(sampling, max_epochs=2)
    driver.fit(Classifier(), data(24, 4))
    driver.fit_loop.max_epochs = 3
    with pytest.warns(UserWarning, match="begins anew: the state is that of 24 samples"):
        driver.fit(Classifier(), data(12, 4))


# As a callback


def test_it_fits_the_trainer_of_either_lightning(lightning: ModuleType) -> None:
    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = Known()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return sgd(self.parameters())

    sampling = OHEMSampling()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    lightning.Trainer(
        callbacks=[sampling],
        accelerator="cpu",
        max_epochs=2,
        enable_model_summary=False,
        log_every_n_steps=1,
        **quiet,
    ).fit(Module(), numbered())
    assert not sampling.state_dict()["losses"].isnan().any()


def test_manual_optimisation_and_accumulation_feed_it_too() -> None:
    class Manual(Classifier):
        def __init__(self) -> None:
            super().__init__(Known(), sgd)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    one, other = OHEMSampling(), OHEMSampling()
    fit(one, module=Manual(), max_epochs=1)
    fit(other, accumulate_grad_batches=3, max_epochs=1)
    for sampling in (one, other):
        assert not sampling.state_dict()["losses"].isnan().any()


def test_copies_and_pickles_wait_for_a_fit() -> None:
    sampling = OHEMSampling(hardest=0.5, seed=4)
    fit(sampling)
    for twin in (copy.deepcopy(sampling), pickle.loads(pickle.dumps(sampling))):
        assert twin.sampler is None
        assert torch.equal(twin.state_dict()["losses"], sampling.state_dict()["losses"])
        fit(twin)


@pytest.mark.usefixtures("alone")
def test_a_file_of_lightnings_describes_it() -> None:
    found = callback(
        OHEMSampling,
        """
trainer:
  logger: false
  callbacks:
    - class_path: lightning_diag.OHEMSampling
      init_args: {by: loss, hardest: 0.25, half_life: null, seed: 3}
""",
    )
    assert found._options["by"] == "loss"
    assert found._options["half_life"] is None
    assert found._options["seed"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unbias": 2.0}, "`unbias` must be a power from 0 to 1, got 2.0"),
        ({"hardest": 25}, "`hardest` must be a share above 0 and below 1, got 25"),
        ({"replacement": False}, "`size` must be below 1 without replacement"),
    ],
)
def test_what_is_out_of_range_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OHEMSampling(**options)


def test_a_rank_that_has_failed_does_not_wait_for_others_when_it_saves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others are elsewhere: what it has seen itself is saved."""
    sampling = OHEMSampling()

    def hang(rows: Tensor) -> Tensor:
        raise AssertionError("nobody answers")

    class Saving(pl.Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == 2:
                monkeypatch.setattr("lightning_diag.hard.sampler.rows_of_all", hang)
                raise RuntimeError("on purpose")

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            trainer.save_checkpoint("failed.ckpt")

    with pytest.raises(RuntimeError, match="on purpose"):
        fit(Saving(), sampling)
    state = torch.load("failed.ckpt", weights_only=True)["callbacks"]["OHEMSampling"]
    assert len(state["noted"]) == state["position"] == 8
