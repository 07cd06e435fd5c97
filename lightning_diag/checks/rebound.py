"""Functions that a module holds, and that call its own layers, made to call those of its copy."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

from torch import nn


def rebind(own: nn.Module, memo: Mapping[int, Any]) -> None:
    """Give a copy functions of its own, where those of the original reach into the original.

    A deep copy shares functions, as ``self.mlp = lambda x: self.fc(x)`` is one: the copy would
    run the original's layers.

    Args:
        own: The copy.
        memo: What `copy.deepcopy` has copied, by ``id`` of the original.

    Example:
        >>> import copy
        >>> net, memo = nn.Module(), {}
        >>> net.fc = nn.Linear(1, 1)
        >>> net.run = functools.partial(nn.functional.linear, weight=net.fc.weight)
        >>> twin = copy.deepcopy(net, memo)
        >>> rebind(twin, memo)
        >>> twin.run.keywords["weight"] is twin.fc.weight
        True
    """
    for module in own.modules():
        held = vars(module)
        for name, value in list(held.items()):
            other = _rebound(value, memo)
            if other is not value:
                held[name] = other


def _rebound(value: Any, memo: Mapping[int, Any]) -> Any:
    if isinstance(value, functools.partial):
        function = _rebound(value.func, memo)
        given = [memo.get(id(each), each) for each in value.args]
        named = {name: memo.get(id(each), each) for name, each in value.keywords.items()}
        is_same = function is value.func and all(
            a is b for a, b in zip(given, value.args, strict=True)
        )
        is_same = is_same and all(named[name] is value.keywords[name] for name in named)
        return value if is_same else functools.partial(function, *given, **named)
    if not isinstance(value, types.FunctionType):
        return value
    cells = value.__closure__ or ()
    before = [_content(cell) for cell in cells]
    after = [memo.get(id(each), each) for each in before]
    defaults = tuple(memo.get(id(each), each) for each in value.__defaults__ or ())
    if _alike(before, after) and _alike(value.__defaults__ or (), defaults):
        return value
    closure = tuple(
        cell if old is new else types.CellType(new)
        for cell, old, new in zip(cells, before, after, strict=True)
    )
    other = types.FunctionType(
        value.__code__, value.__globals__, value.__name__, defaults or None, closure
    )
    other.__kwdefaults__ = value.__kwdefaults__
    other.__dict__.update(value.__dict__)
    return other


def _alike(before: Any, after: Any) -> bool:
    return all(a is b for a, b in zip(before, after, strict=True))


_EMPTY = object()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was assigned yet
        return _EMPTY
