"""Has a sampler go on where a checkpoint was saved, or where the last fit has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_diag.hard.sampler import OHEMSampler
from lightning_diag.warning import warn

_STATEFUL = ("state_dict", "load_state_dict")


class Resumed:
    """Tells Lightning that a loader goes on in the middle of an epoch, until a batch has come."""

    def __init__(self) -> None:
        self._loader: Any = None

    def go_on(
        self, trainer: Any, sampler: OHEMSampler, loader: Any, state: Mapping[str, Any] | None
    ) -> int:
        """Set a sampler to where training is.

        Args:
            trainer: The trainer, whose loaders are being made.
            sampler: A new one.
            loader: That draws from it.
            state: What `OHEMSampler.state_dict` returned; None begins anew.

        Returns:
            Samples of the epoch that this rank has trained on.
        """
        loop, epoch = trainer.fit_loop, epoch_of(trainer)
        # workers ask for their first batches before Lightning says which epoch it is
        sampler.set_epoch(epoch)
        if state is None or (epoch == 0 and not loop.restarting):
            return 0
        is_over = bool(loop.epoch_loop.batch_progress.is_last_batch)
        continues = bool(loop.restarting) and not is_over and state["epoch"] == epoch
        try:
            sampler.load_state_dict(state, continues=continues)
        except ValueError as error:
            warn(f"OHEMSampling begins anew: {error}")
            return 0
        if not continues:
            sampler.set_epoch(max(epoch, int(state["epoch"]) + 1) if loop.restarting else epoch)
            return 0
        if all(hasattr(loader, name) for name in _STATEFUL):
            sampler.begin_at(0)  # the loader itself goes on where it was
            return 0
        # it goes on where it was, and nothing is saved with it
        loader.__dict__.update(dict.fromkeys(_STATEFUL, dict))
        self._loader = loader
        return int(state["position"])

    def leave(self) -> None:
        """Leave the loader as it was. May be called again."""
        if self._loader is not None:
            for name in _STATEFUL:
                self._loader.__dict__.pop(name, None)
            self._loader = None


def epoch_of(trainer: Any) -> int:
    """Return the number of epochs that have ended, as Lightning tells it to samplers."""
    return int(trainer.fit_loop.epoch_progress.current.processed)
