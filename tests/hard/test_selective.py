"""`SelectiveBackprop` trains on what it should, and scoring leaves nothing behind."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers.logger import Logger
from runs import Classifier, Net, data, seeded, trainer
from torch import Tensor
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack

from hard.numbered import Numbered, Reference, numbered
from lightning_diag import DiagWarning, SelectiveBackprop
from lightning_diag._compat import MisconfigurationException

ALL = 0.999
"""A share at which every sample is kept, after all have been scored."""


def fit(
    *callbacks: Any, kind: type[Numbered] = Numbered, loader: Any = None, **options: Any
) -> Numbered:
    """Train; return the module."""
    torch.manual_seed(0)
    module = kind()
    trainer(*callbacks, **options).fit(module, loader or numbered())
    return module


def sizes(module: Numbered) -> list[int]:
    return [len(each) for each in module.trained]


def test_the_step_is_taken_on_the_samples_of_the_highest_losses() -> None:
    reference = Reference()
    module = fit(reference, SelectiveBackprop(0.25))
    assert len(module.trained) == 8
    for trained, losses in zip(module.trained, reference.losses, strict=True):
        assert set(trained) == set(sorted(losses, key=losses.__getitem__)[-3:])


def test_weights_move_as_by_training_on_the_chosen_samples() -> None:
    """Nothing of the others gets into a gradient."""
    selective = fit(SelectiveBackprop(0.25))
    torch.manual_seed(0)
    bare = Numbered()
    optimizer = bare.configure_optimizers()
    x, y, _ = numbered().dataset.tensors  # type: ignore[attr-defined]
    for trained in selective.trained:
        optimizer.zero_grad()
        bare.loss(x[trained], y[trained]).backward()
        optimizer.step()
    for ours, theirs in zip(selective.parameters(), bare.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# Nothing is left of a scoring


class Diligent(Classifier):
    """Logs, counts and draws before its loss; has batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(3)
        self.mean, self.every = torchmetrics.MeanMetric(), torchmetrics.CatMetric()
        self.held: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        out = self.net(x + 0.01 * torch.randn_like(x) * random.random() * np.random.rand())  # noqa: NPY002
        self.log("running", self.net.norm.running_mean.mean())
        self.mean(out.mean())
        self.every.update(out[0, 0].detach())
        self.log_dict({"accuracy": self.accuracy(out, y), "epoch": self.mean}, on_epoch=True)
        assert self.logger is not None
        self.logger.log_metrics({"own": out.mean().item()}, self.global_step)
        loss = functional.cross_entropy(out, y)
        self.log("loss", loss, on_epoch=True)
        self.held.append(loss.item())
        return loss


