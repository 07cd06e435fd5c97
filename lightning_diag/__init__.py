"""Callbacks for PyTorch Lightning that say what is wrong with a training run.

Public names are imported when they are first used: ``import lightning_diag`` alone imports neither
torch nor Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_diag.batch_size import BatchSizeAdvice, suggest_batch_size
    from lightning_diag.before_training import Preflight, preflight
    from lightning_diag.clipping.advice import ClipAdvice, clip_advice
    from lightning_diag.clipping.advisor import GradientClipAdvisor
    from lightning_diag.clipping.agc import AdaptiveGradientClipping
    from lightning_diag.clipping.autoclip import AutoClip
    from lightning_diag.doctor import Doctor
    from lightning_diag.finding import Evidence, Finding
    from lightning_diag.hard.class_weights import (
        class_balanced_weights,
        class_counts,
        class_weights,
    )
    from lightning_diag.hard.focal import FocalLoss, focal_loss
    from lightning_diag.hard.logit_adjustment import (
        LogitAdjustedLoss,
        adjust_logits,
        logit_adjusted_loss,
    )
    from lightning_diag.hard.mining_schedule import HardMining
    from lightning_diag.hard.ohem import ohem_loss
    from lightning_diag.hard.ohem_module import OHEMLoss
    from lightning_diag.hard.sampler import OHEMSampler
    from lightning_diag.hard.sampling import OHEMSampling
    from lightning_diag.hard.selective import SelectiveBackprop
    from lightning_diag.history import History
    from lightning_diag.initialisation.apply import init_
    from lightning_diag.initialisation.suggest import suggest_init
    from lightning_diag.initialisation.table import InitTable
    from lightning_diag.lr.preview import plot_schedule
    from lightning_diag.lr.range_test import lr_range_test
    from lightning_diag.lr.scaling import LinearScalingLR
    from lightning_diag.lr.schedules import (
        ExponentialDecayLR,
        InverseSquareRootLR,
        PiecewiseConstantLR,
        PowerLR,
        WarmRestartsLR,
        WarmupStableDecayLR,
    )
    from lightning_diag.lr.warmup import WarmupLR
    from lightning_diag.monitors.activation import ActivationMonitor
    from lightning_diag.monitors.batch_norm import BatchNormMonitor
    from lightning_diag.monitors.data import DataMonitor
    from lightning_diag.monitors.dead_relu import DeadReLUTracker
    from lightning_diag.monitors.examples import WorstExamples
    from lightning_diag.monitors.filters import FilterMonitor
    from lightning_diag.monitors.gradient import GradientMonitor
    from lightning_diag.monitors.loss import LossMonitor
    from lightning_diag.monitors.noise import GradientNoiseMonitor
    from lightning_diag.monitors.noise_scale import GradientNoiseScale
    from lightning_diag.monitors.output import OutputMonitor
    from lightning_diag.monitors.setup import SetupMonitor
    from lightning_diag.monitors.update_ratio import UpdateRatioLogger
    from lightning_diag.monitors.validation import ValidationMonitor
    from lightning_diag.monitors.weight import WeightMonitor
    from lightning_diag.record import Record
    from lightning_diag.rules.base import Rule
    from lightning_diag.stopping.early_stopping import EarlyStoppingWindow
    from lightning_diag.stopping.pruning import OptunaPruning
    from lightning_diag.transfer.cache import FeatureCache
    from lightning_diag.transfer.compare import compare_transfer
    from lightning_diag.transfer.comparison import TransferComparison
    from lightning_diag.transfer.features import CachedFeatures, cache_features
    from lightning_diag.transfer.freezing import LayerFreezing
    from lightning_diag.transfer.linear_probe import LinearProbe, linear_probe
    from lightning_diag.transfer.load_report import LoadReport
    from lightning_diag.transfer.loading import load_pretrained
    from lightning_diag.warning import DiagWarning

__version__ = "0.1.0"

__all__ = [
    "ActivationMonitor",
    "AdaptiveGradientClipping",
    "AutoClip",
    "BatchNormMonitor",
    "BatchSizeAdvice",
    "CachedFeatures",
    "ClipAdvice",
    "DataMonitor",
    "DeadReLUTracker",
    "DiagWarning",
    "Doctor",
    "EarlyStoppingWindow",
    "Evidence",
    "ExponentialDecayLR",
    "FeatureCache",
    "FilterMonitor",
    "Finding",
    "FocalLoss",
    "GradientClipAdvisor",
    "GradientMonitor",
    "GradientNoiseMonitor",
    "GradientNoiseScale",
    "HardMining",
    "History",
    "InitTable",
    "InverseSquareRootLR",
    "LayerFreezing",
    "LinearProbe",
    "LinearScalingLR",
    "LoadReport",
    "LogitAdjustedLoss",
    "LossMonitor",
    "OHEMLoss",
    "OHEMSampler",
    "OHEMSampling",
    "OptunaPruning",
    "OutputMonitor",
    "PiecewiseConstantLR",
    "PowerLR",
    "Preflight",
    "Record",
    "Rule",
    "SelectiveBackprop",
    "SetupMonitor",
    "TransferComparison",
    "UpdateRatioLogger",
    "ValidationMonitor",
    "WarmRestartsLR",
    "WarmupLR",
    "WarmupStableDecayLR",
    "WeightMonitor",
    "WorstExamples",
    "__version__",
    "adjust_logits",
    "cache_features",
    "class_balanced_weights",
    "class_counts",
    "class_weights",
    "clip_advice",
    "compare_transfer",
    "focal_loss",
    "init_",
    "linear_probe",
    "load_pretrained",
    "logit_adjusted_loss",
    "lr_range_test",
    "ohem_loss",
    "plot_schedule",
    "preflight",
    "suggest_batch_size",
    "suggest_init",
]

_HOMES = {
    "ActivationMonitor": "monitors.activation",
    "AdaptiveGradientClipping": "clipping.agc",
    "AutoClip": "clipping.autoclip",
    "BatchNormMonitor": "monitors.batch_norm",
    "BatchSizeAdvice": "batch_size",
    "CachedFeatures": "transfer.features",
    "ClipAdvice": "clipping.advice",
    "DataMonitor": "monitors.data",
    "DeadReLUTracker": "monitors.dead_relu",
    "DiagWarning": "warning",
    "Doctor": "doctor",
    "EarlyStoppingWindow": "stopping.early_stopping",
    "Evidence": "finding",
    "ExponentialDecayLR": "lr.schedules",
    "FeatureCache": "transfer.cache",
    "FilterMonitor": "monitors.filters",
    "Finding": "finding",
    "GradientClipAdvisor": "clipping.advisor",
    "GradientMonitor": "monitors.gradient",
    "GradientNoiseMonitor": "monitors.noise",
    "GradientNoiseScale": "monitors.noise_scale",
    "HardMining": "hard.mining_schedule",
    "History": "history",
    "InverseSquareRootLR": "lr.schedules",
    "InitTable": "initialisation.table",
    "LayerFreezing": "transfer.freezing",
    "LinearProbe": "transfer.linear_probe",
    "LinearScalingLR": "lr.scaling",
    "LoadReport": "transfer.load_report",
    "LossMonitor": "monitors.loss",
    "OHEMLoss": "hard.ohem_module",
    "OHEMSampler": "hard.sampler",
    "OHEMSampling": "hard.sampling",
    "OptunaPruning": "stopping.pruning",
    "OutputMonitor": "monitors.output",
    "PiecewiseConstantLR": "lr.schedules",
    "PowerLR": "lr.schedules",
    "Preflight": "before_training",
    "Record": "record",
    "Rule": "rules.base",
    "SelectiveBackprop": "hard.selective",
    "SetupMonitor": "monitors.setup",
    "TransferComparison": "transfer.comparison",
    "UpdateRatioLogger": "monitors.update_ratio",
    "ValidationMonitor": "monitors.validation",
    "WarmRestartsLR": "lr.schedules",
    "WarmupLR": "lr.warmup",
    "WarmupStableDecayLR": "lr.schedules",
    "WeightMonitor": "monitors.weight",
    "WorstExamples": "monitors.examples",
    "adjust_logits": "hard.logit_adjustment",
    "class_balanced_weights": "hard.class_weights",
    "class_counts": "hard.class_weights",
    "class_weights": "hard.class_weights",
    "focal_loss": "hard.focal",
    "FocalLoss": "hard.focal",
    "logit_adjusted_loss": "hard.logit_adjustment",
    "LogitAdjustedLoss": "hard.logit_adjustment",
    "cache_features": "transfer.features",
    "clip_advice": "clipping.advice",
    "compare_transfer": "transfer.compare",
    "init_": "initialisation.apply",
    "linear_probe": "transfer.linear_probe",
    "suggest_batch_size": "batch_size",
    "suggest_init": "initialisation.suggest",
    "load_pretrained": "transfer.loading",
    "lr_range_test": "lr.range_test",
    "ohem_loss": "hard.ohem",
    "plot_schedule": "lr.preview",
    "preflight": "before_training",
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
