"""All that a check could leave a trace on, in values that can be compared."""

from __future__ import annotations

import logging
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_diag.checks.data import leaves


def everything(module: Any, data: Any = None) -> dict[str, Any]:
    """Return all that must be the same after a check, with copies of what could change."""
    return {
        "weights": {k: v.clone() for k, v in module.state_dict().items()},
        "identity": [id(p) for p in module.parameters()],
        "versions": [p._version for p in module.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "trained": [p.requires_grad for p in module.parameters()],
        "modes": [m.training for m in module.modules()],
        "attributes": [_attributes(m) for m in module.modules()],
        "trainer": module._trainer,
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False)["state"]["key"],  # noqa: NPY002
        "numpy position": np.random.get_state(legacy=False)["state"]["pos"],  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "benchmark": torch.backends.cudnn.benchmark,
        "grad mode": torch.is_grad_enabled(),
        "files": sorted(Path().rglob("*")),
        "level": logging.getLogger("pytorch_lightning").level,
        "filters": list(warnings.filters),
        "loaders": [_loader(each) for each in leaves(data)] if data is not None else [],
    }


def _attributes(module: Any) -> dict[str, Any]:
    return {name: _value(value) for name, value in vars(module).items()}


def _value(value: Any) -> Any:
    """Return a tensor's values, a container's members by identity, anything else by identity."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: id(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [id(v) for v in value]
    return value if isinstance(value, (int, float, str, bool, set)) else id(value)


def _loader(loader: Any) -> dict[str, Any]:
    if not isinstance(loader, DataLoader):
        return {"loader": id(loader)}
    parts = [loader, loader.sampler, loader.batch_sampler, getattr(loader, "dataset", None)]
    held = [vars(part) for part in parts if hasattr(part, "__dict__")]
    states = [v.get_state() for values in held for v in values.values()
              if isinstance(v, torch.Generator)]  # fmt: skip
    return {"attributes": [{k: _value(v) for k, v in values.items()} for values in held],
            "states": states}  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Return whether two such values are equal, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what is not the same."""
    return [name for name in before if not same(before[name], after[name])]
