"""What is known of each parameter before training: its layer, and who will change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lightning_diag.probe.places import named_parameters


@dataclass(frozen=True)
class Held:
    """A parameter, and the optimizer groups that hold it, by identity and not by value."""

    name: str
    layer: str
    """Path of the module that owns it."""
    kind: nn.Module
    """That module; only to look at."""
    shape: tuple[int, ...]
    """Empty also for what waits for its first input to learn its shape."""
    trainable: bool
    groups: tuple[tuple[int, int], ...]
    """Optimizer and group, each by its index, once for each time that it is listed."""
    weight_decay: float
    """The largest of these groups."""

    @property
    def elements(self) -> int:
        """Number of its elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def held_parameters(module: nn.Module, optimizers: Sequence[Any]) -> dict[str, Held]:
    """Return what is known of each parameter, tied ones once, by name.

    Example:
        >>> from torch.optim import SGD
        >>> net = nn.Linear(1, 1)
        >>> held_parameters(net, [SGD([net.weight], lr=1.0)])["bias"].groups
        ()
    """
    groups: dict[int, list[tuple[int, int]]] = {}
    decay: dict[int, float] = {}
    for i, optimizer in enumerate(optimizers):
        for j, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                groups.setdefault(id(parameter), []).append((i, j))
                value = float(group.get("weight_decay") or 0.0)
                decay[id(parameter)] = max(value, decay.get(id(parameter), 0.0))
    owners = {
        id(parameter): each
        for each in reversed(list(module.modules()))
        for parameter in each.parameters(recurse=False)
    }
    return {
        name: Held(
            name=name,
            layer=layer,
            kind=owners[id(parameter)],
            shape=() if isinstance(parameter, UninitializedParameter) else tuple(parameter.shape),
            trainable=parameter.requires_grad,
            groups=tuple(groups.get(id(parameter), ())),
            weight_decay=decay.get(id(parameter), 0.0),
        )
        for name, layer, parameter in named_parameters(module)
    }
