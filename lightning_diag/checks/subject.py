"""`Subject`: what a check looks at: a module, some batches, its optimizers, a first step."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakSet

from torch import nn

from lightning_diag.checks.data import Unavailable, clone, first_batches, leaves
from lightning_diag.checks.memory import shortage, size_of
from lightning_diag.checks.places import Held, held_parameters
from lightning_diag.checks.results import Result
from lightning_diag.checks.trial import Trial, run_trial
from lightning_diag.checks.twin import Twin, running, said

T = TypeVar("T")

_MUCH = 100_000_000
"""Bytes of a copy from which on garbage is collected after a check (our choice): it takes as long
as making a copy of that size."""
LOADING = 10.0
"""Seconds that reading batches may take (our choice): two that take longer are better left to
training, whose worker processes are ready."""

BATCHES = 2
"""Training batches that are taken (our choice): one to run, one to compare it with."""
SECONDS = 60.0
"""Time that all checks together may take (our choice): a minute is worth it before hours."""


class Subject:
    """A module and its data, for checks to look at.

    Everything is made when it is first asked for, and kept: batches are the same tensors each
    time. What cannot be had raises `Unavailable`; a check names it in `needs`, and is then said to
    be not observed.

    Args:
        module: A LightningModule; checks only read it, and run copies of it.
        loaders: Of training, as Lightning's Trainer takes them; None asks the module.
        validation: Of validation, or None.
        datamodule: Instead of both; used as a shallow copy.
        trainer: The user's, when it is about to train: its optimizers, loaders and settings hold.
        batches: Training batches to take, at least 1.
        seconds: Time that the checks may take together, above 0.
        memory: Bytes that copies may take; None takes what is free.

    Raises:
        TypeError: If `module` is no LightningModule.
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        module: Any,
        loaders: Any = None,
        *,
        validation: Any = None,
        datamodule: Any = None,
        trainer: Any = None,
        batches: int = BATCHES,
        seconds: float = SECONDS,
        memory: int | None = None,
    ) -> None:
        if not isinstance(module, nn.Module) or not hasattr(module, "training_step"):
            kind = type(module).__name__
            raise TypeError(f"`module` must be a LightningModule, got {kind}.")
        if batches < 1:
            raise ValueError(f"`batches` must be at least 1, got {batches}.")
        if not seconds > 0:
            raise ValueError(f"`seconds` must be above 0, got {seconds}.")
        self.original = module
        self.trainer = trainer
        self._loaders, self._validation = loaders, validation
        self._datamodule = datamodule
        self._wanted, self._memory = batches, memory
        self._end = time.monotonic() + seconds
        self._kept: dict[str, Any] = {}
        self.results: dict[str, Result] = {}
        """What checks measured, by a name; it becomes part of the `Outcome`."""
        self._twins: WeakSet[Twin] = WeakSet()
        self._untidy = False

    # What there is ----------------------------------------------------------------------------

    @property
    def module(self) -> Any:
        """The module as training begins, to look at: never run or change it.

        It is the user's own where a trainer is about to train it; else a copy for which `setup`
        and `configure_model` have been called, and whose parameters `optimizers` hold.
        """
        return self.original if self.trainer is not None else self._first.module

    @property
    def optimizers(self) -> Sequence[Any]:
        """The optimizers that hold the parameters of `module`, as torch's, not Lightning's."""
        if self.trainer is not None:
            return _real(self.trainer.optimizers)
        return self._once("optimizers", lambda: _real(self._first.optimizers))

    @property
    def parameters(self) -> Mapping[str, Held]:
        """What is known of each parameter: who holds it, and with which options; by name."""
        return self._once("parameters", lambda: held_parameters(self.module, self.optimizers))

    @property
    def loaders(self) -> Any:
        """The training loaders. Iterating them would move them: ask for `batch`."""
        return self._once("loaders", self._find_loaders)

    @property
    def validation(self) -> Any:
        """The validation loaders; see `take` for batches of them."""
        return self._once("validation", self._find_validation)

    @property
    def around(self) -> list[Any]:
        """What the user's code may reach beside the module: loaders, data modules, attributes."""
        trainer = self.trainer
        given = [self._loaders, self._validation, self._datamodule]
        if trainer is not None:
            given = [trainer.train_dataloader, trainer.val_dataloaders, trainer.datamodule]
        loaders = [leaf for each in given if each is not None for leaf in leaves(each)]
        modules = self.original.modules()
        return [*loaders, *(value for each in modules for value in vars(each).values())]

    @property
    def batches(self) -> Sequence[Any]:
        """The first training batches, as the loader has them, each a copy of its own."""
        return [clone(batch) for batch in self._batches]

    def batch(self, index: int = 0) -> Any:
        """Return one of the first training batches, with tensors of its own and the same values."""
        return clone(self._batches[index])

    @property
    def trial(self) -> Trial:
        """One training step of a copy on the first batch, forward and backward: run once."""
        return self._once("trial", self._run_trial)

    @property
    def stepped(self) -> Twin:
        """The copy that `trial` was run on, as it is after the step: to look at only."""
        _ = self.trial
        return self._first

    def more_trials(self, n: int) -> Iterator[Trial]:
        """Yield up to `n` further steps of the copy of `trial`, while there is time.

        The batches take turns, with the indices that follow; no weight is changed in between, but
        by modules that step themselves.
        """
        for index in range(1, n + 1):
            if self.time_left <= 0:
                return
            batch = self.batch(index % len(self._batches))
            yield run_trial(self._first, batch, index)

    @property
    def time_left(self) -> float:
        """Seconds until the checks have had their time; below 0 afterwards."""
        return self._end - time.monotonic()

    def copy(self) -> Twin:
        """Return a new copy of the module, to be run, trained and broken.

        Raises:
            Unavailable: If it cannot be copied, or memory is short.
        """
        self._untidy = True
        return self._twin().started()

    def take(self, loaders: Any, n: int = 1) -> list[Any]:
        """Return the first batches of any loaders, such as those of validation."""
        seconds = min(LOADING, max(0.0, self.time_left))
        with running(), said("the data could not be loaded"):
            return first_batches(loaders, n, seconds)

    def tidy(self) -> None:
        """Give back the memory of copies that no check holds any more, where it is much.

        Trainers and modules hold each other, so that copies would pile up until then.
        """
        if self._untidy and size_of(self.original) > _MUCH:
            gc.collect()
        self._untidy = False

    def release(self) -> None:
        """Give back the memory of all copies; the subject is of no more use."""
        self._kept.clear()
        for twin in self._twins:
            twin.release()

    def lacks(self, need: str) -> str:
        """Say why something cannot be had, as the end of a sentence; nothing if it can."""
        try:
            if need == "losses" and not self.trial.losses:
                return "no call of a loss function of torch was seen in `training_step`"
            if need == "gradients" and self.trial.backward:
                return self.trial.backward
            if need == "memory":
                return self._obstacle()
            getattr(self, NEEDS[need])
        except Unavailable as why:
            return str(why)
        return ""

    # How it is made ---------------------------------------------------------------------------

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """Make something once; what could not be made is not tried again."""
        if name not in self._kept:
            try:
                self._kept[name] = make()
            except Unavailable as why:
                self._kept[name] = why
        found = self._kept[name]
        if isinstance(found, Unavailable):
            raise Unavailable(str(found))
        return found  # type: ignore[no-any-return]

    @property
    def _first(self) -> Twin:
        return self._once("first", self._twin)

    @property
    def _batches(self) -> list[Any]:
        return self._once("batches", lambda: self.take(self.loaders, self._wanted))

    def _run_trial(self) -> Trial:
        _ = self.parameters if self.trainer is None and not self.lacks("optimizers") else None
        return run_trial(self._first.started(), self.batch())

    def _obstacle(self) -> str:
        """Say why the module cannot be copied; nothing if it can."""
        strategy = type(getattr(self.trainer, "strategy", None))
        spread = [cls.__name__ for cls in strategy.__mro__ if cls.__name__ in _SPREADING]
        if spread:
            return f"{spread[0]} spreads the weights over devices"
        return shortage(self.original, self._memory)

    def _twin(self) -> Twin:
        obstacle = self._obstacle()
        if obstacle:
            raise Unavailable(obstacle)
        twin = Twin(
            self.original,
            loaders=self._loaders_if_known(),
            datamodule=self._own_datamodule,
            like=self.trainer,
            fresh=self.trainer is None,
        )
        return self._made(twin)

    def _made(self, twin: Twin) -> Twin:
        self._twins.add(twin)
        return twin

    def _loaders_if_known(self) -> Any:
        try:
            return self.loaders
        except Unavailable:
            return None

    @cached_property
    def _own_datamodule(self) -> Any:
        if self.trainer is not None:
            return copy.copy(getattr(self.trainer, "datamodule", None))
        return copy.copy(self._datamodule)

    def _find_loaders(self) -> Any:
        if self.trainer is not None:
            return self.trainer.train_dataloader
        if self._loaders is not None:
            return self._loaders
        return self._asked("train_dataloader", "there are no training data")

    def _find_validation(self) -> Any:
        given = self._validation
        if self.trainer is not None:
            given = self.trainer.val_dataloaders
        found = given if given is not None else self._asked("val_dataloader", _NO_VALIDATION)
        if found is None or found == []:
            raise Unavailable(_NO_VALIDATION)
        return found

    def _asked(self, name: str, missing: str) -> Any:
        """Ask the datamodule, or else the module, for loaders."""
        if self._own_datamodule is not None:
            self._once("prepared", self._prepare)
        if self._own_datamodule is not None and _defines(self._own_datamodule, name):
            owner = self._own_datamodule
        elif _defines(self.original, name):
            owner = self._once("host", self._host)
        else:
            raise Unavailable(missing)
        with running(), said(f"`{name}` failed"):
            return getattr(owner, name)()

    def _host(self) -> Any:
        """Return a copy that has what the module's `setup` makes, to be asked for its loaders."""
        if self.trainer is not None:
            return copy.copy(self.original)
        return self._made(Twin(self.original, fresh=True)).module

    def _prepare(self) -> bool:
        if self.trainer is None:
            with running(), said("the datamodule's `setup` failed"):
                self._own_datamodule.prepare_data()
                self._own_datamodule.setup(stage="fit")
        return True


_SPREADING = ("DeepSpeedStrategy", "FSDPStrategy", "XLAFSDPStrategy", "ModelParallelStrategy")
"""Strategies after which no process holds whole weights."""
_NO_VALIDATION = "there are no validation data"
NEEDS = {
    "batch": "_batches",
    "optimizers": "optimizers",
    "trial": "trial",
    "losses": "trial",
    "gradients": "trial",
    "copy": "_first",
    "validation": "validation",
}
"""What a check may name in `needs`, and the attribute of a subject that it stands for."""


def _real(optimizers: Sequence[Any]) -> list[Any]:
    """Return what Lightning did not put where there is no optimizer.

    Raises:
        Unavailable: If there is none.
    """
    real = [each for each in optimizers if type(each).__name__ != "_MockOptimizer"]
    if not real:
        raise Unavailable("`configure_optimizers` returned no optimizer")
    return real


def _defines(owner: Any, name: str) -> bool:
    """Return whether a class has a hook of its own, and not only Lightning's."""
    home: str = getattr(getattr(type(owner), name, None), "__module__", "") or ""
    return not home.startswith(("pytorch_lightning.", "lightning.pytorch.")) and hasattr(
        type(owner), name
    )
