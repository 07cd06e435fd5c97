"""Callbacks for PyTorch Lightning that say what is wrong with a training run.

Public names are imported when they are first used: ``import lightning_diag`` alone imports neither
torch nor Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_diag.doctor import Doctor
    from lightning_diag.finding import Evidence, Finding
    from lightning_diag.history import History
    from lightning_diag.monitors.activation import ActivationMonitor
    from lightning_diag.monitors.batch_norm import BatchNormMonitor
    from lightning_diag.monitors.data import DataMonitor
    from lightning_diag.monitors.dead_relu import DeadReLUTracker
    from lightning_diag.monitors.examples import WorstExamples
    from lightning_diag.monitors.filters import FilterMonitor
    from lightning_diag.monitors.gradient import GradientMonitor
    from lightning_diag.monitors.loss import LossMonitor
    from lightning_diag.monitors.noise import GradientNoiseMonitor
    from lightning_diag.monitors.output import OutputMonitor
    from lightning_diag.monitors.setup import SetupMonitor
    from lightning_diag.monitors.update_ratio import UpdateRatioLogger
    from lightning_diag.monitors.validation import ValidationMonitor
    from lightning_diag.monitors.weight import WeightMonitor
    from lightning_diag.record import Record
    from lightning_diag.rules.base import Rule
    from lightning_diag.warning import DiagWarning

__version__ = "0.1.0"

__all__ = [
    "ActivationMonitor",
    "BatchNormMonitor",
    "DataMonitor",
    "DeadReLUTracker",
    "DiagWarning",
    "Doctor",
    "Evidence",
    "FilterMonitor",
    "Finding",
    "GradientMonitor",
    "GradientNoiseMonitor",
    "History",
    "LossMonitor",
    "OutputMonitor",
    "Record",
    "Rule",
    "SetupMonitor",
    "UpdateRatioLogger",
    "ValidationMonitor",
    "WeightMonitor",
    "WorstExamples",
    "__version__",
]

_HOMES = {
    "ActivationMonitor": "monitors.activation",
    "BatchNormMonitor": "monitors.batch_norm",
    "DataMonitor": "monitors.data",
    "DeadReLUTracker": "monitors.dead_relu",
    "DiagWarning": "warning",
    "Doctor": "doctor",
    "Evidence": "finding",
    "FilterMonitor": "monitors.filters",
    "Finding": "finding",
    "GradientMonitor": "monitors.gradient",
    "GradientNoiseMonitor": "monitors.noise",
    "History": "history",
    "LossMonitor": "monitors.loss",
    "OutputMonitor": "monitors.output",
    "Record": "record",
    "Rule": "rules.base",
    "SetupMonitor": "monitors.setup",
    "UpdateRatioLogger": "monitors.update_ratio",
    "ValidationMonitor": "monitors.validation",
    "WeightMonitor": "monitors.weight",
    "WorstExamples": "monitors.examples",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not, for completion."""
    return sorted({*globals(), *__all__})
