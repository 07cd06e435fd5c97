"""Batches and outputs as named leaves, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return what a nest of mappings, lists and tuples holds, by path.

    Example:
        >>> leaves({"image": 1, "box": (2, 3)})
        {'image': 1, 'box.0': 2, 'box.1': 3}
    """
    if isinstance(value, Mapping):
        inside = value.items()
    elif isinstance(value, (list, tuple)):
        inside = enumerate(value)  # type: ignore[assignment]
    else:
        return {path: value}
    return {
        name: leaf
        for key, part in inside
        for name, leaf in leaves(part, f"{path}.{key}" if path else str(key)).items()
    }


def rebuilt(value: Any, leaf: Callable[[str, Any], Any], path: str = "") -> Any:
    """Return the same nest with each leaf replaced by what `leaf` returns for its path."""

    def inner(key: Any, part: Any) -> Any:
        return rebuilt(part, leaf, f"{path}.{key}" if path else str(key))

    if isinstance(value, Mapping):
        parts = {key: inner(key, part) for key, part in value.items()}
        return parts if type(value) is dict else type(value)(**parts)
    if isinstance(value, (list, tuple)):
        items = [inner(i, part) for i, part in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return leaf(path, value)


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without its module."""
    return str(dtype).removeprefix("torch.")


def to_array(tensor: Tensor) -> npt.NDArray[Any]:
    """Return a tensor's values for a file; bfloat16 as the integers of the same bits."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    array: npt.NDArray[Any] = tensor.numpy()
    return array


def to_tensor(array: npt.NDArray[Any], stored: str, dtype: torch.dtype) -> Tensor:
    """Return what `to_array` was given, in the dtype that the model had it in."""
    if stored == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(dtype)
    return torch.from_numpy(array).to(dtype)
