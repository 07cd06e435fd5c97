"""Norms and scaling of gradients, without waiting for their device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_Groups = dict[tuple[torch.device, torch.dtype], list[Tensor]]


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm over all gradients, in float32 at least, on the first one's device.

    Args:
        gradients: At least one, of any types and devices; of a sparse one the sum counts.

    Shape:
        n tensors ``(*)`` -> ``()``.

    Example:
        >>> total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        tensor(5.)
    """
    device = gradients[0].device
    norms: list[Tensor] = []
    for (_, dtype), group in _grouped(_values(gradients)).items():
        if dtype in (torch.float32, torch.float64):
            norms.extend(torch._foreach_norm(group))
        else:  # the sum of squares of halves leaves their range
            norms.extend(torch.linalg.vector_norm(_wide(x)) for x in group)
    wide = max((norm.dtype for norm in norms), key=lambda dtype: torch.finfo(dtype).bits)
    total: Tensor = torch.linalg.vector_norm(torch.stack([x.to(device, wide) for x in norms]))
    return total


def scale_(gradients: Sequence[Tensor], coefficient: Tensor) -> None:
    """Multiply gradients in place; by 1 leaves every bit as it is.

    Args:
        gradients: Of any types and devices.
        coefficient: 0 or more, ``()``.
    """
    if coefficient.device.type == "cpu" and coefficient.item() == 1.0:
        return
    dense = [g for g in gradients if g.layout is torch.strided]
    for (device, _), group in _grouped(dense).items():
        torch._foreach_mul_(group, coefficient.to(device))
    for gradient in gradients:
        if gradient.layout is not torch.strided:
            gradient.mul_(coefficient.to(gradient.device))


def _values(gradients: Iterable[Tensor]) -> list[Tensor]:
    found = [g.detach() for g in gradients]
    return [g if g.layout is torch.strided else g.coalesce().values() for g in found]


def _wide(x: Tensor) -> Tensor:
    return x if x.is_complex() else x.float()


def _grouped(tensors: Iterable[Tensor]) -> _Groups:
    groups: _Groups = {}
    for x in tensors:
        groups.setdefault((x.device, x.dtype), []).append(x)
    return groups
