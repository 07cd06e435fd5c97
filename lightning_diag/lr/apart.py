"""Trainings set apart: what they draw, set and write is put back or thrown away."""

from __future__ import annotations

import copy
import logging
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_diag._compat import NAMESPACES


@contextmanager
def apart() -> Iterator[str]:
    """Yield a folder for a while in which trainings leave no trace.

    Put back afterwards: the random states of Python, NumPy and torch, the level of Lightning's
    loggers, warning filters, and what a Trainer sets for the whole process.
    """
    with ExitStack() as undone:
        folder = undone.enter_context(tempfile.TemporaryDirectory())
        for each in (_kept_states(), _quiet(), _kept_flags()):
            undone.enter_context(each)
        yield folder


def seed_all(seed: int) -> None:
    """Set the random states of Python, NumPy and torch; NumPy's if it is there."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy:
        numpy.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def loaders_apart(data: Any, seed: int | None = None) -> Iterator[Any]:
    """Yield copies of loaders, and put back afterwards what they and their samplers draw from.

    Not their data is copied: an iterator that stays open is the copy's.

    Args:
        data: A loader, several of them in lists or dictionaries, or anything else, as it is.
        seed: Of all generators; None leaves them where they are.
    """
    parts = list(_parts(data))
    states = [(g, g.get_state()) for g in _generators(parts)]
    epochs = [(p, p.epoch) for p in parts if isinstance(getattr(p, "epoch", None), int)]
    try:
        if seed is not None:
            for generator, _ in states:
                generator.manual_seed(seed)
        yield _copied(data)
    finally:
        for generator, state in states:
            generator.set_state(state)
        for part, epoch in epochs:
            part.epoch = epoch


def _copied(data: Any) -> Any:
    if isinstance(data, DataLoader):
        return copy.copy(data)
    if isinstance(data, dict):
        return {name: _copied(each) for name, each in data.items()}
    return [_copied(each) for each in data] if type(data) in (list, tuple) else data


def _parts(data: Any) -> Iterator[Any]:
    if isinstance(data, dict):
        data = list(data.values())
    for each in data if isinstance(data, (list, tuple)) else [data]:
        yield each
        for name in ("sampler", "batch_sampler"):
            part = getattr(each, name, None)
            yield from () if part is None else (part, getattr(part, "sampler", None))


def _generators(parts: Sequence[Any]) -> list[torch.Generator]:
    found = [getattr(part, "generator", None) for part in parts]
    return [generator for generator in found if isinstance(generator, torch.Generator)]


@contextmanager
def _kept_states() -> Iterator[None]:
    numpy = sys.modules.get("numpy")
    python, legacy = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        # Of no device here: that would wake all of them.
        with torch.random.fork_rng(devices=[]), _kept_devices():
            yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.random.set_state(legacy)


@contextmanager
def _kept_devices() -> Iterator[None]:
    """Keep the random states of accelerators, without waking one that sleeps."""
    was_awake = torch.cuda.is_initialized()
    states = torch.cuda.get_rng_state_all() if was_awake else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        if was_awake:
            torch.cuda.set_rng_state_all(states)
        elif torch.cuda.is_initialized():
            for generator in torch.cuda.default_generators:
                generator.manual_seed(generator.initial_seed())
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Lightning tells of trainings that the user did not start to itself."""
    loggers = [logging.getLogger(namespace) for namespace in NAMESPACES]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            for namespace, logger in zip(NAMESPACES, loggers, strict=True):
                logger.setLevel(logging.ERROR)
                # Advice on loaders and steps; what the module itself warns of is the module's.
                warnings.filterwarnings("ignore", module=namespace.replace(".", r"\."))
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _kept_flags() -> Iterator[None]:
    benchmark = torch.backends.cudnn.benchmark
    strict = torch.are_deterministic_algorithms_enabled()
    mild = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(strict, warn_only=mild)