class Notebook(Logger):
    """Keeps all that it is told."""

    name, version = "notebook", 0

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Any] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.notes.append((step, metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing of them."""


def outcome(*callbacks: Any, **options: Any) -> dict[str, Any]:
    """Train with all seeds fixed; return everything that training leaves behind."""

    def run() -> dict[str, Any]:
        module, notebook = Diligent(), Notebook()
        coach = trainer(*callbacks, logger=notebook, **options)
        coach.fit(module, data(shuffle=True))
        return {
            "weights and buffers": module.state_dict(),
            "optimizer": coach.optimizers[0].state_dict(),
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False)["state"],  # noqa: NPY002
            "modes": [m.training for m in module.modules()],
            "logged": notebook.notes,
            "held": module.held,
            "counted": module.every.compute(),
            "attached": "log" in vars(module) or "training_step" in vars(coach.strategy),
        }

    result: dict[str, Any] = seeded(run)
    return result


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed", "accumulate_grad_batches": 2}])
def test_a_scoring_leaves_nothing_behind(options: dict[str, Any]) -> None:
    """P2: where all samples are kept, training is what it is without, bit for bit."""
    torch.testing.assert_close(
        outcome(SelectiveBackprop(ALL), **options), outcome(**options), rtol=0, atol=0
    )


def test_two_at_once_leave_nothing_behind() -> None:
    both = outcome(SelectiveBackprop(ALL), SelectiveBackprop(ALL, selection="sampled"))
    torch.testing.assert_close(both, outcome(), rtol=0, atol=0)


def test_a_scoring_ends_with_the_loss() -> None:
    """What comes after it in a training step is not run twice, nor is it waited for."""
    after: list[int] = []

    class Late(Numbered):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            try:
                loss = super().training_step(batch, batch_idx)
            except Exception:  # noqa: BLE001  # what users do
                return None
            after.append(len(batch[0]))
            return loss

    fit(SelectiveBackprop(0.5), kind=Late)
    assert after == [6] * 8


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_stays_attached_when_training_fails(error: type[BaseException]) -> None:
    class Failing(Numbered):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            if self.global_step == 2:
                raise error("in a scoring")
            return super().loss(x, y)

    module = Failing()
    coach = trainer(SelectiveBackprop(0.5))
    with pytest.raises((error, SystemExit)):
        coach.fit(module, numbered())
    assert "training_step" not in vars(coach.strategy)
    assert "log" not in vars(module)
    assert not _get_current_function_mode_stack()
    assert torch.is_grad_enabled()


# When, and what of


def test_it_is_on_for_a_share_of_the_steps_and_of_the_batches() -> None:
    module = fit(SelectiveBackprop(0.5, start=0.25, end=0.75, every_n_batches=2), max_epochs=4)
    assert sizes(module) == [12] * 4 + [6, 12] * 4 + [12] * 4


def test_shares_are_of_optimizer_steps() -> None:
    module = fit(SelectiveBackprop(0.5, start=0.5), max_epochs=2, accumulate_grad_batches=2)
    assert sizes(module) == [12] * 4 + [6] * 4


def test_two_at_once_each_choose_of_what_is_left() -> None:
    module = fit(SelectiveBackprop(0.5), SelectiveBackprop(0.5, start=0.5))
    assert sizes(module) == [6] * 4 + [3] * 4


def test_a_batch_is_scored_once_for_an_optimizer_that_asks_again() -> None:
    class Repeating(Numbered):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), max_iter=3)

    module = fit(SelectiveBackprop(0.25, selection="sampled"), kind=Repeating, max_epochs=1)
    assert len(module.trained) > 4
    assert len({tuple(each) for each in module.trained}) == 4


def test_random_samples_are_not_scored() -> None:
    calls: list[bool] = []

    class Counting(Numbered):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            calls.append(torch.is_grad_enabled())
            return super().training_step(batch, batch_idx)

    module = fit(SelectiveBackprop(0.5, selection="random"), kind=Counting)
    assert calls == [True] * 8
    assert sizes(module) == [6] * 8


class Loader:
    """Batches of any form."""

    def __init__(self, form: Callable[[Any], Any]) -> None:
        self.batches = [form(batch) for batch in numbered(shuffle=False)]

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


FORMS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "mapping": (lambda b: dict(zip("xyi", b, strict=True)), lambda b: [b[k] for k in "xyi"]),
    "nested": (lambda b: ({"in": [b[0]]}, b[1:]), lambda b: [b[0]["in"][0], *b[1]]),
    "list of samples": (
        lambda b: list(zip(*b, strict=True)),
        lambda b: [torch.stack(part) for part in zip(*b, strict=True)],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_may_have_any_form(form: str) -> None:
    there, back = FORMS[form]

    class Formed(Numbered):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(back(batch), batch_idx)

    plain = fit(SelectiveBackprop(0.25), loader=numbered(shuffle=False))
    module = fit(SelectiveBackprop(0.25), kind=Formed, loader=Loader(there))
    assert module.trained == plain.trained


# Where losses come from


class Own(Numbered):
    """Computes its loss by itself."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.each(x, y).mean()

    def each(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each sample."""
        each: Tensor = -self.net(x).log_softmax(1)[torch.arange(len(y)), y]
        return each


class Returning(Own):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return {"loss": loss, "losses": self.each(batch[0], batch[1])}


class Weighted(Numbered):
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(self.net(x), y, torch.ones(3), label_smoothing=0.1)


def scored(module: Own, batch: tuple[Tensor, Tensor]) -> Tensor:
    return module.each(batch[0], batch[1])


@pytest.mark.parametrize("way", ["returned", "scored"])
def test_losses_may_be_returned_or_scored_by_a_function(way: str) -> None:
    """The same samples as by the loss function's call."""
    plain = fit(SelectiveBackprop(0.25))
    if way == "returned":
        module = fit(SelectiveBackprop(0.25), kind=Returning)
    else:
        module = fit(SelectiveBackprop(0.25, score=scored), kind=Own)
    assert module.trained == plain.trained


def test_scores_leave_out_weights_and_smoothing() -> None:
    first = fit(SelectiveBackprop(0.25), kind=Weighted, max_steps=1)
    assert first.trained == fit(SelectiveBackprop(0.25), max_steps=1).trained


def test_parts_of_large_predictions_are_all_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_diag.measure.sample_loss._ELEMENTS", 15)
    plain = fit(SelectiveBackprop(0.25))
    monkeypatch.undo()
    assert fit(SelectiveBackprop(0.25)).trained == plain.trained


def test_unseen_losses_are_an_error_that_says_what_to_return() -> None:
    with pytest.raises(
        MisconfigurationException, match=r"return .*'losses'.* from `training_step`"
    ):
        fit(SelectiveBackprop(0.5), kind=Own)


def test_a_batch_that_cannot_be_cut_is_an_error_that_says_why() -> None:
    class Odd(Numbered):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch[0], batch_idx)

    with pytest.raises(MisconfigurationException, match=r"12 rows, but `batch.1` of shape \(7,\)"):
        fit(SelectiveBackprop(0.5), kind=Odd, loader=Loader(lambda b: [b, torch.zeros(7)]))


@pytest.mark.parametrize(("unseen", "size"), [("random", 6), ("all", 12)])
def test_without_losses_training_goes_on_if_that_is_wanted(unseen: Any, size: int) -> None:
    with pytest.warns(DiagWarning, match="did not see a loss of each sample") as told:
        module = fit(SelectiveBackprop(0.5, unseen=unseen), kind=Own)
    assert sizes(module) == [size] * 8
    assert [each.category for each in told].count(DiagWarning) == 1


# Resumption, copies and arguments


class Resumable(Numbered):
    """Has batches that depend on the step alone: loaders do not go on by themselves."""

    BATCHES = tuple(numbered(shuffle=False))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.BATCHES[self.global_step % 4]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_resumed_run_chooses_what_the_run_would_have_chosen(tmp_path: Path) -> None:
    """R2: in the middle of an epoch, where samples are drawn."""
    options: dict[str, Any] = {"selection": "sampled", "start": 0.25}
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=6, save_top_k=-1)
    whole = fit(
        SelectiveBackprop(0.25, **options),
        saving,
        kind=Resumable,
        max_epochs=3,
        enable_checkpointing=True,
    )
    again = Resumable()
    coach = trainer(SelectiveBackprop(0.25, **options), max_epochs=3)
    torch.manual_seed(1)
    coach.fit(again, numbered(), ckpt_path=tmp_path / "step=6.ckpt", weights_only=True)
    assert again.trained == whole.trained[6:]
    for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_modules_and_the_callback_can_be_copied_in_the_middle() -> None:
    class Copying(pl.Callback):
        copies: tuple[Any, ...] = ()

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            self.copies = (copy.deepcopy(module), pickle.loads(pickle.dumps(selective)))

    selective, copying = SelectiveBackprop(0.25, seed=3), Copying()
    fit(selective, copying)
    module, again = copying.copies
    assert "training_step" not in vars(module)
    assert (again.keep, again.seed) == (0.25, 3)
    assert sizes(fit(again)) == [3] * 8


def test_it_works_in_the_other_namespace() -> None:
    sizes: list[int] = []

    class Other(lightning.pytorch.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            sizes.append(len(batch[0]))
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    coach = lightning.pytorch.Trainer(
        accelerator="cpu",
        callbacks=[SelectiveBackprop(0.5)],
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    coach.fit(Other(), data(batch_size=12))
    assert sizes == [12, 6, 12, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0.0}, "`keep` must be above 0 and at most 1, got 0.0"),
        ({"start": 0.9, "end": 0.5}, "`start` and `end` must be shares from 0 to 1"),
        ({"every_n_batches": 0}, "`every_n_batches` must be a whole number of at least 1, got 0"),
        ({"selection": "best"}, "`selection` must be one of hardest, sampled, random, got 'best'"),
        ({"unseen": "skip"}, "`unseen` must be one of raise, random, all, got 'skip'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectiveBackprop(**arguments)


def test_a_score_must_be_a_function() -> None:
    with pytest.raises(TypeError, match="`score` must be a function of module and batch, got str"):
        SelectiveBackprop(score="loss")  # type: ignore[arg-type]


def test_a_training_of_unknown_length_has_no_shares() -> None:
    with pytest.raises(MisconfigurationException, match=r"limit it with Trainer\(max_steps"):
        fit(SelectiveBackprop(start=0.5), max_epochs=-1, max_time={"seconds": 5})


def test_manual_optimisation_is_refused() -> None:
    class Manual(Numbered):
        automatic_optimization = False

    with pytest.raises(MisconfigurationException, match="needs automatic optimisation"):
        fit(SelectiveBackprop(), kind=Manual)


@pytest.mark.slow
def test_a_compiled_module_is_scored_without_being_compiled_again() -> None:
    """P8: and trains on the same samples."""
    plain = fit(SelectiveBackprop(0.25))
    torch.manual_seed(0)
    module = Numbered()
    compiled = torch.compile(module, backend="eager")
    trainer(SelectiveBackprop(0.25)).fit(compiled, numbered())  # type: ignore[arg-type]
    assert module.trained == plain.trained
