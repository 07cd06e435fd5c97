"""`HardMining`: losses know epoch and micro-batch, and it is seen what they keep (H2, P28)."""

from __future__ import annotations

import importlib
import math
import pickle
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from cli_config import callback
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from runs import EVERY_STEP, data, history, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_diag import DiagWarning, HardMining, OHEMLoss, OutputMonitor
from lightning_diag._compat import MisconfigurationException


class Notebook(Logger):
    """Keeps what is logged, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    name = version = "notebook"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        found = {name: value for name, value in metrics.items() if name.startswith("mining/")}
        if found:
            self.rows[step] = found


class Miner(pl.LightningModule):
    """Trains a linear layer on what a loss keeps; remembers what the loss was told."""

    def __init__(self, criterion: OHEMLoss | None = None, fails_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(8, 3)
        self.criterion = criterion or OHEMLoss(keep=0.5)
        self.fails_at = fails_at
        self.stages: list[int] = []
        self.watched: list[bool] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == self.fails_at:
            raise ZeroDivisionError
        stage = self.criterion._stage
        self.stages.append(-1 if stage is None else int(stage.done))
        self.watched.append(self.criterion.is_watched)
        loss: Tensor = self.criterion(self.layer(batch[0]), batch[1])
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Validated(Miner):
    """Compares its loss with cross-entropy in validation."""

    def __init__(self, criterion: OHEMLoss) -> None:
        super().__init__(criterion)
        self.validated: list[float] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x = self.layer(batch[0])
        difference = self.criterion(x, batch[1]) - functional.cross_entropy(x, batch[1])
        self.validated.append(float(difference))


def fitted(module: Miner, *callbacks: Any, loader: Any = None, **options: Any) -> Miner:
    resume = options.pop("ckpt_path", None)
    trainer(*callbacks, **options).fit(module, loader or data(40), ckpt_path=resume)
    return module


def test_an_accumulated_batch_trains_as_the_joined_one_does() -> None:
    """Five batches in steps of two: the last step has one."""
    for options in ({"keep": 0.3}, {"ratio": 1}, {"keep": 0.3, "reduction": "sum"}):
        joined = fitted(Miner(OHEMLoss(**options)), HardMining(), loader=data(40, 16))
        split = fitted(
            Miner(OHEMLoss(scope="accumulated", **options)),
            HardMining(),
            accumulate_grad_batches=2,
        )
        apart = fitted(Miner(OHEMLoss(**options)), accumulate_grad_batches=2)
        torch.testing.assert_close(split.layer.weight, joined.layer.weight)
        assert not torch.allclose(apart.layer.weight, joined.layer.weight, rtol=1e-2)


def test_a_loss_is_told_before_training_is_tried(recwarn: pytest.WarningsRecorder) -> None:
    """Checks before training run a step of a copy of the module, and would have it ask."""
    criterion = OHEMLoss(scope="accumulated", warmup_epochs=1)

    class Trying(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            x = torch.rand(4, 3, requires_grad=True)
            assert pl_module.criterion(x, torch.tensor([0, 1, 2, 0])).requires_grad

    fitted(Miner(criterion), Trying(), HardMining(), max_epochs=1)
    assert [one for one in recwarn if one.category is DiagWarning] == []


def test_a_loss_that_is_compiled_is_logged_under_its_own_name() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._orig_mod = OHEMLoss()  # as `torch.compile` does

        def forward(self, x: Tensor, target: Tensor) -> Tensor:
            loss: Tensor = self._orig_mod(x, target)
            return loss

    class Compiled(Miner):
        def __init__(self) -> None:
            super().__init__()
            self.wrapped = Wrapped()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss: Tensor = self.wrapped(self.layer(batch[0]), batch[1])
            return loss

    notebook = Notebook()
    fitted(Compiled(), HardMining(), max_epochs=1, logger=notebook)
    assert "mining/kept_fraction/wrapped" in notebook.rows[0]


def test_each_epoch_is_told_and_a_run_that_is_resumed_is_the_one_that_went_on() -> None:
    """Also in the middle of an epoch, where Lightning begins none."""

    def mining() -> Miner:
        return Miner(OHEMLoss(keep=0.25, warmup_epochs=1, anneal_epochs=1))

    same: Any = [next(iter(data(8)))] * 5  # since Lightning begins with the first batch again
    options: dict[str, Any] = {"loader": DataLoader(same, None), "max_epochs": 3}
    saving = ModelCheckpoint(".", "{step}", every_n_train_steps=7, save_top_k=-1)
    whole = fitted(mining(), HardMining(), saving, enable_checkpointing=True, **options)
    assert whole.stages == [0] * 5 + [1] * 5 + [2] * 5
    with pytest.warns(UserWarning):  # noqa: PT030  # Lightning's: no loader of ours has a state
        resumed = fitted(mining(), HardMining(), ckpt_path="step=7.ckpt", **options)
    assert resumed.stages == whole.stages[7:]
    assert resumed.layer.weight.equal(whole.layer.weight)


def test_it_logs_what_was_kept_on_the_steps_that_are_logged() -> None:
    notebook = Notebook()
    module = fitted(
        Miner(OHEMLoss(keep=0.5)),
        HardMining(),
        max_epochs=1,
        logger=notebook,
        log_every_n_steps=2,
    )
    assert module.watched == [False, True, False, True, False]
    assert list(notebook.rows) == [1, 3]
    assert module.criterion.mined is None
    row = notebook.rows[1]
    assert row["mining/kept_fraction/criterion"] == 0.5
    assert row["mining/threshold/criterion"] > 0
    assert row["mining/nonfinite_count/criterion"] == 0
    shares = [value for name, value in row.items() if "class_fraction" in name]
    assert sum(shares) == pytest.approx(1)
    assert all(share * 4 == round(share * 4) for share in shares)


def test_numbers_are_those_of_the_batch_in_which_the_optimizer_steps() -> None:
    notebook, criterion = Notebook(), OHEMLoss(ratio=1, scope="accumulated")
    module = fitted(
        Miner(criterion),
        HardMining(classes=2),
        max_epochs=1,
        logger=notebook,
        accumulate_grad_batches=2,
    )
    assert module.watched == [False, True, False, True, True]
    labels = [data(40).dataset[i][1].item() for i in range(16)]
    rarest = min(labels.count(each) for each in set(labels))
    assert notebook.rows[0]["mining/kept_fraction/criterion"] == 3 * rarest / 16
    # there are three classes, and two were asked for
    assert not any("class_fraction" in name for name in notebook.rows[0])


def test_what_is_not_finite_is_counted_in_the_loggers() -> None:
    class Spoilt(Miner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self.layer(batch[0])
            if batch_idx == 1:
                logits = logits + torch.tensor([[0.0], [0.0], [0.0], [math.nan]])
            loss: Tensor = self.criterion(logits, batch[1])
            return loss

    notebook = Notebook()
    with pytest.warns(DiagWarning, match="The loss of 1 element was not finite"):
        fitted(Spoilt(), HardMining(), max_epochs=1, logger=notebook, loader=data(12, 4))
    assert [row["mining/nonfinite_count/criterion"] for row in notebook.rows.values()] == [0, 1, 1]


def test_monitors_see_the_logits_of_all_samples() -> None:
    fitted(Miner(), OutputMonitor(**EVERY_STEP), max_epochs=1)
    (place,) = history().meta["losses"]
    assert place == "criterion/cross_entropy#0"
    assert list(history().last("output/loss")) == [place]


def test_nothing_is_mined_in_validation() -> None:
    module = Validated(OHEMLoss(scope="accumulated", keep=1))
    trainer(HardMining(), accumulate_grad_batches=2, val_check_interval=1).fit(
        module, data(40), data(8)
    )
    assert module.validated == pytest.approx([0.0] * len(module.validated), abs=1e-6)
    assert len(module.validated) == 10


def test_no_graph_is_left_when_a_fit_fails() -> None:
    module = Miner(OHEMLoss(scope="accumulated"), fails_at=1)
    mining = HardMining()
    with pytest.raises(ZeroDivisionError):
        fitted(module, mining, accumulate_grad_batches=2)
    assert module.criterion._pending == []
    assert module.criterion._is_last
    assert mining._losses == {}


def test_two_of_them_do_no_harm_and_none_changes_what_is_trained() -> None:
    bare, notebook = fitted(Miner()), Notebook()
    twice = fitted(Miner(), HardMining(), HardMining(log=False), logger=notebook)
    assert len(notebook.rows) == 10
    fitted(Miner(), HardMining(log=False), logger=(silent := Notebook()))
    assert silent.rows == {}
    assert twice.layer.weight.equal(bare.layer.weight)


class Alternating(Miner):
    """Takes steps itself, one for each two batches."""

    def __init__(self, criterion: OHEMLoss) -> None:
        super().__init__(criterion)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        is_last = batch_idx % 2 == 1
        self.criterion.set_micro_batch(is_last=is_last)
        self.manual_backward(self.criterion(self.layer(batch[0]), batch[1]))
        if is_last:
            optimizer.step()
            optimizer.zero_grad()


def test_with_manual_optimisation_micro_batches_are_the_users_to_tell() -> None:
    joined = fitted(Miner(OHEMLoss(keep=0.3)), loader=data(32, 16))
    split = fitted(
        Alternating(OHEMLoss(keep=0.3, scope="accumulated")),
        HardMining(),
        loader=data(32, 8),
        logger=Notebook(),
    )
    torch.testing.assert_close(split.layer.weight, joined.layer.weight)


def test_a_module_without_such_a_loss_is_refused() -> None:
    class Plain(Miner):
        def __init__(self) -> None:
            super().__init__()
            del self.criterion

    with pytest.raises(MisconfigurationException, match="found no OHEMLoss in Plain"):
        fitted(Plain(), HardMining())
    with pytest.raises(ValueError, match="`classes` must be"):
        HardMining(classes=257)


def test_it_works_in_both_namespaces(lightning: ModuleType) -> None:
    base: Any = lightning.LightningModule

    class Plain(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)
            self.criterion = OHEMLoss(warmup_epochs=1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss: Tensor = self.criterion(self.layer(batch[0]), batch[1])
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Plain()
    logger = importlib.import_module(f"{lightning.__name__}.loggers").CSVLogger(".")
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[HardMining()],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    ).fit(module, data(16))
    stage = module.criterion._stage
    assert stage is not None
    assert int(stage.done) == 1
    assert "mining/kept_fraction/criterion" in logger.experiment.metrics_keys


@pytest.mark.usefixtures("alone")
def test_a_config_file_describes_it() -> None:
    config = """
trainer:
  callbacks:
    - class_path: lightning_diag.HardMining
      init_args: {log: false, classes: 7}
"""
    mining = callback(HardMining, config)
    assert (mining.is_logged, mining.classes) == (False, 7)


def test_it_pickles_without_the_losses() -> None:
    mining = HardMining(classes=3)
    mining._losses = {"criterion": OHEMLoss()}
    assert pickle.loads(pickle.dumps(mining))._losses == {}
