"""Lets user code run unheard: what it prints, logs, warns of or sends to a tracker goes nowhere."""

from __future__ import annotations

import bdb
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_TRACKERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("wandb.sdk.wandb_run", "Run",
     ("log", "_log", "log_artifact", "log_model", "log_code", "save", "alert", "define_metric")),
    ("wandb.sdk.wandb_summary", "SummaryDict", ("update", "__setitem__", "__setattr__")),
    ("wandb.sdk.wandb_config", "Config", ("update", "__setitem__", "__setattr__")),
    ("torch.utils.tensorboard.writer", "FileWriter", ("add_event", "flush", "close")),
    ("tensorboardX.writer", "FileWriter", ("add_event", "flush", "close")),
    ("mlflow.tracking.client", "MlflowClient",
     ("log_metric", "log_param", "log_batch", "log_artifact", "log_artifacts", "log_text",
      "log_dict", "log_figure", "log_image", "log_table", "set_tag", "set_terminated")),
)  # fmt: skip
"""Where trackers send what code tells them: module, class, methods. Only what is imported already
is muted; what `self.log` and `self.logger` take goes nowhere anyway."""
_WRITERS = (
    ("wandb.sdk.wandb_run", "Run"),
    ("torch.utils.tensorboard.writer", "SummaryWriter"),
    ("tensorboardX.writer", "SummaryWriter"),
)


@contextmanager
def silence() -> Iterator[None]:
    """Keep what happens within it off the terminal, out of logs and trackers; debuggers wait.

    Example:
        >>> with silence():
        ...     print("nobody hears this")
    """
    with ExitStack() as undone:
        undone.enter_context(_muted_streams())
        undone.enter_context(_quiet_logging())
        undone.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        undone.enter_context(_unspent_warnings())
        for owner, name, value in _replaced():
            undone.enter_context(_set(owner, name, value))
        yield


def writers() -> tuple[type, ...]:
    """Return the classes of trackers' writers that are imported: `silence` mutes them."""
    found = [getattr(sys.modules.get(home), name, None) for home, name in _WRITERS]
    return tuple(each for each in found if isinstance(each, type))


class _Muted:
    """A stream that takes text and drops it, until `opened`; then it is the stream itself."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.opened = stream, False

    def write(self, text: Any) -> Any:
        return self.stream.write(text) if self.opened else len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def _muted_streams() -> Iterator[None]:
    names = [name for name in ("stdout", "stderr") if getattr(sys, name) is not None]
    muted = {name: _Muted(getattr(sys, name)) for name in names}
    for name, stream in muted.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in muted.items():
            setattr(sys, name, stream.stream)
            stream.opened = True  # somebody may have kept it


@contextmanager
def _quiet_logging() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _unspent_warnings() -> Iterator[None]:
    """Let what torch warns of only once be warned of in training."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        yield
    finally:
        torch.set_warn_always(before)


def _replaced() -> Iterator[tuple[Any, str, Any]]:
    """Yield owner, name and replacement of everything that would be heard."""
    for home, kind, names in _TRACKERS:
        owner = getattr(sys.modules.get(home), kind, None)
        known = getattr(owner, "__dict__", {})
        yield from ((owner, name, _nothing) for name in names if name in known)
    if hasattr(sys.modules.get("wandb"), "log"):
        yield sys.modules["wandb"], "log", _nothing
    # Whoever asks for a debugger wants it in training, and not on a copy.
    yield sys, "breakpointhook", _nothing
    yield bdb.Bdb, "set_trace", _nothing


@contextmanager
def _set(owner: Any, name: str, value: Callable[..., None]) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Take anything, and do nothing."""
