"""Which parameter groups a callback is meant for, by name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from lightning_diag._compat import MisconfigurationException


def selected(trainer: Any, module: Any, patterns: str | Sequence[str] | None) -> list[list[int]]:
    """Return the indices of the chosen parameter groups of each optimizer.

    A pattern, with ``*`` and ``?``, chooses by the ``name`` of a parameter group, by its place
    (``optimizer0``, ``optimizer0/group1``), by the optimizer's class (``SGD``, ``SGD/group1``), or
    by the names of the parameters in it (``backbone.*``).

    Args:
        patterns: One or several; a group is chosen if one of them fits. None chooses all.

    Raises:
        MisconfigurationException: If a pattern fits nothing, or only some of the parameters of a
            group: a learning rate is that of a whole group.
    """
    optimizers = trainer.optimizers
    if patterns is None:
        return [list(range(len(each.param_groups))) for each in optimizers]
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    chosen: list[list[int]] = [[] for _ in optimizers]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = False
        for i, optimizer in enumerate(optimizers):
            for j, group in enumerate(optimizer.param_groups):
                if _fits(pattern, titles(optimizer, i, j), group, names):
                    found = True
                    chosen[i] = sorted({*chosen[i], j})
        if not found:
            raise MisconfigurationException(
                f"`parameters` has {pattern!r}, which fits no parameter group of this model: take "
                f"one of {', '.join(_known(optimizers))}, or a pattern of parameters' names."
            )
    return chosen


def titles(optimizer: Any, index: int, group: int) -> list[str]:
    """Return the names that a parameter group goes by, its own first."""
    own = optimizer.param_groups[group].get("name")
    kind = type(optimizer).__name__
    places = [f"optimizer{index}", kind, f"optimizer{index}/group{group}", f"{kind}/group{group}"]
    return [str(own), *places] if own else places


def _fits(pattern: str, known: list[str], group: dict[str, Any], names: dict[int, str]) -> bool:
    if any(fnmatchcase(title, pattern) for title in known):
        return True
    members = [names.get(id(parameter), "") for parameter in group["params"]]
    inside = [name for name in members if fnmatchcase(name, pattern)]
    if inside and len(inside) < len(members):
        outside = next(name for name in members if name not in inside)
        raise MisconfigurationException(
            f"`parameters` has {pattern!r}, which fits {inside[0]!r} but not {outside!r} of the "
            f"same parameter group {known[0]!r}: give them groups of their own in "
            "`configure_optimizers`."
        )
    return bool(inside)


def _known(optimizers: Sequence[Any]) -> list[str]:
    return [
        repr(titles(optimizer, i, j)[0] if group.get("name") else f"optimizer{i}/group{j}")
        for i, optimizer in enumerate(optimizers)
        for j, group in enumerate(optimizer.param_groups)
    ]
