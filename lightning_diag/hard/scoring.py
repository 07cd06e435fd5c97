"""The loss of each sample of a batch, by the module's own training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_diag.hard.rows import are_rows
from lightning_diag.hard.untouched import untouched
from lightning_diag.measure.base import LossCall
from lightning_diag.measure.sample_loss import losses_of_all
from lightning_diag.probe.eager import EagerStep
from lightning_diag.probe.loss_watch import LossWatch

RETURNED = ("losses", "sample_losses")
"""Names under which a training step may return the loss of each sample."""
_UNSEEN = (
    "did not see a loss of each sample: use a loss function of torch on the batch's samples, "
    "return {'loss': ..., 'losses': one for each sample} from `training_step`, or give a function "
    "as `score`"
)


class _Seen(BaseException):
    """Leaves the training step; not an `Exception`, which a step may well catch."""

    def __init__(self, losses: Tensor) -> None:
        super().__init__()
        self.losses = losses


def score_step(trainer: Any, module: Any, batch: Any, rest: tuple[Any, ...]) -> Tensor | str:
    """Run a training step as far as its loss, and return the loss of each sample.

    What counts is the first loss function that is called on the samples of the batch, without
    weights of classes, label smoothing or reduction; where there is none, what the step returns as
    ``losses``. Of the step nothing is left; see `untouched`.

    Args:
        trainer: The module's.
        module: What is trained, as the user wrote it.
        batch: What it is trained on.
        rest: What else the step is given.

    Returns:
        ``(samples,)``, on the device, -inf where a target does not count. Where no such loss was
        seen, what happened instead, as the rest of a sentence.
    """
    problem = ""

    def show(call: LossCall) -> None:
        nonlocal problem
        losses = losses_of_all(call)
        if losses is None:
            return
        reason = are_rows(batch, len(losses))
        if not reason:
            raise _Seen(losses)
        problem = f"saw {call.function} of {len(losses)} rows, but {reason}"

    watch, eager = LossWatch({}, show), EagerStep("eager")
    with untouched(trainer, module), trainer.precision_plugin.train_step_context():
        if hasattr(torch.compiler, "set_stance"):
            eager.start()
        watch.start()
        try:
            output = module.training_step(batch, *rest)
        except _Seen as seen:
            return seen.losses
        finally:
            watch.stop()
            eager.stop()
        losses = _returned(batch, output)
    return (problem or _UNSEEN) if losses is None else losses


def _returned(batch: Any, output: Any) -> Tensor | None:
    """Return the losses of samples that a step has returned."""
    if not isinstance(output, Mapping):
        return None
    for name in RETURNED:
        losses = output.get(name)
        if isinstance(losses, Tensor) and losses.dim() == 1 and not are_rows(batch, len(losses)):
            return losses.detach()
    return None
