"""Random generators that data sets hold: their states are read, and put back."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_DEPTH = 5
"""Levels of attributes and containers that are looked into (our choice): a data set in a subset,
its transforms, and what they hold."""
_NODES = 400
"""Objects that are looked at, at most (our choice)."""
_MEMBERS = 32
"""Members of one container that are looked at (our choice): a list of samples holds no more."""
_PLAIN = (str, bytes, int, float, complex, bool, type, Tensor, type(None))


def generators_of(owner: Any) -> dict[str, Any]:
    """Return the random generators that an object holds, by where they are.

    Those of Python, NumPy and torch are known. Looks at attributes and into containers, some levels
    deep.

    Example:
        >>> class Noisy:
        ...     def __init__(self):
        ...         self.draws = [random.Random(0)]
        >>> list(generators_of(Noisy()))
        ['draws.0']
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", owner, 0)]
    while waiting and len(seen) < _NODES:
        name, node, depth = waiting.pop(0)
        if isinstance(node, _PLAIN) or id(node) in seen:
            continue
        seen.add(id(node))
        if _reader(node) is not None:
            found[name] = node
        elif depth < _DEPTH:
            members = _members(node)
            waiting += [(f"{name}.{k}" if name else k, v, depth + 1) for k, v in members]
    return found


def _members(node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, Mapping):
        return [(str(key), node[key]) for key in list(node)[:_MEMBERS]]
    if isinstance(node, (list, tuple)):
        return [(str(index), value) for index, value in enumerate(node[:_MEMBERS])]
    return [(str(name), value) for name, value in getattr(node, "__dict__", {}).items()]


def _reader(node: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    """Return how to read the state of a generator, and how to set it; None for anything else."""
    numpy = sys.modules.get("numpy")
    if isinstance(node, torch.Generator):
        return node.get_state, node.set_state
    if isinstance(node, random.Random):
        return node.getstate, node.setstate
    if numpy is not None and isinstance(node, numpy.random.RandomState):
        return (lambda: node.get_state(legacy=False)), node.set_state
    if numpy is not None and isinstance(node, numpy.random.Generator):
        bits = node.bit_generator
        return (lambda: bits.state), lambda state: setattr(bits, "state", state)
    return None


def state_of(generator: Any) -> str:
    """Return the state of a generator as a short text that can be compared.

    Example:
        >>> one, other = random.Random(1), random.Random(1)
        >>> state_of(one) == state_of(other)
        True
        >>> _ = other.random()
        >>> state_of(one) == state_of(other)
        False
    """
    reader = _reader(generator)
    state = None if reader is None else reader[0]()
    text = state.numpy().tobytes() if isinstance(state, Tensor) else _written(state).encode()
    return _short(text)


def _written(state: Any) -> str:
    if isinstance(state, dict):
        return ",".join(f"{key}:{_written(value)}" for key, value in sorted(state.items()))
    return state.tobytes().hex() if hasattr(state, "tobytes") else repr(state)


def global_states() -> dict[str, str]:
    """Return the states of the generators that the process has, by whose they are."""
    states = {
        "torch": _short(torch.get_rng_state().numpy().tobytes()),
        "random": _short(repr(random.getstate()).encode()),
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        states["numpy.random"] = _short(_written(numpy.random.get_state(legacy=False)).encode())
    return states


def _short(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()


@contextmanager
def still(*owners: Any) -> Iterator[None]:
    """Put the generators that objects hold back to where they were.

    Example:
        >>> generator = random.Random(0)
        >>> with still([generator]):
        ...     _ = generator.random()
        >>> state_of(generator) == state_of(random.Random(0))
        True
    """
    readers = [_reader(each) for owner in owners for each in generators_of(owner).values()]
    kept = [(put, get()) for get, put in (each for each in readers if each is not None)]
    try:
        yield
    finally:
        for put, state in kept:
            put(state)
