"""Knows the last optimizer step of a fit before it is taken (P38)."""

from __future__ import annotations

from lightning_diag.probe.run import Run


class Ending:
    """Says whether a batch belongs to the last step of the fit, as far as that can be known.

    `max_steps` and `max_epochs` tell it in advance. A run that a callback may stop early ends, as a
    rule, with an epoch: then the last step of each epoch counts as one.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._batch: int | None = None
        self._epoch = -1
        trainer = run.trainer
        self._has_max_steps = trainer.max_steps != -1
        self._steps_before = int(trainer.global_step)

    def begin_epoch(self) -> None:
        """Find out where the epoch that has begun may end the fit."""
        self._epoch = self._run.trainer.current_epoch
        self._batch = self._last_batch()

    def reached(self, batch_idx: int, steps_taken: int) -> bool:
        """Whether the step that starts with this batch is the last.

        Args:
            batch_idx: The batch's number in its epoch.
            steps_taken: Optimizer steps of this fit before it.
        """
        if self._has_max_steps and self._at_max_steps(steps_taken):
            return True
        if self._batch is None:
            return False
        if self._batch < 0:
            return bool(self._run.trainer.is_last_batch)
        return batch_idx >= self._batch

    def _at_max_steps(self, steps_taken: int) -> bool:
        trainer, each = self._run.trainer, 1.0
        if steps_taken > 0 and not self._run.automatic:
            # the trainer counts the steps of all optimizers
            each = max(1.0, (trainer.global_step - self._steps_before) / steps_taken)
        return bool(self._steps_before + (steps_taken + 1) * each >= trainer.max_steps)

    def _last_batch(self) -> int | None:
        """Return the first batch of the epoch's last step if the fit may end there.

        None if it does not; -1 if it may, but the length of the epoch is not known.
        """
        trainer = self._run.trainer
        limited = trainer.max_epochs is not None and trainer.max_epochs != -1
        last_epoch = limited and self._epoch + 1 >= trainer.max_epochs
        if not last_epoch and not trainer.early_stopping_callbacks:
            return None
        batches = trainer.num_training_batches
        if not isinstance(batches, int):
            return -1
        accumulate = max(1, trainer.accumulate_grad_batches) if self._run.automatic else 1
        return (batches - 1) // accumulate * accumulate
