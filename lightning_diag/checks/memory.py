"""How much memory a copy of a module takes, and how much there is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

_CGROUP = Path("/sys/fs/cgroup")
COPIES = 7
"""Copies of a module that must fit: one to put back, two to run, their gradients, and the two
moments that an optimizer keeps for one of them; a module of 100 million weights took six at most,
measured. Our choice: activations come on top, which training needs as well."""
_MEMBERS = 1000
"""Members of lists that are looked at (our choice)."""


def size_of(module: nn.Module) -> int:
    """Return the bytes of a module's parameters, gradients, buffers, other tensors and arrays.

    Example:
        >>> size_of(nn.Linear(10, 10, bias=False))
        400
    """
    values = [value for each in module.modules() for value in vars(each).values()]
    lists = [value for value in values if isinstance(value, (list, tuple))]
    values += [member for each in lists for member in each[:_MEMBERS]]
    others = [value for value in values if isinstance(value, Tensor)]
    held = [*module.parameters(), *module.buffers(), *others]
    gradients = [p.grad for p in module.parameters() if p.is_leaf and p.grad is not None]
    known = {id(tensor): tensor for tensor in _known([*held, *gradients])}
    tensors = sum(t.numel() * t.element_size() for t in known.values())
    return tensors + sum({id(value): _array_bytes(value) for value in values}.values())


def _array_bytes(value: Any) -> int:
    """Return the bytes of an array, 0 for anything else."""
    size = 0 if isinstance(value, Tensor) else getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0


def _known(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [
        tensor
        for tensor in tensors
        if not isinstance(tensor, (UninitializedParameter, UninitializedBuffer))
    ]


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that are free on a device, None where that is not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _free_on_host() if device.type == "cpu" else None


def _free_on_host() -> int | None:
    known = [free for free in (_free_of_system(), _free_of_container()) if free is not None]
    return min(known, default=None)


def _free_of_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        if "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", {}):
            return None
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None


def _free_of_container() -> int | None:
    """Return what a container may still take; of what it has, files count as free."""
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = (_CGROUP / "memory.stat").read_text(encoding="ascii").split()
    except (OSError, ValueError):  # another system, or "max": no limit
        return None
    files = int(stat[stat.index("inactive_file") + 1]) if "inactive_file" in stat else 0
    return limit - used + files


def shortage(module: nn.Module, allowed: int | None = None) -> str:
    """Say what a copy of a module would take if that is more than there is; else nothing.

    Args:
        module: What would be copied.
        allowed: Bytes that may be taken at most; None takes what is free.

    Example:
        >>> shortage(nn.Linear(1000, 1000, bias=False), allowed=10**6)
        'copies of the module take 28 MB, and 1 MB may be taken'
    """
    needed = COPIES * size_of(module)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    free = free_bytes(device) if allowed is None else allowed
    if free is None or needed <= free:
        return ""
    verb = "is free" if allowed is None else "may be taken"
    return f"copies of the module take {_shown(needed)}, and {_shown(free)} {verb}"


def _shown(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
