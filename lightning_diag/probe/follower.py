"""`Follower`: a watcher that knows which samples each training batch holds, and may follow them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_diag._compat import LightningModule, StepOutput, Trainer
from lightning_diag.measure.read_again import Content, read_again
from lightning_diag.measure.trend_lists import Lists, lists
from lightning_diag.probe.drawn import Drawn
from lightning_diag.probe.sample_trends import SampleTrends, shares_data
from lightning_diag.probe.watcher import Watcher
from lightning_diag.warning import warn

_SHARE = 8
"""Our choice: what is said of samples is renewed after an eighth of the epochs so far: it takes
sorting all of them."""


class Follower(Watcher):
    """Base of watchers that tell samples apart by their positions in the data set.

    Lightning's hooks reach it where it stands in the Trainer's callbacks; within `Doctor` they do
    not, and positions are not known.
    """

    courses: SampleTrends | None = None
    """The course of every sample; None if samples are not followed."""
    is_hooked = False
    """Whether Lightning's hooks reach it in this fit."""
    show_epoch = 0
    """The epoch from which on what is said of samples is renewed."""
    _drawn: Drawn | None = None

    def positions(self, trainer: Any) -> Tensor | None:
        """Return the positions of the newest batch in the data set, None if they are not known."""
        if self._drawn is None or not shares_data(trainer):
            return None
        return self._drawn.positions(trainer)

    @property
    def suspicious(self) -> list[dict[str, Any]]:
        """All training samples whose labels are suspicious, the most suspicious first.

        Of each the ``index`` in the data set, ``target``, ``prediction`` with its ``probability``,
        the mean ``margin`` over all ``looks``, how often it was ``forgotten``, and whether it was
        ever ``learnt``. Empty if samples are not followed, and as long as nothing can be said.
        """
        if self.courses is None:
            return []
        trends = self.courses.trends
        return [trends.course(index) for index in trends.suspicious()]

    def followed_lists(self, trainer: Any, per_class: int, *, with_content: bool) -> Lists | None:
        """Return what is shown of the samples that are followed, if it is time; of the first rank.

        Samples are read again when the fit has ended and no worker will be forked any more: what
        the data set has opened, such as a file, would go along.

        Args:
            trainer: The trainer.
            per_class: Samples of each class that are shown.
            with_content: Whether to read the samples themselves.
        """
        if self.courses is None or not trainer.is_global_zero or not len(self.courses.trends):
            return None
        is_over, epoch = _is_over(trainer), int(trainer.current_epoch)
        if not is_over and epoch < self.show_epoch:
            return None
        self.show_epoch = epoch + max(1, epoch // _SHARE)

        def read(indices: list[int]) -> Mapping[int, Content]:
            return _read(trainer, indices) if with_content and is_over else {}

        return lists(self.courses.trends, per_class, read)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take note of which samples the batches hold, from the first one on."""
        self.is_hooked = True
        self._drawn = Drawn.join(trainer, self)
        if self.courses is not None:
            self.courses.fit_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """See `Watcher.on_train_batch_start`."""
        if self.courses is not None:
            self.courses.batch_start(batch, batch_idx)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        """See `Watcher.on_before_backward`."""
        super().on_before_backward(trainer, pl_module, loss)
        if self.courses is not None:
            self.courses.pause()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See `Watcher.on_after_backward`."""
        if self.courses is not None:
            self.courses.resume()
        super().on_after_backward(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """See `Watcher.on_train_batch_end`."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.courses is not None:
            self.courses.batch_end(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join ranks before a checkpoint is written; see `Watcher.on_validation_end`."""
        if self.courses is not None and not trainer.sanity_checking:
            self.courses.join()
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join ranks; see `Watcher.on_train_epoch_end`."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.courses is not None:
            self.courses.join()

    def _leave(self, trainer: Trainer) -> None:
        super()._leave(trainer)
        self.is_hooked = False
        drawn, self._drawn = self._drawn, None
        if drawn is not None:
            drawn.leave(trainer, self)
        if self.courses is not None:
            self.courses.let_go()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind."""
        return {**super().__getstate__(), "_drawn": None, "is_hooked": False}


def _is_over(trainer: Any) -> bool:
    """Whether no epoch is about to begin."""
    progress = trainer.fit_loop.epoch_progress.current
    return bool(progress.ready <= progress.completed)


def _read(trainer: Any, indices: list[int]) -> Mapping[int, Content]:
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    try:
        return {} if dataset is None else read_again(dataset, indices)
    except Exception as error:  # noqa: BLE001  # data sets may raise anything
        warn(
            "WorstExamples shows the samples that it followed without their content: reading one "
            f"again raised {type(error).__name__}: {error}"
        )
        return {}
