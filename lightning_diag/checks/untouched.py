"""`untouched`: whatever happens within it, a module and all around it are as before, bit for bit.

Checks run on copies, so that there should be nothing to put back. But a module may hold hooks and
closures that reach the original, and random states belong to the whole process.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from lightning_diag.checks.around import classes_of, files_of, held_by
from lightning_diag.checks.generators import still
from lightning_diag.lr.apart import apart

Undo = Callable[[], None]
Keep = Callable[[Tensor], Undo]

_CONTENTS = (dict, list, set, deque)
"""Containers whose members are kept, and those of containers and tensors in them."""
_DEPTH = 3
"""Levels of containers within containers that are kept (our choice)."""
_WIDE = 1000
"""Members of a container up to which they are looked into (our choice)."""
_VALUES = (int, float, complex, str, bytes, tuple, frozenset, Tensor, type(None))
_GENERATORS = ("Generator", "Random", "RandomState")
_LONG = 100_000
"""Members up to which a container or tensor beside the module is kept (our choice): what grows in
a training step is short before the first one."""


@contextmanager
def untouched(
    module: nn.Module,
    optimizers: Iterable[Any] = (),
    schedulers: Iterable[Any] = (),
    *,
    others: Iterable[Any] = (),
    values: bool = True,
) -> Iterator[None]:
    """Put everything back at the end, also after an exception or Ctrl+C.

    Weights, buffers, gradients (None stays None), modes, `requires_grad`, hooks, attributes of the
    module and of all modules in it, optimizers, schedulers, the random states of Python, NumPy and
    torch, what Lightning and cuDNN set for the whole process. Tensors stay the same objects.
    Of loaders, their data sets, samplers and what users wrote beside them: attributes, members of
    containers and random generators. Of the classes that users wrote, and of the files in which
    they stand: numbers, texts, members of containers, tensors and random generators.

    Not put back: what user code does outside of all this, such as files that it writes, and globals
    of files that hold none of its classes.

    Args:
        module: Any module.
        optimizers: Those of its training, if there are any yet.
        schedulers: Their schedulers.
        others: Loaders, data modules, and whatever else its code may reach.
        values: Whether to keep the values of tensors, too, which takes a copy of all of them.

    Cost:
        A copy of all weights, buffers, gradients and of the optimizers' states.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> before = net.weight.clone()
        >>> with untouched(net):
        ...     _ = net.eval().weight.data.fill_(torch.randn(()))
        >>> torch.equal(net.weight, before), net.training
        (True, True)
    """
    with ExitStack() as undone:
        undone.enter_context(apart())
        keep = _kept_tensor if values else _kept_flags
        for undo in _undoing(module, list(optimizers), list(schedulers), keep):
            undone.callback(undo)
        reached = held_by(others)
        # First what is around, so that nothing undoes what is done to the module itself.
        for undo in _undoing_around([*module.modules(), *reached], reached, keep):
            undone.callback(undo)
        undone.enter_context(still(*reached))
        undone.enter_context(_kept_process())
        yield


def _undoing(
    module: nn.Module, optimizers: Sequence[Any], schedulers: Sequence[Any], keep: Keep
) -> list[Undo]:
    """Return what puts each thing back."""
    known: set[int] = set()
    undo = [_kept_object(each, known, keep) for each in module.modules()]
    for optimizer in optimizers:
        undo.append(_kept_object(optimizer, known, keep))
        undo += [_kept_contents(group) for group in optimizer.param_groups]
        undo += [_kept_tree(state, known, keep) for state in optimizer.state.values()]
    return undo + [_kept_object(scheduler, known, keep) for scheduler in schedulers]


def _folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


@contextmanager
def _kept_process() -> Iterator[None]:
    """Keep what code sets for the whole process: its folder, its environment, torch's defaults."""
    folder, environment = _folder(), dict(os.environ)
    kind, threads = torch.get_default_dtype(), torch.get_num_threads()
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            yield
        finally:
            if folder is not None and _folder() != folder:
                os.chdir(folder)
            if dict(os.environ) != environment:
                os.environ.clear()
                os.environ.update(environment)
            torch.set_default_dtype(kind)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


def _undoing_around(objects: Sequence[Any], reached: Sequence[Any], keep: Keep) -> Iterator[Undo]:
    """Yield what puts back what is around a module: data, classes, and globals."""
    known: set[int] = set()
    for each in reached:
        # Data are large, and nobody trains them.
        yield _kept_object(each, known, _kept_flags)
    kinds = classes_of(objects)
    for owner in (*kinds, *files_of(kinds)):
        yield _kept_names(owner, keep)


