"""`OHEMSampling`: has training draw hard samples more often, in one line (H4, P16)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lightning_diag._compat import (
    Callback,
    LightningModule,
    MisconfigurationException,
    StepOutput,
    Trainer,
)
from lightning_diag.hard.collected import Collected
from lightning_diag.hard.drawing import By
from lightning_diag.hard.installing import RefusedError, drawn_by, install
from lightning_diag.hard.resuming import Resumed, epoch_of
from lightning_diag.hard.sampler import OHEMSampler
from lightning_diag.probe.drawn import shown_loaders
from lightning_diag.probe.sample_watch import SampleWatch, parts_of_batches
from lightning_diag.warning import warn


class OHEMSampling(Callback):
    """Draw hard samples more often, by the losses that they had in the epochs before (H4).

    It puts an `OHEMSampler` into the training loader for the time of the fit, on every rank, and
    feeds it with the loss of each sample as it enters the loss function: neither the module nor the
    data set need to be changed. Losses that torch has no function for come from `training_step`:
    ``return {"loss": loss, "losses": losses}``, one for each sample. Several losses of a sample are
    added up. Weights, schedules and random states are those of a shuffled run, but for the samples
    that are drawn; an epoch has as many batches as before, unless `size` says otherwise.

    Args:
        by: ``rank`` or ``loss``: what chances come from; see `OHEMSampler`, also for what follows.
        temperature: Above 0; the higher, the more alike are chances.
        uniform: Share of draws that fall on all samples alike, from 0 to 1; 1 is a shuffle.
        replacement: Whether a sample may come more than once in an epoch; without, `size` must be
            below 1.
        size: Length of an epoch, as a share of the loader's own, above 0.
        smoothing: Share of the old average that a new loss leaves, from 0 to below 1.
        half_life: Epochs after which a loss that is not renewed counts half as far from the
            average, above 0; None forgets nothing.
        hardest: Share of samples that hard epochs train on; None has no such epochs.
        hard_epochs: Hard epochs in a row, at least 1.
        mixed_epochs: Other epochs between them, at least 1.
        warmup: Epochs at the beginning that are shuffled alone, at least 1.
        keep_classes: Whether each class keeps its share of the draws. Classes are the targets of
            the loss.
        unbias: Power of the importance weights in `weights`, from 0 (none) to 1: with 1 the mean of
            weighted losses is that of a shuffled epoch. They are not applied by themselves: see
            `mean`.
        seed: The same on all ranks.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: When training begins, if the loader's samples cannot be drawn by
            position, or their losses cannot be seen; it says what to return.

    Cost:
        Each batch the loss once more, without gradient; see docs/hard-examples/sampler.md. 8 bytes
        a sample on each rank and in checkpoints, and as many again during an epoch; ranks join what
        they have seen when an epoch ends, and when a checkpoint is saved.

    Example:
        >>> OHEMSampling(hardest=0.25, mixed_epochs=4).state_key
        'OHEMSampling'

    See Also:
        `OHEMSampler`: the same for a loop of one's own.
    """

    def __init__(
        self,
        *,
        by: By = "rank",
        temperature: float = 0.5,
        uniform: float = 0.2,
        replacement: bool = True,
        size: float = 1.0,
        smoothing: float = 0.5,
        half_life: float | None = 8.0,
        hardest: float | None = None,
        hard_epochs: int = 1,
        mixed_epochs: int = 3,
        warmup: int = 1,
        keep_classes: bool = False,
        unbias: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= unbias <= 1:
            raise ValueError(f"`unbias` must be a power from 0 to 1, got {unbias}.")
        self.size, self.unbias, self.keep_classes = size, unbias, keep_classes
        self._options: dict[str, Any] = {
            "by": by,
            "temperature": temperature,
            "uniform": uniform,
            "replacement": replacement,
            "smoothing": smoothing,
            "half_life": half_life,
            "hardest": hardest,
            "hard_epochs": hard_epochs,
            "mixed_epochs": mixed_epochs,
            "warmup": warmup,
            "keep_classes": keep_classes,
            "seed": seed,
        }
        OHEMSampler(1, size=size, **self._options)  # refuses what is out of range
        self.weights: Tensor | None = None
        """``(samples,)``: importance weights of the batch in training, on its device; None without
        `unbias`."""
        self._state: Mapping[str, Any] | None = None
        self._forget()

    def _forget(self) -> None:
        self.sampler: OHEMSampler | None = None
        """What training draws from; None outside of a fit."""
        self.weights = None
        self._found = Collected(needs_classes=self.keep_classes)
        self._watch = SampleWatch(self._found.take)
        self._undo: list[Callable[[], None]] = []
        self._resumed = Resumed()
        self._problem = ""
        self._position = 0
        self._is_proven = False

    # -- the fit -----------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the training loader, which is made next."""
        self._release()
        same = getattr(trainer, "overfit_batches", 0)
        if same > 0:
            raise MisconfigurationException(
                f"OHEMSampling cannot draw samples with Trainer(overfit_batches={same}), which "
                "trains on the same batches in every epoch: leave one of the two out."
            )
        if parts_of_batches(trainer):
            raise MisconfigurationException(
                "OHEMSampling cannot be used beside SelectiveBackprop, which trains on a part of "
                "each batch, so that the losses of the rest are not known: leave one of the two "
                "out."
            )
        self._undo.append(shown_loaders(trainer, lambda loader: self._adopt(trainer, loader)))
        self._watch.fit_start(trainer, pl_module)

    def _adopt(self, trainer: Any, loader: Any) -> None:
        """Put the sampler into a training loader."""
        present = getattr(loader, "sampler", None)
        if isinstance(present, OHEMSampler):
            if present is self.sampler:
                return
            raise MisconfigurationException(
                "the training loader draws from an OHEMSampler already: give OHEMSampling alone, "
                "and once."
            )
        try:
            drawn = drawn_by(loader)
        except RefusedError as error:
            raise MisconfigurationException(f"OHEMSampling cannot be used: {error}") from error
        if self.sampler is None or len(self.sampler.losses) != drawn.samples:
            among = trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
            places = drawn.samples if drawn.pool is None else len(drawn.pool)
            size = self.size * drawn.draws / max(1, places) or self.size
            options = {**self._options, **among, "pool": drawn.pool, "size": size}
            self.sampler = OHEMSampler(drawn.samples, takes_seed=drawn.takes_seed, **options)
            state, self._state = self._state, None
            self._position = self._resumed.go_on(trainer, self.sampler, loader, state)
        self._undo.append(install(loader, self.sampler))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse several loaders: positions would be ambiguous."""
        loop: Any = trainer.fit_loop
        loaders = len(loop._combined_loader.flattened)
        if loaders != 1:
            raise MisconfigurationException(
                f"OHEMSampling needs one training loader, and there are {loaders}: join the data "
                "sets with torch.utils.data.ConcatDataset."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the beginning."""
        self._position = 0
        if self.sampler is not None:
            # Lightning does not find samplers within samplers
            self.sampler.set_epoch(epoch_of(trainer))

    # -- a batch -----------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at the losses of the batch."""
        self._resumed.leave()
        self._found.clear()
        self._watch.batch_start(batch, batch_idx)
        indices = self._watch.indices
        if self.unbias and self.sampler is not None and indices is not None:
            found = self.sampler.importance(indices) ** self.unbias
            self.weights = found.to(pl_module.device)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Look away: what backward recomputes is not a new loss."""
        self._watch.pause()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look again."""
        self._watch.resume()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take note of them."""
        self._watch.batch_end(outputs)
        indices, found = self._watch.indices, self._found
        self._position += 0 if indices is None else len(indices)
        self.weights = None
        problem = "" if self._is_proven else found.problem(indices, self._watch.reason)
        if problem and (outputs or found.losses is not None):
            raise MisconfigurationException(problem)
        self._problem = problem
        if found.losses is not None and indices is not None and self.sampler is not None:
            self._is_proven = True
            self.sampler.note(indices, found.losses, found.classes)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the next epoch be drawn by the losses of this one, on all ranks."""
        if self._problem:  # not at once, since a step that returns nothing may be skipped
            warn(self._problem)
        if self.sampler is not None:
            self.sampler.end_epoch()

    # -- the end -----------------------------------------------------------------------------

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the loader as it was."""
        if stage == "fit":
            self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Do so at once."""
        self._release()

    def _release(self) -> None:
        self._resumed.leave()
        self._watch.let_go()
        for undo in reversed(self._undo):
            undo()
        if self.sampler is not None:
            self._state = self.sampler.state_dict(position=self._position)
        self._forget()

    # -- importance weights ------------------------------------------------------------------

    def mean(self, losses: Tensor) -> Tensor:
        """Return the mean of the losses of a training batch, by its importance weights.

        With ``unbias=1`` it estimates that of a shuffled epoch. Without weights, as outside of
        training and without `unbias`, it is the plain mean.

        Args:
            losses: Of each sample, as with ``reduction="none"``.

        Shape:
            ``(samples,)`` or ``(samples, *)`` -> ``()``.

        Raises:
            ValueError: If there is not a loss for each sample of the batch.
        """
        if self.weights is None:
            return losses.mean()
        if losses.dim() == 0 or len(losses) != len(self.weights):
            raise ValueError(
                f"`losses` must hold one for each of {len(self.weights)} samples of the batch, got "
                f'the shape {tuple(losses.shape)}: compute them with reduction="none".'
            )
        weights = self.weights.to(losses).view(-1, *[1] * (losses.dim() - 1))
        return (weights * losses).mean()

    # -- state -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what `OHEMSampler.state_dict` does."""
        if self.sampler is None:
            return dict(self._state or {})
        return self.sampler.state_dict(position=self._position)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what other ranks have seen of the epoch; all of them save."""
        # a rank that has failed is alone
        if self.sampler is not None and trainer.state.status != "interrupted":
            own = checkpoint.get("callbacks", {}).get(self.state_key)
            rows = self.sampler.joined_rows()
            if own:
                own["noted"] = rows

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, as soon as the loader is there."""
        self._state = state_dict or None

    def __getstate__(self) -> dict[str, Any]:
        """Leave loader and sampler behind: a copy draws nothing yet."""
        live = ("_watch", "_found", "_undo", "_resumed", "sampler", "weights")
        kept = {name: value for name, value in self.__dict__.items() if name not in live}
        return {**kept, "_state": self.state_dict() or None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Wait for a fit."""
        kept = state["_state"]
        self.__dict__.update(state)
        self._forget()
        self._state = kept
