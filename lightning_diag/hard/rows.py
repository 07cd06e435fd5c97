"""Takes some samples out of a batch, whatever form it has."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lightning_diag.measure.data import leaves

_CONSTANTS = (str, bytes, int, float, complex, bool, type(None))
_Form = Callable[[Any], Any]
"""Takes a part of a batch to the same part of the chosen samples."""


class RowsError(TypeError):
    """What is in a batch and cannot be told apart by samples."""


def take_rows(batch: Any, chosen: Tensor, samples: int) -> Any:
    """Return the chosen samples as a batch of the same form.

    Mappings, lists, tuples, named tuples and dataclasses are looked into. Tensors and arrays have
    samples first; a list of as many members as there are samples is one of samples, but for the
    outermost one where it holds tensors, as loaders collate it. Numbers, texts and tensors without
    dimensions stay as they are. Nothing is changed in place.

    Args:
        batch: What a training step is given.
        chosen: Positions of the samples to take.
        samples: How many there are.

    Shape:
        `chosen`: ``(n,)`` of int64.

    Raises:
        RowsError: If something is none of these, or may be two.

    Example:
        >>> import torch
        >>> batch = {"x": torch.tensor([5, 6, 7]), "name": ["a", "b", "c"], "scale": 2.0}
        >>> take_rows(batch, torch.tensor([0, 2]), 3)
        {'x': tensor([5, 7]), 'name': ['a', 'c'], 'scale': 2.0}
    """
    return _taken(batch, "batch", _Rows(chosen, samples))


def are_rows(batch: Any, samples: int) -> str:
    """Return why a batch is not one of so many samples, empty if it is."""
    try:
        found = _has_rows(batch, "batch", samples)
    except RowsError as reason:
        return str(reason)
    return "" if found else "it has no tensor"


def samples_of(batch: Any) -> int:
    """Return how many samples a batch has, 0 if that cannot be told.

    Example:
        >>> import torch
        >>> samples_of([torch.zeros(5, 2), torch.zeros(5)]), samples_of(torch.zeros(()))
        (5, 0)
    """
    sizes = {x.shape[0] for _, x in leaves(batch) if x.dim() > 0}
    inner = list(batch.values()) if isinstance(batch, Mapping) else batch
    inner = inner if isinstance(inner, (list, tuple)) else []
    sizes |= {len(part) for part in inner if isinstance(part, (list, tuple))}
    if isinstance(batch, (list, tuple)) and not _is_collated(batch):
        sizes.discard(len(batch))  # it might be a list of samples, and of anything else
    fitting = [size for size in sizes if not are_rows(batch, size)]
    return fitting[0] if len(fitting) == 1 else 0


@dataclasses.dataclass
class _Rows:
    chosen: Tensor
    samples: int
    _numbers: list[int] | None = None

    @property
    def numbers(self) -> list[int]:
        """The same on the host, which waits for the device: only where something needs it."""
        if self._numbers is None:
            self._numbers = self.chosen.tolist()
        return self._numbers


def _taken(node: Any, name: str, rows: _Rows) -> Any:
    if not _has_rows(node, name, rows.samples):
        return node
    if isinstance(node, Tensor):
        return node.index_select(0, rows.chosen.to(node.device))
    if _is_array(node):
        return node[rows.numbers]
    fields = _fields(node, name, rows.samples)
    if fields is None:
        items = [node[i] for i in rows.numbers]
        return items if isinstance(node, list) else tuple(items)
    members = {key: _taken(member, f"{name}.{key}", rows) for key, member in fields.items()}
    return _again(node, members)


def _again(node: Any, members: dict[Any, Any]) -> Any:
    """Return a container of the same kind with other members."""
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*members.values())
    if isinstance(node, (list, tuple)):
        return type(node)(members.values())
    new = copy.copy(node)
    for key, member in members.items():
        if isinstance(node, Mapping):
            new[key] = member
        else:
            object.__setattr__(new, key, member)  # dataclasses may be frozen
    return new


def _has_rows(node: Any, name: str, samples: int) -> bool:
    """Return whether something has as many rows as there are samples, and not none at all."""
    if isinstance(node, _CONSTANTS):
        return False
    if isinstance(node, Tensor) or _is_array(node):
        return _tensor_has_rows(node, name, samples)
    fields = _fields(node, name, samples)
    if fields is None:
        return True
    each = [_has_rows(member, f"{name}.{key}", samples) for key, member in fields.items()]
    return any(each)  # of a list, since each of them is to be asked


def _tensor_has_rows(x: Any, name: str, samples: int) -> bool:
    if len(x.shape) == 0:
        return False
    if getattr(x, "is_nested", False) or x.shape[0] != samples:
        raise RowsError(
            f"`{name}` of shape {tuple(x.shape)} does not have the {samples} samples first"
        )
    return True


def _fields(node: Any, name: str, samples: int) -> dict[Any, Any] | None:
    """Return the members of a container that are of all samples; None if each is of one."""
    if isinstance(node, Mapping):
        return dict(node)
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    if isinstance(node, PackedSequence) or not isinstance(node, (list, tuple)):
        raise RowsError(f"`{name}` is a {type(node).__name__}, whose samples cannot be told apart")
    if hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    members = dict(enumerate(node))
    if len(node) != samples or (name == "batch" and _is_collated(node)):
        return members
    problem = _problem(node, name, samples)
    if not problem and name != "batch":
        raise RowsError(
            f"`{name}` may be a list of {samples} samples, or of {samples} things that all samples "
            "have: put it into a mapping or a tensor"
        )
    return None if problem else members


def _is_collated(batch: Sequence[Any]) -> bool:
    return any(isinstance(member, Tensor) for member in batch)


def _problem(node: Sequence[Any], name: str, samples: int) -> str:
    """Return why the members of a list cannot be of all samples, empty if they can."""
    try:
        is_any = [_has_rows(member, f"{name}.{i}", samples) for i, member in enumerate(node)]
    except RowsError as reason:
        return str(reason)
    return "" if any(is_any) else "they are constants"


def _is_array(node: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(node, numpy.ndarray)
