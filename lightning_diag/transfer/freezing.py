"""`LayerFreezing`: layers that are frozen at first, and thaw one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_diag._compat import LightningModule, Trainer
from lightning_diag.lr import checks
from lightning_diag.lr.apply import Adjustment
from lightning_diag.lr.callback import LRCallback, say
from lightning_diag.transfer import ranks
from lightning_diag.transfer.frontier import Frontier
from lightning_diag.transfer.groups import configured, place_of
from lightning_diag.transfer.metric_watch import MetricWatch
from lightning_diag.transfer.moment import Configuring
from lightning_diag.transfer.plateau import Plateau
from lightning_diag.transfer.timetable import Counter, Entry, Schedule, Timetable


class LayerFreezing(LRCallback):
    """Freeze layers, and thaw them one after the other (T2, T3).

    What no entry has named yet is frozen: its parameters get no gradient and no step, whatever
    momentum, decay and stale gradients there are, and its modules run in evaluation, so that
    running statistics stand still and dropout is off, also where somebody calls `.train()`. Below
    the lowest layer that trains no graph is built.

    Every entry has parameter groups of its own, with its name, from `configure_optimizers` on:
    schedulers of every kind go on through all stages, and `LearningRateMonitor` shows one series
    for each. Pass all parameters to the optimizer: ``Adam(self.parameters())``.

    Under DDP the module is wrapped anew when layers thaw, on all ranks at the same batch, so that
    gradients of what has thawed are averaged like all others.

    Args:
        schedule: What trains from when on, ``{0: "head", 3: "layer4", 6: ["layer3", "layer2"]}``,
            or only in which order, ``["head", "layer4"]``, with `every` or `on_plateau`. None: all
            layers that are found by the structure of the network, the last first. Layers are named
            by a module or parameter (``encoder.layer.3``; ``layer4`` is found within a module,
            too), a pattern of names with ``*`` and ``?``, a regular expression (``re:layer[34]``),
            a count of layers (``last 2``, ``all but last 2``, ``first``), by ``head``,
            ``backbone`` (all but the head) or ``stem`` where no module is called so, ``*`` (what
            is left), or by a function of a parameter's name. An entry has what no earlier one has.
        freeze: What is frozen at all: everything else trains from the start. None: everything that
            is not named for 0.
        unit: Whether numbers are epochs or optimizer steps (``trainer.global_step``).
        every: Epochs or steps between one entry and the next, at least 1.
        on_plateau: Name of a logged metric: the next entry thaws when its average has not improved
            for some checks: one for each validation that logs it, or else for each epoch.
        unfreeze_all: When everything thaws, at least 1, what no entry names included.
        window: Checks that are averaged for `on_plateau`, at least 2.
        patience: Checks without an improvement for `on_plateau`, at least 1.
        min_delta: Change of the average that is no improvement yet, at least 0.
        mode: ``min`` or ``max``, for `on_plateau`.
        restore_best: Whether the weights of a stage's best check are put back when the next one
            begins; the optimizer's state goes on.
        lr_decay: Factor of the learning rate from one entry to the next, above 0: below 1 for
            lower rates in lower layers.
        warmup: Optimizer steps in which a group's learning rate grows to its own when it thaws, 0
            for none.
        dropout: Whether dropout layers within frozen modules go on.
        verbose: Whether to print the table of groups, and what thaws.

    Raises:
        ValueError: If an argument is out of range, or two contradict each other.
        TypeError: If what shall name layers is neither text nor a function.
        MisconfigurationException: When the optimizers are made, if an entry fits nothing or has no
            optimizer, or under a strategy that splits parameters over ranks.

    Cost:
        Microseconds a batch. At each stage under DDP, what it takes to wrap the module: one
        broadcast of its weights. With `restore_best` one copy of all weights in host memory.

    Example:
        >>> LayerFreezing({0: "head", 3: "layer4", 6: "layer3"}, lr_decay=0.5).stage
        0

    References:
        Howard and Ruder, Universal Language Model Fine-tuning, 2018, arXiv:1801.06146 (gradual
        unfreezing: ``LayerFreezing(every=1, lr_decay=1 / 2.6)``).
    """

    def __init__(
        self,
        schedule: Schedule = None,
        *,
        freeze: Entry | None = None,
        unit: Counter = "epoch",
        every: int | None = None,
        on_plateau: str | None = None,
        unfreeze_all: int | None = None,
        window: int = 3,
        patience: int = 3,
        min_delta: float = 0.0,
        mode: Literal["min", "max"] = "min",
        restore_best: bool = False,
        lr_decay: float = 1.0,
        warmup: int = 0,
        dropout: bool = False,
        verbose: bool = True,
    ) -> None:
        checks.one_of("unit", unit, ("epoch", "step"))
        checks.positive("lr_decay", lr_decay)
        checks.whole("warmup", warmup, 0)
        if restore_best and on_plateau is None:
            raise ValueError("`restore_best` needs a metric: give its name as `on_plateau`.")
        timetable = Timetable.of(
            schedule,
            freeze=freeze,
            every=every,
            unfreeze_all=unfreeze_all,
            on_plateau=on_plateau is not None,
        )
        super().__init__(identity=timetable.identity)
        self.timetable = timetable
        self.unit: Counter = unit
        self.on_plateau = on_plateau
        self.restore_best = restore_best
        self.lr_decay, self.warmup = lr_decay, warmup
        self.dropout, self.verbose = dropout, verbose
        plateau = Plateau(window=window, patience=patience, min_delta=min_delta, mode=mode)
        self._watch = MetricWatch(on_plateau, plateau, restore_best=restore_best)
        self._begin()

    def _begin(self) -> None:
        self.stage = 0
        """Number of times that layers have been thawed or frozen."""
        self._count = self.timetable.first
        self._forced: dict[str, bool] = {}
        self._since: dict[str, list[int]] = {}
        self._watch.begin()
        self._forget()

    def _forget(self) -> None:
        """Let go of the module and all that hangs on it."""
        self._frontier: Frontier | None = None
        self._hooks: list[RemovableHandle] = []
        self._moment: Configuring | None = None

    @property
    def trained(self) -> list[str]:
        """Names of the layers that train now, as the table has them; none outside of a fit."""
        if self._frontier is None:
            return []
        return self._frontier.trained(self._count, self._forced)

    @property
    def frozen(self) -> list[str]:
        """Names of the layers that are frozen now; those that no entry names are ``frozen``."""
        known = [] if self._frontier is None else self._frontier.names
        return [name for name in known if name not in self.trained]

    def freeze(self, trainer: Trainer, name: str) -> None:
        """Freeze layers of an entry from now on, whatever the schedule says.

        Call it between two batches, on all ranks. What the optimizer knows of them is kept.

        Raises:
            ValueError: If no entry's layers are called so.
        """
        self._force(trainer, name, trains=False)

    def thaw(self, trainer: Trainer, name: str) -> None:
        """Thaw layers of an entry from now on, whatever the schedule says; see `freeze`."""
        self._force(trainer, name, trains=True)

    def _force(self, trainer: Any, name: str, *, trains: bool) -> None:
        known = [] if self._frontier is None else self._frontier.names
        if name not in known:
            raise ValueError(f"`name` must be one of {', '.join(known) or 'a fit'}, got {name!r}.")
        self._change(trainer, self._count, {**self._forced, name: trains})

    # Hooks before training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand by for the moment in which optimizers are made."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._release()
            self._begin()
            ranks.refuse(trainer)
            self._moment = Configuring.of(pl_module)
            self._moment.join(self, lambda own: self._configure(trainer, pl_module, own))

    def _configure(self, trainer: Any, module: nn.Module, own: Callable[[], Any]) -> Any:
        """Make the optimizers, with groups by unit, and freeze."""
        before = [parameter.requires_grad for parameter in module.parameters()]
        frontier = Frontier(module, self.timetable, dropout=self.dropout)
        self._frontier = frontier
        for other in trainer.callbacks:
            if isinstance(other, LayerFreezing) and other is not self and other._frontier:
                frontier.refuse_overlap(other._frontier)
        found, optimizers = configured(own, frontier.places, frontier.names)
        frontier.refuse_forgotten(optimizers)
        frontier.move(self.trained)
        if before != [parameter.requires_grad for parameter in module.parameters()]:
            ranks.wrap_again(trainer)
        return found

    @property
    def _line(self) -> Frontier:
        assert self._frontier is not None, "made in `configure_optimizers`"
        return self._frontier

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give `configure_optimizers` back."""
        self._leave_moment()
        # A search for a learning rate has run the module by now, and Lightning is about to warn of
        # modules in evaluation.
        self._line.parts.rouse()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the optimizers, and say what is frozen."""
        super().on_train_start(trainer, pl_module)
        parts = self._line.parts
        parts.calm()
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "register_step_pre_hook"):
                self._hooks.append(optimizer.register_step_pre_hook(parts.before_step))
        if self.verbose:
            say(trainer, f"LayerFreezing\n{self.describe(trainer)}")

    def describe(self, trainer: Trainer) -> str:
        """Return the table of groups: name, layers, parameters, when they train, learning rate."""
        return self._line.table(trainer.optimizers, self.trained, self.unit)

    def adjustment(
        self, trainer: Any, module: Any, index: int, groups: list[int]
    ) -> Adjustment | None:
        """See `LRCallback.adjustment`."""
        if self.lr_decay == 1 and not self.warmup:
            return None
        line = self._line
        members = [place_of(g, line.places) for g in trainer.optimizers[index].param_groups]

        def factor(t: int, group: int) -> float:
            place = members[group]
            since = None if place is None else self._since.get(line.names[place])
            decay = self.lr_decay ** line.depth(place)
            if since is None or not self.warmup:
                return decay
            return decay * min(1.0, (t - since[index] + 1) / (self.warmup + 1))

        return Adjustment(factor)

    # Hooks while training

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Thaw what is due."""
        self._advance(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Thaw what is due; have frozen layers stay as they are."""
        self._advance(trainer)
        self._line.parts.calm()
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Let no step find a gradient of what is frozen."""
        self._line.parts.drop_gradients()
        super().on_before_optimizer_step(trainer, pl_module, optimizer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep in mind what the metric was."""
        self._watch.validation_started(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask whether the metric has stopped getting better, if this validation logged it."""
        if self._frontier is not None:
            self._watch.validation_ended(trainer, has_more=self._has_more())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do so, where validations do not log it."""
        self._watch.epoch_ended(trainer, has_more=self._has_more())

    def _has_more(self) -> bool:
        return self._count < self._line.count

    def _advance(self, trainer: Any) -> None:
        """Thaw what is due now."""
        count = max(self._count, self.timetable.due(self._now(trainer), self._line.count))
        if self._watch.is_waiting:
            count = max(count, self._count + 1)
            self._watch.end_stage(trainer)
        if count > self._count:
            self._change(trainer, count, self._forced)

    def _now(self, trainer: Any) -> int:
        return int(trainer.current_epoch if self.unit == "epoch" else trainer.global_step)

    def _change(self, trainer: Any, count: int, forced: dict[str, bool]) -> None:
        """Freeze and thaw; all ranks do so at the same time."""
        before = self.trained
        self._count, self._forced = count, forced
        if self.trained == before:
            return
        self.stage += 1
        new = [name for name in self.trained if name not in before]
        self._since.update((name, self.steps) for name in new)
        self._line.move(self.trained)
        self._line.parts.calm()
        ranks.wrap_again(trainer)
        if self.verbose:
            now = f"{self.unit} {self._now(trainer)}"
            what = f"{', '.join(new)} thawed" if new else "frozen again"
            say(trainer, f"LayerFreezing: {what} at {now}; trains now: {', '.join(self.trained)}")

    # The end, and checkpoints

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was, but for what has been trained."""
        super().teardown(trainer, pl_module, stage)
        if stage == "fit":
            self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Do so at once."""
        super().on_exception(trainer, pl_module, exception)
        self._release()

    def _leave_moment(self) -> None:
        if self._moment is not None:
            self._moment.leave(self)
            self._moment = None

    def _release(self) -> None:
        self._leave_moment()
        for hook in self._hooks:
            hook.remove()
        if self._frontier is not None:
            self._frontier.parts.release()
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, and the best weights of the stage if they are to be restored."""
        return {
            **super().state_dict(),
            "stage": self.stage,
            "count": self._count,
            "forced": dict(self._forced),
            "since": {name: list(steps) for name, steps in self._since.items()},
            **self._watch.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        super().load_state_dict(state_dict)
        self.stage, self._count = state_dict["stage"], state_dict["count"]
        self._forced = dict(state_dict["forced"])
        self._since = {name: list(steps) for name, steps in state_dict["since"].items()}
        self._watch.load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the module behind: a copy freezes nothing yet."""
        return {**super().__getstate__(), "_frontier": None, "_hooks": [], "_moment": None}
