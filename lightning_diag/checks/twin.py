"""`Twin`: a copy of a module that may be run, trained and broken, with a trainer that does nothing.

`self.log` and all loggers of a twin go nowhere, its optimizers hold its own parameters, and ranks
do not exist for it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils.data import DataLoader, Dataset

from lightning_diag._compat import (
    NAMESPACES,
    LightningDataModule,
    LightningModule,
    Logger,
    Trainer,
    namespace_of,
)
from lightning_diag.checks.around import held_by
from lightning_diag.checks.data import Unavailable, own_generator
from lightning_diag.checks.rebound import rebind
from lightning_diag.checks.silence import writers
from lightning_diag.checks.stand_in import stand_in
from lightning_diag.measure.tally import ranks_apart
from lightning_diag.probe.eager import EagerStep

_SHARED = (Dataset, DataLoader, LightningDataModule, Logger)
"""What is not copied with a module that holds it: large, or somebody's connection."""


_MEMBERS = 1000
"""Members of lists that are looked at (our choice)."""


class Twin:
    """A copy of a LightningModule on which a check may do anything.

    Args:
        module: The module; it is only read.
        loaders: Training's, for module code that asks its trainer for them.
        datamodule: The user's; a shallow copy of it is attached.
        like: The user's trainer, or None.
        fresh: Whether `setup` and `configure_model` have not been called yet.

    Raises:
        Unavailable: If the module cannot be copied, or its own hooks fail.
    """

    def __init__(
        self,
        module: Any,
        *,
        loaders: Any = None,
        datamodule: Any = None,
        like: Any = None,
        fresh: bool = False,
    ) -> None:
        namespace = namespace_of(module)
        if namespace is None:
            raise TypeError(f"`module` must be a LightningModule, got {type(module).__name__}.")
        self.module: Any = copied(module)
        self._like = like
        own = copy.copy(datamodule)
        with said("the module cannot be set up without its trainer"):
            self.trainer = stand_in(self.module, namespace, loaders, own, like)
        _hand_over(module, self.module, self.trainer)
        _silence(self.module)
        if fresh:
            with running(), said("the module's `setup` or `configure_model` failed"):
                self.module.prepare_data()
                self.module.setup(stage="fit")
                self.module.configure_model()
        if not _keeps_modes(namespace):
            self.module.train()
        self._optimizers: list[Any] | None = None

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        first = next((p for p in self.module.parameters()), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def optimizers(self) -> list[Any]:
        """What `configure_optimizers` returns for this copy: torch's optimizers.

        Raises:
            Unavailable: If it fails.
        """
        if self._optimizers is None:
            with running(), said("`configure_optimizers` failed"):
                self.trainer.strategy.setup_optimizers(self.trainer)
                self._optimizers = list(self.trainer.strategy.optimizers)
        return self._optimizers

    def moved(self, batch: Any) -> Any:
        """Return a batch as `training_step` gets it: through the hooks, on the module's device."""
        with running(), said("the batch could not be moved to the module's device"):
            plugin = getattr(self._like, "precision_plugin", None)
            if plugin is not None:
                batch = plugin.convert_input(batch)
            batch = self.module._on_before_batch_transfer(batch, 0)
            return self.module._apply_batch_transfer_handler(batch, self.device, 0)

    def started(self) -> Twin:
        """Call the hooks that the module has for the beginning of training; return the twin.

        As Lightning does: after the optimizers are made. `on_fit_start` is not called a second
        time where the user's trainer has called it.
        """
        with suppress(Unavailable):  # said where they are needed
            _ = self.optimizers
        names = ["on_train_start", "on_train_epoch_start"]
        with running(), said("the module's hooks for the start of training failed"):
            for name in names if self._like is not None else ["on_fit_start", *names]:
                getattr(self.module, name)()
        return self

    def step(self, batch: Any, batch_idx: int = 0) -> Tensor | None:
        """Run `training_step` on a batch; return its loss with its graph, None if it returns none.

        With manual optimisation the module takes its steps within it, on this copy.

        Args:
            batch: As `moved` returns it; a copy of its own, since steps may change what they get.
            batch_idx: Which.

        Raises:
            Unavailable: If the step fails.
        """
        step = self.module.training_step
        arguments = [batch, batch_idx, 0][: _positions(step)]
        try:  # module code may ask for them, and for their schedulers
            _ = self.optimizers
        except Unavailable:
            if not self.module.automatic_optimization:
                raise
        failed = "`training_step` failed on a copy of the module"
        with running(), self._context(), said(failed):
            self.module.on_train_batch_start(batch, batch_idx)
            output = step(*arguments)
        loss = output.get("loss") if isinstance(output, dict) else output
        return loss if isinstance(loss, Tensor) else None

    def loss(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Do what `step` does, where a loss is needed.

        Raises:
            Unavailable: If the step fails, or returns no loss.
        """
        loss = self.step(batch, batch_idx)
        if loss is None:
            raise Unavailable("`training_step` returned no loss")
        return loss

    def release(self) -> None:
        """Give the copy's memory back now; it is of no more use.

        Trainers and modules hold each other, so that it would stay until garbage is collected.
        """
        for optimizer in self._optimizers or ():
            optimizer.state.clear()
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if not isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
                tensor.grad = None
                tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)

    def _context(self) -> Any:
        """Return what the user's trainer runs steps in, such as autocast."""
        plugin = getattr(self._like, "precision_plugin", None)
        return torch.enable_grad() if plugin is None else plugin.forward_context()


def copied(module: nn.Module) -> Any:
    """Return a deep copy of a module, but of the data sets, loaders and loggers that it holds.

    Raises:
        Unavailable: If it cannot be copied.
    """
    memo: dict[int, Any] = {}
    shared: Any = (*_SHARED, *writers())
    values = [value for each in module.modules() for value in vars(each).values()]
    listed = [v for each in values if isinstance(each, (list, tuple)) for v in each[:_MEMBERS]]
    named = [v for each in values if isinstance(each, dict) for v in each.values()]
    for value in (*values, *listed, *named, *held_by(values)):
        if isinstance(value, shared) or type(value).__name__ == "ProcessGroup":
            memo[id(value)] = value
        elif isinstance(value, Trainer):
            memo[id(value)] = None
        elif isinstance(value, torch.Generator):
            memo[id(value)] = own_generator(value)
        elif isinstance(value, Tensor) and not value.is_leaf:
            # What was computed, as by weight norms, refuses to be copied.
            memo[id(value)] = value.detach().clone()
    with torch.no_grad(), said("the module cannot be copied"):
        own = copy.deepcopy(module, memo)
        rebind(own, memo)
        for parameter, other in zip(module.parameters(), own.parameters(), strict=True):
            # Those of scripts come without it, or, with gradients on, as no leaves.
            other.requires_grad_(parameter.requires_grad)
        return own


@contextmanager
def running() -> Iterator[None]:
    """Run a module's code alone: no ranks, no compiler, gradients on."""
    eager = EagerStep("eager")
    with ranks_apart(), torch.inference_mode(mode=False), torch.enable_grad():
        if eager.allowed():
            eager.start()
        try:
            yield
        finally:
            eager.stop()


@contextmanager
def said(what: str) -> Iterator[None]:
    """Say in one sentence what failed, for a check to pass on as not observed.

    Example:
        >>> with said("the step failed"):
        ...     raise KeyError("x")
        Traceback (most recent call last):
        ...
        lightning_diag.checks.data.Unavailable: the step failed: KeyError: 'x'
    """
    try:
        yield
    except Unavailable:
        raise
    except (Exception, SystemExit) as error:  # user code may want to leave; training decides
        raise Unavailable(f"{what}: {type(error).__name__}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Take whatever `self.log` takes."""


def _hand_over(module: nn.Module, own: nn.Module, trainer: Any) -> None:
    """Give a copy its own trainer wherever the original holds one."""
    for each, copied_one in zip(module.modules(), own.modules(), strict=False):
        for name, value in vars(each).items():
            if name != "_trainer" and isinstance(value, Trainer):
                vars(copied_one)[name] = trainer


def _silence(module: nn.Module) -> None:
    for each in module.modules():
        if isinstance(each, LightningModule):
            for name in ("log", "log_dict", "print"):
                vars(each)[name] = _nothing


def _positions(step: Callable[..., Any]) -> int:
    """Return how many of batch, index and loader index a step takes."""
    parameters = inspect.signature(step).parameters.values()
    names = [p.name for p in parameters]
    if "dataloader_iter" in names:
        raise Unavailable("`training_step` takes its batches from `dataloader_iter` itself")
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return len([p for p in parameters if p.kind is not p.KEYWORD_ONLY])


def _keeps_modes(namespace: Any) -> bool:
    """Whether Lightning leaves modules in the mode that they have: from 2.2 on."""
    version = NAMESPACES[namespace].__version__.split(".")
    return (int(version[0]), int(version[1])) >= (2, 2)
