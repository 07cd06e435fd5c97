"""Runs a part of a training step as if it had not been run."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_diag.probe.places import is_metric


@contextmanager
def untouched(trainer: Any, module: nn.Module) -> Iterator[None]:
    """Leave nothing of what a module computes, or logs, within this context.

    There are no gradients. Afterwards buffers, such as running statistics, are what they were, and
    so are the states of metrics and random numbers; `self.log` and the trainer's loggers have heard
    nothing. Modules keep their modes. What a step writes to other attributes, stays.

    Args:
        trainer: Whose loggers are silent.
        module: Whose `log` is silent, and whose buffers are kept.
    """
    with ExitStack() as stack:
        stack.enter_context(_kept_random_states())
        stack.enter_context(_kept_buffers(module))
        stack.enter_context(_kept_metrics(module))
        stack.enter_context(_silence(trainer, module))
        stack.enter_context(torch.no_grad())
        yield


class _Silent:
    """A logger, or an experiment of one, that takes anything."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __getitem__(self, index: Any) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self


@contextmanager
def _silence(trainer: Any, module: nn.Module) -> Iterator[None]:
    own, loggers = vars(module).get("log"), trainer.loggers
    vars(module)["log"] = _Silent()
    if loggers:
        trainer.loggers = [_Silent() for _ in loggers]
    try:
        yield
    finally:
        if loggers:
            trainer.loggers = loggers
        if own is None:
            vars(module).pop("log", None)
        else:
            vars(module)["log"] = own


@contextmanager
def _kept_buffers(module: nn.Module) -> Iterator[None]:
    homes = [m._buffers for m in module.modules() if m._buffers and not is_metric(m)]
    with _kept_tensors(homes):
        yield


@contextmanager
def _kept_metrics(module: nn.Module) -> Iterator[None]:
    homes = [vars(m) for m in module.modules() if is_metric(m)]
    lists = [(own, list(own)) for home in homes for own in home.values() if isinstance(own, list)]
    with _kept_tensors([*homes, *(home["_buffers"] for home in homes)]):
        try:
            yield
        finally:
            for own, content in lists:
                own[:] = content


@contextmanager
def _kept_tensors(homes: list[Any]) -> Iterator[None]:
    """Keep what some dictionaries hold, and what is in the tensors among it."""
    before: list[Mapping[str, Any]] = [dict(home) for home in homes]
    # Once each: metrics that share what they count keep sharing it.
    tensors = {
        id(x): (x, x.clone()) for home in before for x in home.values() if isinstance(x, Tensor)
    }
    try:
        yield
    finally:
        with torch.no_grad():
            for x, content in tensors.values():
                x.copy_(content)
        for home, own in zip(homes, before, strict=True):
            home.clear()
            home.update(own)


@contextmanager
def _kept_random_states() -> Iterator[None]:
    numpy = sys.modules.get("numpy")
    python, legacy = random.getstate(), numpy.random.get_state() if numpy else None
    cpu, cuda = torch.get_rng_state(), torch.cuda.is_initialized()
    device = torch.cuda.get_rng_state() if cuda else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if device is not None:
            torch.cuda.set_rng_state(device)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        random.setstate(python)
        if numpy:
            numpy.random.set_state(legacy)
