"""`Watcher`: the Lightning callback shell that hands the trainer's hooks to the probe.

Of all watchers of a trainer one drives the shared probe; the others only take part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_diag._compat import Callback, LightningModule, StepOutput, Trainer
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.fit import Fit
from lightning_diag.probe.observer import Observer
from lightning_diag.probe.probe import Probe
from lightning_diag.probe.schedule import Budget
from lightning_diag.record import Record


class Watcher(Callback):
    """Base of `Doctor` and of every monitor.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: ``eager`` runs compiled modules eagerly on watched steps, ``leave`` does
            not, and then does not see the calls inside them.
        identity: What tells this watcher from others of its class in a checkpoint; see `Callback`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        *,
        max_overhead: float = 0.01,
        startup_seconds: float = 5.0,
        compiled_models: CompiledModels = "eager",
        identity: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(**(identity or {}))
        if compiled_models not in ("eager", "leave"):
            message = f"`compiled_models` must be 'eager' or 'leave', got {compiled_models!r}."
            raise ValueError(message)
        Budget(1 if every_n_steps is None else every_n_steps, max_overhead, startup_seconds)
        self.every_n_steps = every_n_steps
        self.max_overhead = max_overhead
        self.startup_seconds = startup_seconds
        self.compiled_models: CompiledModels = compiled_models
        self._probe: Probe | None = None
        self._drives = False
        self._fit: Fit | None = None
        self.remembered: Mapping[str, Any] = {}

    @property
    def observers(self) -> Sequence[Observer]:
        """Who measures on behalf of this watcher."""
        return ()

    @property
    def output_folder(self) -> str | None:
        """Where the history goes; None leaves it to the trainer's log dir."""
        return None

    @property
    def may_stop(self) -> bool:
        """Whether this watcher may want the fit to end."""
        return False

    @property
    def wants_stop(self) -> bool:
        """Whether this watcher wants the fit to end now."""
        return False

    def on_open(self, probe: Probe) -> None:
        """Training is about to begin."""

    def on_record(self, record: Record) -> None:
        """A watched step has become numbers; called on every rank with the same record."""

    def on_note(self) -> None:
        """The history has new numbers between two records, as of a validation; on every rank."""

    def on_close(self) -> None:
        """Training has ended or failed."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take part in the trainer's probe."""
        if stage == "fit":
            self._probe = Probe.of(trainer)
            self._drives = self._probe.join(self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch: sanity checking is over, and optimizers and wrappers stand."""
        if self._drives and self._probe is not None:
            self._fit = self._probe.open(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Watch this batch, or not."""
        if self._fit is not None:
            self._fit.batch_start(batch_idx, batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        """Look away: what backward recomputes is not a new call."""
        if self._fit is not None:
            self._fit.forward_pause()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look again: with manual optimisation another forward pass may follow."""
        if self._fit is not None:
            self._fit.forward_resume()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Read gradients that are accumulated, unscaled and not yet clipped."""
        if self._fit is not None:
            self._fit.before_step(optimizer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Join ranks and emit the record, if this batch ended a watched step."""
        if self._fit is not None:
            self._fit.batch_end(outputs)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read what the epoch before has logged: only now is it computed."""
        if self._fit is not None:
            self._fit.epoch_noted()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave validation out of the time that training takes."""
        if self._fit is not None:
            self._fit.validation_start()

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the first batches to those who compare them with training's; watch some losses."""
        if self._fit is not None:
            self._fit.validation_batch(batch, batch_idx, dataloader_idx)

    def on_validation_batch_end(  # noqa: PLR0917  # the arguments are Lightning's
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look away."""
        if self._fit is not None:
            self._fit.validation_batch_end()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Enter what validation logged, and judge again."""
        if self._fit is not None:
            self._fit.validation_end()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of a batch that the module's own hook cut short."""
        if self._fit is not None:
            self._fit.let_go()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Emit what is still under way."""
        if self._fit is not None:
            self._fit.finish()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Detach at once; nothing may outlive the run."""
        self._leave(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach and forget the trainer."""
        if stage == "fit":
            self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        probe, self._probe, self._drives, self._fit = self._probe, None, False, None
        if probe is not None:
            probe.close()
            self.remembered = probe.state_dict()
            Probe.forget(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return counters and memories, loadable under ``weights_only=True``."""
        probe = self.remembered if self._probe is None else self._probe.state_dict()
        observers = {
            type(observer).__name__: state
            for observer in self.observers
            if (state := observer.observer_state())
        }
        return {"probe": probe, "observers": observers}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, also from before a monitor was added."""
        self.remembered = dict(state_dict.get("probe", {}))
        states = state_dict.get("observers", {})
        for observer in self.observers:
            if type(observer).__name__ in states:
                observer.load_observer_state(states[type(observer).__name__])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the probe behind: a copy of a callback watches nothing yet."""
        return {**self.__dict__, "_probe": None, "_drives": False, "_fit": None}
