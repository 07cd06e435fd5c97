"""Epochs and fractions of a training as optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lightning_diag._compat import MisconfigurationException


def steps_of_epochs(trainer: Any, module: Any, epochs: float, argument: str) -> int:
    """Return the optimizer steps of the first `epochs` epochs, at least 1.

    The last, shorter window of accumulation of an epoch is a step, too, as it is in Lightning; an
    accumulation that is scheduled by epochs is followed.

    Args:
        epochs: Above 0; need not be whole.
        argument: What asks for it, named in errors.

    Raises:
        MisconfigurationException: If nobody can know the number: with manual optimisation, or with
            data of unknown length.
    """
    batches = _known_batches(trainer, module, argument)
    accumulation = accumulation_of(trainer)
    whole = math.floor(epochs)
    done = sum(math.ceil(batches / accumulation(epoch)) for epoch in range(whole))
    return max(1, done + round((epochs - whole) * math.ceil(batches / accumulation(whole))))


def steps_of_training(trainer: Any, module: Any, argument: str) -> int:
    """Return the optimizer steps of the whole training, by `max_epochs` and `max_steps`.

    Raises:
        MisconfigurationException: If nobody can know the number.
    """
    epochs, steps = trainer.max_epochs, trainer.max_steps
    endless = epochs is None or epochs < 0
    if steps >= 0 and (endless or trainer.num_training_batches == math.inf):
        _known_batches(trainer, module, argument, may_be_endless=True)
        return int(steps)
    if endless:
        raise MisconfigurationException(
            f"`{argument}` needs a training that ends: set `max_epochs` or `max_steps` of the "
            "Trainer, or use `steps`."
        )
    known = steps_of_epochs(trainer, module, epochs, argument)
    return known if steps < 0 else min(known, int(steps))


def _known_batches(
    trainer: Any, module: Any, argument: str, *, may_be_endless: bool = False
) -> float:
    if not module.automatic_optimization:
        raise MisconfigurationException(
            f"`{argument}` cannot be turned into optimizer steps with manual optimisation, where "
            "you decide when they are taken: use `steps`."
        )
    batches = float(trainer.num_training_batches)
    if batches == math.inf and not may_be_endless:
        raise MisconfigurationException(
            f"`{argument}` cannot be turned into optimizer steps, since the length of the training "
            "data is unknown: use `steps`, or set `limit_train_batches` of the Trainer to a number."
        )
    return batches


def accumulation_of(trainer: Any) -> Callable[[int], int]:
    """Return what gives the batches of an optimizer step in an epoch."""
    for callback in trainer.callbacks:
        scheduled = getattr(callback, "get_accumulate_grad_batches", None)
        if callable(scheduled):
            return lambda epoch: int(scheduled(epoch))
    return lambda _: int(trainer.accumulate_grad_batches)
