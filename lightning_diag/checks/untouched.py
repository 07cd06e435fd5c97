"""`untouched`: whatever happens within it, a module and all around it are as before, bit for bit.

Checks run on copies, so that there should be nothing to put back. But a module may hold hooks and
closures that reach the original, and random states belong to the whole process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from lightning_diag.lr.apart import apart

Undo = Callable[[], None]
Keep = Callable[[Tensor], Undo]

_CONTENTS = (dict, list, set, deque)
"""Containers whose members are kept; what they hold is kept only where it is a tensor."""


@contextmanager
def untouched(
    module: nn.Module,
    optimizers: Iterable[Any] = (),
    schedulers: Iterable[Any] = (),
    *,
    values: bool = True,
) -> Iterator[None]:
    """Put everything back at the end, also after an exception or Ctrl+C.

    Weights, buffers, gradients (None stays None), modes, `requires_grad`, hooks, attributes of the
    module and of all modules in it, optimizers, schedulers, the random states of Python, NumPy and
    torch, what Lightning and cuDNN set for the whole process. Tensors stay the same objects.

    Not put back: what user code does outside of all this, such as files that it writes.

    Args:
        module: Any module.
        optimizers: Those of its training, if there are any yet.
        schedulers: Their schedulers.
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
        undo += [_kept_tree(state, keep) for state in optimizer.state.values()]
    return undo + [_kept_object(scheduler, known, keep) for scheduler in schedulers]


def _kept_object(owner: Any, known: set[int], keep: Keep) -> Undo:
    """Keep an object's attributes, the contents of containers among them, and tensors."""
    attributes = dict(vars(owner))
    undo: list[Undo] = []
    for value in attributes.values():
        if isinstance(value, _CONTENTS) and id(value) not in known:
            known.add(id(value))
            undo.append(_kept_contents(value))
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
        container.clear()
        if isinstance(container, (dict, set)):
            container.update(members)
        else:
            container.extend(members)

    return restore


def _kept_tree(state: Any, keep: Keep) -> Undo:
    """Keep the state that an optimizer has of one parameter."""
    if isinstance(state, Tensor):
        return keep(state)
    undo: list[Undo] = []
    if isinstance(state, _CONTENTS):
        undo.append(_kept_contents(state))
        members = state.values() if isinstance(state, dict) else state
        undo += [_kept_tree(member, keep) for member in members]

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