def _kept_names(owner: Any, keep: Keep) -> Undo:
    """Keep what a class or a file names, as far as it is data."""
    before = dict(vars(owner))
    values = [value for name, value in before.items() if not name.startswith("__")]
    undo: list[Undo] = []
    for value in values:
        if isinstance(value, _CONTENTS) and len(value) <= _LONG:
            undo.append(_kept_contents(value))
        elif isinstance(value, Tensor):
            undo.append(keep(value) if value.numel() <= _LONG else _kept_flags(value))
    states = ExitStack()
    states.enter_context(still(*(v for v in values if type(v).__name__ in _GENERATORS)))

    def restore() -> None:
        states.close()
        for name, value in list(vars(owner).items()):
            if name not in before and not isinstance(value, (ModuleType, type)):
                delattr(owner, name)
        for name, value in before.items():
            if vars(owner).get(name) is not value and isinstance(value, (*_CONTENTS, *_VALUES)):
                setattr(owner, name, value)
        for each in undo:
            each()

    return restore


def _kept_object(owner: Any, known: set[int], keep: Keep) -> Undo:
    """Keep an object's attributes, the contents of containers among them, and tensors."""
    attributes = dict(vars(owner))
    undo: list[Undo] = []
    for value in attributes.values():
        if isinstance(value, _CONTENTS) and len(value) <= _LONG and id(value) not in known:
            known.add(id(value))
            undo.append(_kept_tree(value, known, keep))
        tensors = value.values() if isinstance(value, dict) else (value,)
        for tensor in tensors:
            if isinstance(tensor, Tensor) and id(tensor) not in known:
                known.add(id(tensor))
                undo.append(keep(tensor))

    def restore() -> None:
        vars(owner).clear()
        vars(owner).update(attributes)
        for each in undo:
            each()

    return restore


def _kept_contents(container: Any) -> Undo:
    """Keep the members of a container."""
    members = list(container.items()) if isinstance(container, dict) else list(container)

    def restore() -> None:
        now = container.items() if isinstance(container, dict) else container
        if len(now) == len(members) and all(map(_is_same, now, members)):
            return
        container.clear()
        if isinstance(container, (dict, set)):
            container.update(members)
        else:
            container.extend(members)

    return restore


def _is_same(one: Any, other: Any) -> bool:
    if type(one) is tuple and type(other) is tuple:  # an item of a dictionary
        return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
    return one is other


def _kept_tree(state: Any, known: set[int], keep: Keep, depth: int = 0) -> Undo:
    """Keep a tensor, or a container and what is in it, some levels deep."""
    if isinstance(state, Tensor):
        if id(state) in known:
            return _nothing
        known.add(id(state))
        return keep(state)
    undo: list[Undo] = []
    if isinstance(state, _CONTENTS):
        undo.append(_kept_contents(state))
        if depth < _DEPTH and len(state) <= _WIDE:
            members = state.values() if isinstance(state, dict) else state
            nested = [m for m in members if isinstance(m, (*_CONTENTS, Tensor))]
            undo += [_kept_tree(member, known, keep, depth + 1) for member in nested]

    def restore() -> None:
        for each in undo:
            each()

    return restore


def _kept_tensor(tensor: Tensor) -> Undo:
    """Keep values, gradient and `requires_grad` of a tensor."""
    if (
        isinstance(tensor, (UninitializedParameter, UninitializedBuffer))
        or tensor.device.type == "meta"
    ):
        return _kept_flags(tensor)
    data, values = tensor.data, tensor.detach().clone()
    gradient = tensor.grad if tensor.is_leaf else None
    undo = [_kept_flags(tensor), *([] if gradient is None else [_kept_tensor(gradient)])]

    def restore() -> None:
        if not _is_same_memory(tensor, data):
            tensor.data = data
        # Through `data`, which leaves the version that autograd compares as it is.
        tensor.data.copy_(values)
        for each in undo:
            each()

    return restore


def _is_same_memory(one: Tensor, other: Tensor) -> bool:
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return one.layout is other.layout
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape


def _kept_flags(tensor: Tensor) -> Undo:
    """Keep whether a tensor is trained, and which gradient it has."""
    if not tensor.is_leaf:
        return _nothing
    requires_grad, gradient = tensor.requires_grad, tensor.grad

    def restore() -> None:
        if tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)
        if tensor.grad is not gradient:
            tensor.grad = gradient

    return restore


def _nothing() -> None:
    """Put nothing back."""
