"""The one place that knows Lightning comes under two names.

`lightning.pytorch` and `pytorch_lightning` hold the same code twice, as different classes. Either
may be installed, or both, and a user's Trainer comes from one of them. Everything here fits both.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import operator
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor

Namespace = Literal["pytorch_lightning", "lightning.pytorch"]

DISTRIBUTIONS: Mapping[Namespace, str] = {
    "pytorch_lightning": "pytorch-lightning",
    "lightning.pytorch": "lightning",
}
"""Namespace to the distribution that installs it.

The order is the one in which they are imported when the user has imported neither: sorted import
lines put ``lightning.pytorch`` before this package and ``pytorch_lightning`` behind it, so the
latter is the likelier one to follow.
"""

COMPROMISED = frozenset({"2.6.2", "2.6.3"})
"""Releases of both distributions that steal credentials when imported (GHSA-w37p-236h-pfx3)."""

_RANK_ZERO = "lightning_utilities.core.rank_zero"

StepOutput: TypeAlias = Tensor | Mapping[str, Any] | None
"""What a training step returns, as hooks receive it."""


def refuse_compromised() -> None:
    """Look at the installed releases, without importing them.

    Raises:
        ImportError: If one of them is known to steal credentials.
    """
    for distribution in DISTRIBUTIONS.values():
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version in COMPROMISED:
            raise ImportError(
                f"{distribution} {version} is a compromised release that steals credentials when "
                f"imported (GHSA-w37p-236h-pfx3), so lightning_diag did not import it: run "
                f"`pip install --upgrade '{distribution}>=2.6.4'` and replace the credentials "
                "that this machine holds."
            )


@contextmanager
def _keep_rank_zero() -> Iterator[None]:
    """Put back what each namespace overwrites on import for the other one.

    Without this, a user who silenced the logger of one namespace hears its Trainer again
    through the logger of the other.
    """
    module = sys.modules.get(_RANK_ZERO)
    if module is None:
        yield
        return
    names = ("log", "rank_zero_deprecation_category")
    kept = {name: getattr(module, name) for name in names if hasattr(module, name)}
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(module, name, value)


def _import_namespaces() -> dict[Namespace, ModuleType]:
    """Import every namespace that is installed, the user's own first."""
    refuse_compromised()
    order = sorted(DISTRIBUTIONS, key=lambda name: name not in sys.modules)
    found: dict[Namespace, ModuleType] = {}
    reasons: list[str] = []
    for name in order:
        try:
            with _keep_rank_zero():
                found[name] = importlib.import_module(name)
        except ImportError as error:
            # A namespace that cannot be imported cannot be the user's: the other one is enough.
            reasons.append(f"{name}: {error}")
    if not found:
        raise ImportError(
            "lightning_diag needs Lightning, and neither of its packages can be imported "
            f"({'; '.join(reasons)}): run `pip install pytorch-lightning`."
        )
    return found


if TYPE_CHECKING:
    import lightning.pytorch as _lightning
    import pytorch_lightning as _pytorch_lightning
    from lightning.fabric.utilities.exceptions import (
        MisconfigurationException as _LightningMisconfiguration,
    )
    from lightning.pytorch.callbacks import EarlyStopping as _LightningEarlyStopping
    from lightning.pytorch.loggers import Logger as _LightningLogger
    from lightning_fabric.utilities.exceptions import (
        MisconfigurationException as _PytorchLightningMisconfiguration,
    )
    from pytorch_lightning.callbacks import EarlyStopping as _PytorchLightningEarlyStopping
    from pytorch_lightning.loggers import Logger as _PytorchLightningLogger

    NAMESPACES: dict[Namespace, ModuleType]
    Trainer: TypeAlias = _pytorch_lightning.Trainer | _lightning.Trainer
    LightningModule: TypeAlias = _pytorch_lightning.LightningModule | _lightning.LightningModule
    LightningDataModule: TypeAlias = (
        _pytorch_lightning.LightningDataModule | _lightning.LightningDataModule
    )
    Logger: TypeAlias = _PytorchLightningLogger | _LightningLogger

    # The two declare the same hooks for their own Trainer class; ours take either.
    class _CallbackBase(_pytorch_lightning.Callback, _lightning.Callback):  # type: ignore[misc]
        pass

    class _MisconfigurationBase(_PytorchLightningMisconfiguration, _LightningMisconfiguration):
        pass

    class EarlyStopping(  # type: ignore[misc]
        _PytorchLightningEarlyStopping, _LightningEarlyStopping
    ):
        pass

