"""Each remedy that is code, tried: the symptom is there, the remedy is applied, it is gone.

Nothing here is fitted to a rule's thresholds: a sick training is plainly sick, and the remedy is
the one change that the finding's text asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional, init

from lightning_diag.rules import DEFAULT_RULES, Rule
from rules import lr_treatments, more_treatments
from rules.remedies import (
    Remedy,
    Training,
    adam,
    chain,
    findings,
    names_in,
    one_hot,
    remedy_texts,
    sgd,
)
from rules.treatments import TREATMENTS


def large(weight: Tensor) -> None:
    """Draw weights ten times too large."""
    init.normal_(weight, std=1.0)


def outside(net: nn.Module) -> list[nn.Parameter]:
    """Return all parameters but those of the first layer."""
    return [p for name, p in net.named_parameters() if not name.startswith("0.")]


def buried() -> nn.Module:
    """Return a net whose first units begin far below zero."""
    net: Any = chain()()
    init.constant_(net[0].bias, -20.0)
    return net  # type: ignore[no-any-return]


def frozen_first() -> nn.Module:
    """Return a net whose first layer is frozen."""
    net: Any = chain()()
    net[0].requires_grad_(requires_grad=False)
    return net  # type: ignore[no-any-return]


class Cut(nn.Module):
    """A net in which no gradient gets past the first layer."""

    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32).requires_grad_(not frozen)
        self.rest = chain(layers=2)()
        self.rest[0] = nn.Linear(32, 32)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rest(torch.relu(self.first(x)).detach())
        return out


CLIPPED = {"gradient_clip_val": 1.0}
KILLED = Training(optimizer=adam(0.2))
FAR = Training(data=one_hot(30), loss=functional.mse_loss, optimizer=sgd(0.03))
THROWN = Training(data=one_hot(100), loss=functional.mse_loss, optimizer=sgd(0.03), steps=100)
STARVED = Training(net=chain(nn.Sigmoid, 6), steps=100)
FLAT = Training(net=chain(nn.Tanh, 4, init=large), steps=100)
STEEP = Training(net=chain(nn.ReLU, 8, init=large), optimizer=sgd(0.01, 0.0), steps=60)
SLOW = Training(optimizer=sgd(1e-6), steps=300)
FAST = Training(optimizer=adam(1.0))

REMEDIES: Sequence[Remedy] = (
    Remedy("dead-relu", "Lower the learning rate", KILLED, replace(KILLED, optimizer=adam(0.002))),
    Remedy("dead-relu", "torch.nn.LeakyReLU", KILLED, replace(KILLED, net=chain(nn.LeakyReLU))),
    Remedy("dead-relu", "torch.nn.GELU", KILLED, replace(KILLED, net=chain(nn.GELU))),
    Remedy(
        "dead-relu",
        "torch.nn.init.kaiming_normal_",
        Training(net=buried, steps=60),
        Training(net=chain(init=init.kaiming_normal_), steps=60),
    ),
    Remedy("dead-relu", "Trainer(gradient_clip_val=1.0)", FAR, replace(FAR, options=CLIPPED)),
    Remedy(
        "exploding-gradient",
        "Trainer(gradient_clip_val=1.0)",
        THROWN,
        replace(THROWN, options=CLIPPED),
    ),
    Remedy(
        "exploding-gradient",
        "torch.nn.init.kaiming_normal_",
        STEEP,
        replace(STEEP, net=chain(nn.ReLU, 8, init=init.kaiming_normal_)),
    ),
    Remedy(
        "exploding-gradient",
        "torch.nn.init.xavier_normal_",
        STEEP,
        replace(STEEP, net=chain(nn.ReLU, 8, init=init.xavier_normal_)),
    ),
    Remedy(
        "learning-rate-too-high",
        "Divide the learning rate",
        FAST,
        replace(FAST, optimizer=adam(0.002)),
    ),
    Remedy(
        "learning-rate-too-low",
        "Multiply the learning rate",
        SLOW,
        replace(SLOW, optimizer=sgd(0.05)),
    ),
    Remedy(
        "vanishing-gradient",
        "torch.nn.ReLU and torch.nn.init.kaiming_normal_",
        STARVED,
        replace(STARVED, net=chain(nn.ReLU, 6, init=init.kaiming_normal_)),
    ),
    Remedy(
        "vanishing-gradient",
        "torch.nn.GELU",
        STARVED,
        replace(STARVED, net=chain(nn.GELU, 6, init=init.kaiming_normal_)),
    ),
    Remedy(
        "vanishing-gradient",
        "torch.nn.BatchNorm1d",
        STARVED,
        replace(STARVED, net=chain(nn.Sigmoid, 6, norm=nn.BatchNorm1d)),
    ),
    Remedy(
        "saturated-activation",
        "torch.nn.init.xavier_normal_",
        FLAT,
        replace(FLAT, net=chain(nn.Tanh, 4, init=init.xavier_normal_)),
    ),
    Remedy(
        "saturated-activation",
        "torch.nn.BatchNorm1d",
        FLAT,
        replace(FLAT, net=chain(nn.Tanh, 4, init=large, norm=nn.BatchNorm1d)),
    ),
    Remedy(
        "parameter-not-in-optimizer",
        "configure_optimizers",
        Training(trained=outside, steps=40),
        Training(steps=40),
    ),
    Remedy(
        "parameter-not-in-optimizer",
        "requires_grad_(False)",
        Training(trained=outside, steps=40),
        Training(net=frozen_first, trained=outside, steps=40),
    ),
    Remedy(
        "missing-gradient",
        "requires_grad_(False)",
        Training(net=lambda: Cut(frozen=False), steps=60),
        Training(net=lambda: Cut(frozen=True), steps=60),
    ),
    Remedy(
        "non-finite", "Trainer(gradient_clip_val=1.0)", THROWN, replace(THROWN, options=CLIPPED)
    ),
)
QUICK_ONES = (*REMEDIES, *TREATMENTS, *more_treatments.QUICK, *lr_treatments.QUICK)
ALL = (*QUICK_ONES, *more_treatments.SLOW, *lr_treatments.SLOW_ONES)
SHORTEST = {
    code: min((r for r in QUICK_ONES if r.code == code), key=lambda r: r.sick.steps)
    for code in {r.code for r in QUICK_ONES}
}
"""One remedy of each rule, which the quick suite tries; the others are tried with the slow ones."""
EACH = pytest.mark.parametrize(
    "remedy",
    [pytest.param(r, marks=[pytest.mark.slow] * (r is not SHORTEST.get(r.code))) for r in ALL],
    ids=[f"{r.code}, {r.name}" for r in ALL],
)

POINTERS = {
    "update/ratio": "a number to look at",
    "forward": "a place to look at",
    "torch.utils.data.DataLoader": "a place to look at",
    "argmax": "a place to look at",
    "lightning_diag.WorstExamples(trends=True)": "a list to look at; see hard/test_cures.py",
    **dict.fromkeys(
        (
            "lightning_diag.class_balanced_weights",
            "lightning_diag.FocalLoss(weight=...)",
            "lightning_diag.OHEMLoss(ratio=1)",
        ),
        "tried in hard/test_cures.py",
    ),
    ".detach()": "a thing to look for",
    "torch.no_grad": "a thing to look for",
    "Trainer(overfit_batches=1)": "an experiment, which mends nothing",
    'Trainer(precision="bf16-mixed")': "half precision with a grad scaler needs a GPU",
    "pytorch_lightning.seed_everything": "tells apart processes, of which this is one",
}
"""Names in remedies that there is nothing to try of, and why."""


@lru_cache
def found_in(training: Training) -> frozenset[str]:
    """Train, once for all remedies of one sick training; return the codes of what was found."""
    return frozenset(findings(training))


@pytest.mark.filterwarnings("ignore:Found \\d+ module.* in eval mode at the start of training")
@EACH
def test_the_symptom_is_gone_with_the_remedy(remedy: Remedy) -> None:
    assert remedy.code in found_in(remedy.sick)
    assert remedy.code not in found_in(remedy.treated())


@pytest.mark.parametrize("remedy", ALL, ids=lambda r: f"{r.code}, {r.name}")
def test_what_is_tried_is_what_the_rule_says(remedy: Remedy) -> None:
    (rule,) = [rule for rule in DEFAULT_RULES if rule.code == remedy.code]
    texts = remedy_texts(rule)
    words = " ".join([*texts, *names_in(texts)])
    for name in remedy.name.split(" and "):
        assert name.lower() in words.lower()


@pytest.mark.parametrize("rule", DEFAULT_RULES, ids=lambda rule: rule.code)
def test_every_name_in_a_remedy_is_tried(rule: type[Rule]) -> None:
    tried = " ".join(remedy.name for remedy in ALL if remedy.code == rule.code)
    names = names_in(remedy_texts(rule)) - POINTERS.keys()
    assert not {name for name in names if name not in tried}
