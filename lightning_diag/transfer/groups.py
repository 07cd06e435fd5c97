"""Parameter groups, one for each unit of layers, made before any scheduler sees them.

Schedulers keep one number for each parameter group that there is when they are made, and most
break or fall silent when another is added later (P21). The user makes optimizer and scheduler in
one call, `configure_optimizers`; so within that call, and in no other moment, torch's
`add_param_group` adds one group for each unit instead of one for all. Whatever is made from the
optimizer then, by whom ever, is made for these groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from lightning_diag._compat import MisconfigurationException
from lightning_diag.transfer.select import Unit

_BY_GROUP = (
    *("base_lrs", "_last_lr", "lr_lambdas", "min_lrs", "max_lrs"),
    *("base_momentums", "max_momentums"),
)
"""Lists of torch's schedulers that hold one entry for each parameter group."""
_WHOLE = ("LBFGS", "ZeroRedundancyOptimizer")
"""Optimizers that cannot have several groups, or do not say which rank steps which."""

Places = Mapping[int, int]
"""Id of a parameter to the index of its unit."""


def places_of(units: Sequence[Unit]) -> dict[int, int]:
    """Return which unit each parameter is in."""
    return {id(p): i for i, unit in enumerate(units) for p in unit.parameters.values()}


def place_of(group: Mapping[str, Any], places: Places) -> int | None:
    """Return the unit of a parameter group; None if it is of none, or of several."""
    found = {places.get(id(parameter)) for parameter in group["params"]}
    return found.pop() if len(found) == 1 else None


def parts(group: dict[str, Any], places: Places, names: Sequence[str]) -> list[dict[str, Any]]:
    """Split a parameter group by unit, in the order of the units.

    All options are copied. A group that is of one unit is returned as it is, with a name if it had
    none; parameters that are in no unit stay together, behind the others.

    Example:
        >>> a, b = torch.zeros(1), torch.ones(1)
        >>> places = {id(a): 1, id(b): 0}
        >>> split = parts({"params": [a, b], "lr": 0.1}, places, ["head", "body"])
        >>> [(each["name"], each["lr"], each["params"]) for each in split]
        [('head', 0.1, [tensor([1.])]), ('body', 0.1, [tensor([0.])])]
    """
    members: dict[int, list[int]] = {}
    for i, parameter in enumerate(group["params"]):
        members.setdefault(places.get(id(parameter), len(names)), []).append(i)
    titles = [*names, "others"]
    if len(members) < 2:
        for place in members:
            group.setdefault("name", titles[place])
        return [group]
    own = group.get("name")
    found = []
    for place in sorted(members):
        part = {key: _copied(value) for key, value in group.items()}
        for key in ("params", "param_names"):
            if key in group:
                part[key] = [group[key][i] for i in members[place]]
        part["name"] = titles[place] if own is None else f"{own}/{titles[place]}"
        found.append(part)
    return found


def _copied(value: Any) -> Any:
    # A scheduler writes a new rate into the tensor: a group must not share it.
    if isinstance(value, Tensor):
        return value.clone()
    return list(value) if isinstance(value, list) else value


@contextmanager
def split_when_added(places: Places, names: Sequence[str]) -> Iterator[None]:
    """Have every optimizer of torch's kind that is made meanwhile get its groups by unit."""
    own = torch.optim.Optimizer.add_param_group

    @wraps(own)
    def add_param_group(self: torch.optim.Optimizer, param_group: dict[str, Any]) -> None:
        own(self, param_group)
        added = self.param_groups.pop()
        self.param_groups.extend(parts(added, places, names))

    torch.optim.Optimizer.add_param_group = add_param_group  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.optim.Optimizer.add_param_group = own  # type: ignore[method-assign]


def configured(
    configure: Callable[[], Any], places: Places, names: Sequence[str]
) -> tuple[Any, list[torch.optim.Optimizer]]:
    """Call `configure_optimizers`, and return what it returned and the optimizers in it.

    Each of these has one group for each unit and each group of the user's own, with unique names,
    and so has every scheduler. Where the user's code gives lists with one entry for each group of
    its own (of lambdas, of largest rates), it fails with more groups: then it is called once more
    as it is, and groups and lists are split afterwards.

    Raises:
        MisconfigurationException: If an optimizer cannot have several groups.
    """
    try:
        with split_when_added(places, names):
            found = configure()
    except Exception:  # noqa: BLE001  # if it is of the user's own making, it comes again
        found = configure()
    optimizers, schedulers = _members(found)
    for optimizer in optimizers:
        origin = _regroup(optimizer, places, names)
        if origin is not None:
            for scheduler in schedulers:
                if scheduler.optimizer is optimizer:
                    _expand(scheduler, origin)
        _name_uniquely(optimizer)
    return found, optimizers


def _members(found: Any) -> tuple[list[torch.optim.Optimizer], list[Any]]:
    """Return the optimizers and schedulers in what `configure_optimizers` returned."""
    if isinstance(found, torch.optim.Optimizer):
        return [found], []
    if isinstance(getattr(found, "optimizer", None), torch.optim.Optimizer):
        return [], [found]
    inner = found.values() if isinstance(found, Mapping) else found
    if not isinstance(found, (Mapping, list, tuple)):
        inner = ()
    each = [_members(member) for member in inner]
    return [o for found, _ in each for o in found], [s for _, found in each for s in found]


def _regroup(
    optimizer: torch.optim.Optimizer, places: Places, names: Sequence[str]
) -> list[int] | None:
    """Split the groups of an optimizer; return the old index of each, None if all were split."""
    split = [parts(group, places, names) for group in optimizer.param_groups]
    if {cls.__name__ for cls in type(optimizer).__mro__} & set(_WHOLE):
        raise MisconfigurationException(
            f"LayerFreezing needs a parameter group for each entry, and {type(optimizer).__name__} "
            "cannot have several: take another optimizer, or set `requires_grad` yourself."
        )
    if all(len(each) == 1 for each in split):
        return None
    # In place: an optimizer that wraps another one may share the list.
    optimizer.param_groups[:] = [part for each in split for part in each]
    return [i for i, each in enumerate(split) for _ in each]


def _expand(scheduler: Any, origin: Sequence[int]) -> None:
    """Give a scheduler that was made for fewer groups one entry for each that there is now."""
    before = origin[-1] + 1
    for name in _BY_GROUP:
        values = vars(scheduler).get(name)
        if isinstance(values, (list, tuple)) and len(values) == before:
            setattr(scheduler, name, [_copied(values[i]) for i in origin])
    for inner in vars(scheduler).get("_schedulers", ()):
        _expand(inner, origin)


def _name_uniquely(optimizer: torch.optim.Optimizer) -> None:
    seen: set[str] = set()
    for group in optimizer.param_groups:
        name, i = str(group["name"]), 2
        while name in seen:
            name, i = f"{group['name']}/{i}", i + 1
        seen.add(name)
        group["name"] = name