else:
    NAMESPACES = _import_namespaces()
    """The namespaces that are installed, by name."""

    def _each(submodule: str, name: str) -> tuple[type, ...]:
        """Return a class of that name from every namespace."""
        paths = [f"{namespace}{submodule}" for namespace in NAMESPACES]
        return tuple(getattr(importlib.import_module(path), name) for path in paths)

    Trainer = functools.reduce(operator.or_, _each("", "Trainer"))
    LightningModule = functools.reduce(operator.or_, _each("", "LightningModule"))
    LightningDataModule = functools.reduce(operator.or_, _each("", "LightningDataModule"))
    Logger = functools.reduce(operator.or_, _each(".loggers", "Logger"))
    _CallbackBase = type("_CallbackBase", _each("", "Callback"), {})
    _MisconfigurationBase = type(
        "_MisconfigurationBase", _each(".utilities.exceptions", "MisconfigurationException"), {}
    )

    class _LastConstructor:
        """Ends the chain of constructors: the second `EarlyStopping` has arguments of its own."""

        def __init__(self) -> None:
            pass

    _first, *_others = _each(".callbacks", "EarlyStopping")
    EarlyStopping = type("EarlyStopping", (_first, _LastConstructor, *_others), {})
    """Lightning's own, for the Trainer of either namespace."""


class MisconfigurationException(_MisconfigurationBase):
    """A trainer set-up that a callback cannot work with.

    Whoever catches the `MisconfigurationException` of either namespace catches this one.
    """


class Callback(_CallbackBase):
    """A callback for the Trainer of either namespace.

    Args:
        identity: The arguments that tell this instance from others of its class; they make up
            its `state_key`. A checkpoint is restored only into an equal key, so leave out what a
            user may change from one run to its resumption.

    Example:
        >>> Callback(window=5000).state_key
        "Callback{'window': 5000}"
        >>> Callback().state_key
        'Callback'
    """

    _state_key: str | None = None

    def __init__(self, **identity: object) -> None:
        super().__init__()
        if identity:
            # Once and for all: Lightning asks for the key around every hook of every batch.
            self._state_key = self._generate_state_key(**identity)

    @property
    def state_key(self) -> str:
        """Key of this callback's state in a checkpoint, fixed at construction."""
        return self._state_key or type(self).__qualname__


def namespace_of(instance: object) -> Namespace | None:
    """Say which namespace a trainer, module or logger comes from.

    Returns:
        The first namespace among its classes; None for an object that has nothing to do with
        Lightning.

    Example:
        >>> namespace_of(3) is None
        True
    """
    for cls in type(instance).__mro__:
        for name in DISTRIBUTIONS:
            if cls.__module__ == name or cls.__module__.startswith(f"{name}."):
                return name
    return None


def in_namespace_of(trainer: object, reason: Enum) -> Enum:
    """Return a reason for which training was stopped as the trainer's own namespace has it.

    Each namespace has an `EarlyStoppingReason`, and a member of one equals none of the other.
    """
    module = importlib.import_module(f"{namespace_of(trainer)}.callbacks.early_stopping")
    reasons: Any = module.EarlyStoppingReason
    own: Enum = reasons[reason.name]
    return own


def is_logger(logger: object, name: str) -> bool:
    """Say whether a logger is of a class, or of a subclass of one, that has this name.

    Names instead of classes, since each namespace has its own `WandbLogger`, and importing one
    to ask would import the logger's package.

    Example:
        >>> class WandbLogger: ...
        >>> class MyLogger(WandbLogger): ...
        >>> is_logger(MyLogger(), "WandbLogger"), is_logger(MyLogger(), "CSVLogger")
        (True, False)
    """
    return any(cls.__name__ == name for cls in type(logger).__mro__)
