"""What `imbalance.py` compares: each method's loss or callback, and three values of one option."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from skewed import Data, Loss
from torch.nn import functional

from lightning_diag.hard.class_weights import class_balanced_weights, class_weights
from lightning_diag.hard.focal import focal_loss
from lightning_diag.hard.logit_adjustment import LogitAdjustedLoss
from lightning_diag.hard.ohem import ohem_loss
from lightning_diag.hard.sampling import OHEMSampling

PLAIN = "CE"
DECAY = 0.01
"""Weight decay of all methods but plain CE, which tries three: it is AdamW's default."""


def _plain(data: Data, own: float) -> Loss:
    return functional.cross_entropy


def _weighted(data: Data, own: float) -> Loss:
    return partial(functional.cross_entropy, weight=class_weights(data.counts, power=own))


def _balanced(data: Data, own: float) -> Loss:
    weight = class_balanced_weights(data.counts, beta=own)
    return partial(functional.cross_entropy, weight=weight)


def _focal(data: Data, own: float) -> Loss:
    return partial(focal_loss, gamma=own)


def _weighted_focal(data: Data, own: float) -> Loss:
    return partial(focal_loss, gamma=own, weight=class_weights(data.counts))


def _adjusted(data: Data, own: float) -> Loss:
    return LogitAdjustedLoss(data.counts, tau=own)


def _ohem(data: Data, own: float) -> Loss:
    return partial(ohem_loss, keep=own)


def _ohem_ratio(data: Data, own: float) -> Loss:
    return partial(ohem_loss, ratio=own)


def _sampling(own: float) -> Sequence[Any]:
    return [OHEMSampling(temperature=own)]


def _none(own: float) -> Sequence[Any]:
    return ()


def _default_decay(own: float) -> float:
    return DECAY


class Method(NamedTuple):
    """One way to train."""

    option: str
    """Name of what is tried besides the learning rate."""
    values: tuple[float, float, float]
    loss: Callable[[Data, float], Loss] = _plain
    callbacks: Callable[[float], Sequence[Any]] = _none
    decay: Callable[[float], float] = _default_decay


METHODS: dict[str, Method] = {
    PLAIN: Method("decay", (0.01, 0.1, 1.0), decay=lambda own: own),
    "weighted CE": Method("power", (0.5, 0.75, 1.0), _weighted),
    "class-balanced CE": Method("beta", (0.9, 0.99, 0.999), _balanced),
    "logit adjustment": Method("tau", (0.5, 1.0, 1.5), _adjusted),
    "focal": Method("gamma", (0.5, 1.0, 2.0), _focal),
    "weighted focal": Method("gamma", (0.5, 1.0, 2.0), _weighted_focal),
    "OHEM": Method("keep", (0.25, 0.5, 0.75), _ohem),
    "OHEM with ratio": Method("ratio", (1.0, 3.0, 10.0), _ohem_ratio),
    "hard-example sampler": Method("temperature", (0.25, 0.5, 1.0), callbacks=_sampling),
}
