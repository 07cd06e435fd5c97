"""What user code can reach beside a module: its data, its classes, the globals of its files."""

from __future__ import annotations

import sys
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

_DEPTH = 6
"""Levels of attributes and containers that are looked into (our choice): a data set in a subset,
its transforms, and what they hold."""
_NODES = 1000
"""Objects that are looked at, at most (our choice)."""
_MEMBERS = 32
"""Members of one container that are looked at (our choice): a list of samples holds no more."""
_DATA = (DataLoader, Dataset, Sampler)
_PLAIN = (str, bytes, int, float, complex, bool, Tensor, ModuleType, type(None), nn.Module)
_LIBRARIES = ("site-packages", "dist-packages")


def held_by(owners: Iterable[Any]) -> list[Any]:
    """Return the objects of users that others hold, and those of data, each once.

    Modules are left out, and whatever belongs to a library, but for loaders, data sets and
    samplers.

    Example:
        >>> [type(each).__name__ for each in held_by([DataLoader([1, 2])])]
        ['DataLoader', 'SequentialSampler', 'BatchSampler']
    """
    found: list[Any] = []
    seen: set[int] = set()
    waiting = deque((owner, 0) for owner in owners)
    while waiting and len(seen) < _NODES:
        node, depth = waiting.popleft()
        if isinstance(node, (*_PLAIN, type, FunctionType)) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, MethodType):
            waiting.append((node.__self__, depth))
        elif isinstance(node, Mapping) and type(node).__module__ == "builtins":
            waiting += [(node[key], depth + 1) for key in list(node)[:_MEMBERS]]
        elif isinstance(node, (list, tuple)):
            waiting += [(member, depth + 1) for member in node[:_MEMBERS]]
        elif hasattr(node, "__dict__") and _is_looked_at(node):
            found.append(node)
            if depth < _DEPTH:
                waiting += [(value, depth + 1) for value in vars(node).values()]
    return found


def _is_looked_at(node: Any) -> bool:
    kind: type = type(node)
    return isinstance(node, _DATA) or is_users(kind)


def classes_of(objects: Iterable[Any]) -> list[type]:
    """Return the classes of objects that users wrote, and those that they inherit from."""
    kinds = {kind: None for each in objects for kind in type(each).__mro__}
    return [kind for kind in kinds if is_users(kind)]


def files_of(kinds: Iterable[type]) -> list[ModuleType]:
    """Return the Python modules in which classes are written."""
    homes = {kind.__module__: None for kind in kinds}
    return [sys.modules[home] for home in homes if home in sys.modules]


@lru_cache(maxsize=4096)
def is_users(kind: type) -> bool:
    """Return whether a class belongs to no library.

    Example:
        >>> is_users(nn.Linear), is_users(dict)
        (False, False)
    """
    name = kind.__module__
    if name.partition(".")[0] in ("builtins", "lightning_diag"):
        return False
    path = getattr(sys.modules.get(name), "__file__", None)
    if path is None:  # typed in, or in a notebook
        return name == "__main__"
    own = sysconfig.get_paths()
    is_standard = path.startswith((own["stdlib"], own["platstdlib"]))
    return not is_standard and not any(part in path for part in _LIBRARIES)


def referred_to(kind: type) -> Iterator[Any]:
    """Yield what the methods of a class get from outside of it: globals by name, and closures."""
    for value in vars(kind).values():
        function = getattr(value, "__func__", value)
        if isinstance(function, FunctionType):
            yield from _outside(function)


def _outside(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield function.__globals__[name]


def one_way(owner: Any) -> str:
    """Name what an object draws from that cannot be put back: an iterator, a file, a queue.

    Looks at the attributes of what users wrote, at functions that stand there, and at what their
    methods refer to; empty if there is nothing.

    Example:
        >>> class Stream:
        ...     def __init__(self, lines):
        ...         self.read = lambda: lines
        >>> one_way(Stream(iter([1])))
        'list_iterator'
    """
    waiting = [each for kind in classes_of([owner]) for each in referred_to(kind)]
    waiting += list(getattr(owner, "__dict__", {}).values())
    for value in list(waiting):
        if isinstance(value, FunctionType) and _is_written_by_user(value):
            waiting += list(_outside(value))
    return next((type(value).__name__ for value in waiting if _flows(value)), "")


def _is_written_by_user(function: FunctionType) -> bool:
    path = function.__code__.co_filename
    return not any(part in path for part in (*_LIBRARIES, sysconfig.get_paths()["stdlib"]))


def _flows(value: Any) -> bool:
    kind = type(value)
    if kind.__module__ in ("queue", "_queue", "multiprocessing.queues", "socket"):
        return True
    return hasattr(kind, "__next__") and not isinstance(value, (nn.Module, Tensor))
