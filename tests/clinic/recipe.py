"""`Recipe`: everything that makes a training, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

RATES = {"sgd": 0.1, "momentum": 0.03, "adam": 2e-3, "adamw": 2e-3, "rmsprop": 1e-3, "nadam": 2e-3,
         "adagrad": 1e-2}  # fmt: skip
"""Usual learning rates of the optimizers, for networks of this size."""


@dataclass(frozen=True)
class Recipe:
    """A training that anybody can repeat: same recipe, same numbers."""

    seed: int
    """Of weights, data and order."""
    data: str = "digits"
    net: str = "mlp"
    act: str = "relu"
    width: int = 64
    depth: int = 2
    """Hidden layers, or blocks."""
    norm: str = ""
    """Empty, `bn` or `ln`."""
    dropout: float = 0.0
    init: str = "default"
    """`default` (PyTorch's own), `he`, `xavier` or `normal`."""
    init_std: float = 0.01
    """Standard deviation of `normal`."""
    loss: str = ""
    """Empty for what fits the data."""
    smoothing: float = 0.0
    optimizer: str = "adam"
    rate: float = 1.0
    """Learning rate, in multiples of the optimizer's usual one."""
    weight_decay: float = 0.0
    schedule: str = ""
    """Empty, `warmup`, `cosine`, `warmup-cosine`, `one-cycle` or `step`."""
    clip: float = 0.0
    accumulate: int = 1
    precision: str = "32-true"
    """Lightning's names, or `16-search`: a gradient scaler that starts far too high."""
    batch_size: int = 32
    steps: int = 300
    """Optimizer steps."""
    samples: int = 0
    """Size of the training set, 0 for all there are."""
    every: int = 10
    """Steps between two looks of the Doctor."""
    resumes: bool = False
    """Whether the Doctor comes half-way, when training goes on from a checkpoint."""
    validates: bool = True
    logs_metric: bool = False
    """Whether training logs its accuracy."""
    faults: tuple[tuple[str, float], ...] = ()
    """What is wrong with it, each with its amount."""

    @property
    def lr(self) -> float:
        """The learning rate."""
        return RATES[self.optimizer] * self.rate

    def fault(self, name: str) -> float | None:
        """Return the amount of a fault, None without it."""
        return dict(self.faults).get(name)

    def but(self, **changes: Any) -> Recipe:
        """Return the same recipe with changes."""
        return replace(self, **changes)

    def with_faults(self, **amounts: float) -> Recipe:
        """Return the same recipe with faults added."""
        return replace(self, faults=(*self.faults, *amounts.items()))

    def __str__(self) -> str:
        told = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name not in ("seed", "faults"):
                told.append(
                    f"{field.name}={value:.3g}"
                    if isinstance(value, float)
                    else f"{field.name}={value}"
                )
        told += [f"{name}={amount:.3g}" for name, amount in self.faults]
        return " ".join(told)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from what `to_dict` returned, or from its JSON."""
        faults = tuple((name, float(amount)) for name, amount in values["faults"])
        return cls(**{**values, "faults": faults})
