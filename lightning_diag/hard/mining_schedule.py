"""`HardMining`: tells the losses of a module epoch and micro-batch, and logs what they keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_diag._compat import (
    Callback,
    LightningModule,
    MisconfigurationException,
    StepOutput,
    Trainer,
)
from lightning_diag.hard.choice import BINS, Mined
from lightning_diag.hard.ohem_module import OHEMLoss
from lightning_diag.probe.places import clean_name


class HardMining(Callback):
    """Tell every `OHEMLoss` of a module its epoch and micro-batch, and log what it keeps (H2).

    Everything is told again when each batch begins, so a run that is resumed in the middle of an
    epoch goes on as it would have. With manual optimisation micro-batches are yours to tell:
    ``criterion.set_micro_batch``.

    Args:
        log: Whether to log, at the trainer's `log_every_n_steps`: of the batch of that step, added
            up over ranks.
        classes: Shares of classes are logged if no class beyond so many was seen, from 0 to 256.

    Logs:
        ``mining/kept_fraction/<loss>``: share of the elements that count that was kept, 0 to 1.
        ``mining/threshold/<loss>``: the lowest loss that was kept, averaged over ranks.
        ``mining/class_fraction/<loss>/<class>``: share of a class in what was kept, 0 to 1.
        ``mining/nonfinite_count/<loss>``: elements so far that were left out since they were not
        finite. What was not observed is absent.

    Raises:
        ValueError: If `classes` is out of range.
        MisconfigurationException: When training begins, if the module has no `OHEMLoss`.

    Cost:
        Microseconds a batch; a copy to the host and one small reduction over ranks for each step
        that is logged.

    Example:
        >>> HardMining(classes=2).is_logged
        True
    """

    def __init__(self, *, log: bool = True, classes: int = 20) -> None:
        super().__init__()
        if not 0 <= classes <= BINS or classes != int(classes):
            raise ValueError(f"`classes` must be a whole number from 0 to {BINS}, got {classes}.")
        self.is_logged = log  # Lightning puts the module's `log` function into every callback
        self.classes = classes
        self._losses: dict[str, OHEMLoss] = {}
        self._epoch = -1
        self._logs = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the losses."""
        self._losses = {
            clean_name(name): module
            for name, module in pl_module.named_modules()
            if isinstance(module, OHEMLoss)
        }
        self._epoch = -1
        for loss in self._losses.values():
            # before anybody tries a step, as checks before training do
            loss.set_epoch(trainer.current_epoch)
            if pl_module.automatic_optimization:
                loss.set_micro_batch(is_last=True)
        # Loggers may stand on the first rank alone, and all ranks must join.
        self._logs = self.is_logged and (trainer.world_size > 1 or bool(trainer.loggers))
        if not self._losses:
            raise MisconfigurationException(
                f"HardMining found no OHEMLoss in {type(pl_module).__name__}: make one in its "
                "`__init__`, `self.criterion = OHEMLoss()`, or leave the callback out."
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tell each loss where training is."""
        is_last = not pl_module.automatic_optimization or not _accumulates(trainer)
        is_watched = self._logs and is_last and _is_logged(trainer)
        for loss in self._losses.values():
            if trainer.current_epoch != self._epoch:
                loss.set_epoch(trainer.current_epoch)
            if pl_module.automatic_optimization:
                loss.set_micro_batch(is_last=is_last, divisor=trainer.accumulate_grad_batches)
            if self._logs:
                loss.is_watched, loss.mined = is_watched, None
        self._epoch = trainer.current_epoch

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log what was kept, on the steps that are logged."""
        watched = {name: loss for name, loss in self._losses.items() if loss.is_watched}
        if not watched:
            return
        rows = [_numbers(loss, pl_module.device) for loss in watched.values()]
        # Every rank has these rows, whatever it has seen.
        table = torch.stack(rows)
        if trainer.world_size > 1:
            table = trainer.strategy.reduce(table, reduce_op="sum")
        found: dict[str, float] = {}
        for name, row in zip(watched, table.tolist(), strict=True):
            found.update(self._named(name, row))
        for loss in watched.values():
            loss.is_watched, loss.mined = False, None
        for logger in trainer.loggers:
            logger.log_metrics(found, step=_step(trainer))

    def _named(self, name: str, row: Sequence[float]) -> dict[str, float]:
        kept, valid, thresholds, threshold, nonfinite, *by_class = row
        found = {f"mining/nonfinite_count/{name}": nonfinite}
        if valid:
            found[f"mining/kept_fraction/{name}"] = kept / valid
        if thresholds:
            found[f"mining/threshold/{name}"] = threshold / thresholds
        kept_of, valid_of = by_class[:BINS], by_class[BINS:]
        if sum(kept_of) and not any(valid_of[self.classes :]):
            for i, count in enumerate(kept_of[: self.classes]):
                if valid_of[i]:
                    found[f"mining/class_fraction/{name}/{i}"] = count / kept
        return found

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of graphs: no step goes over the end of an epoch."""
        self._forget()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of graphs."""
        self._forget()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let go of the losses."""
        self._forget()
        self._losses = {}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the losses."""
        if stage == "fit":
            self._forget()
            self._losses = {}

    def _forget(self) -> None:
        for loss in self._losses.values():
            loss.forget()
            loss.is_watched = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave the losses behind."""
        return {**self.__dict__, "_losses": {}, "_epoch": -1}


def _accumulates(trainer: Any) -> bool:
    """Whether gradients are only added up in the batch that begins."""
    return bool(trainer.fit_loop._should_accumulate())


def _step(trainer: Any) -> int:
    """Return the step that Lightning's own numbers of this batch are logged at."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def _is_logged(trainer: Any) -> bool:
    every = trainer.log_every_n_steps
    return bool(every) and (_step(trainer) + 1) % every == 0


def _numbers(loss: OHEMLoss, device: torch.device) -> Tensor:
    """Return what one rank adds to what is logged of a loss.

    Shape:
        ``(5 + 512,)``, float64 where the device has it.
    """
    dtype = torch.float32 if device.type == "mps" else torch.float64
    nonfinite = loss.nonfinite_count
    head = torch.zeros(5, dtype=dtype, device=device)
    counts = torch.zeros(2 * BINS, dtype=dtype, device=device)
    mined: Mined | None = loss.mined
    if mined is not None:
        is_known = mined.threshold.isfinite()
        threshold = mined.threshold.masked_fill(~is_known, 0)
        head = torch.stack(
            [each.to(head) for each in (mined.kept, mined.valid, is_known, threshold)]
            + [torch.zeros_like(head[0])]
        )
        if mined.kept_of_class is not None and mined.valid_of_class is not None:
            counts = torch.cat([mined.kept_of_class, mined.valid_of_class]).to(counts)
    if nonfinite is not None:
        head = torch.cat([head[:4], nonfinite.to(head).reshape(1)])
    return torch.cat([head, counts])
