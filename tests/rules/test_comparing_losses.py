"""Healthy trainings by losses without a target for each prediction: no rule takes them for others.

Embeddings on the unit sphere are no probabilities, and a sign that says which of two ranks higher
is no class.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_diag import Doctor, History
from rules.comparing import LOSSES
from rules.remedies import QUIET, Module, Training, adam, chain


def run(training: Training) -> Doctor:
    """Train, watching every step."""
    torch.manual_seed(training.seed)
    doctor = Doctor(every_n_steps=1, max_overhead=1e9, startup_seconds=1e9)
    options = {**QUIET, "max_steps": training.steps, "max_epochs": -1}
    pl.Trainer(callbacks=[doctor], **options).fit(Module(training), training.loader(held=False))
    return doctor


@lru_cache
def trained(name: str) -> Doctor:
    """Train by a loss."""
    loss, training = LOSSES[name]
    return run(replace(training, loss=loss))


def watched(name: str) -> History:
    return trained(name).history


EACH = pytest.mark.parametrize("name", LOSSES)


@EACH
def test_no_rule_speaks_on_a_healthy_training(name: str) -> None:
    losses = watched(name).series("loss/train").values
    assert sum(losses[-16:]) < 0.9 * sum(losses[:16])
    assert [f.code for f in trained(name).findings if f.severity != "note"] == []


@EACH
def test_the_loss_and_what_it_is_given_are_observed(name: str) -> None:
    history = watched(name)
    place = f"{name}#0"
    assert history.places("output/loss") == [place]
    series, dense = history.series("output/loss", place), history.series("loss/train").values
    for step, value in zip(series.steps, series.values, strict=True):
        assert value == pytest.approx(dense[step], rel=1e-5)
    assert history.last("output/std")[place] > 0
    assert 0 < history.last("output/sample_spread")[place] <= 1


@EACH
def test_what_has_no_target_of_its_own_has_no_numbers_of_it(name: str) -> None:
    """P20: absent, not 0."""
    history = watched(name)
    about = history.meta["losses"][f"{name}#0"]
    assert about["classes"] == 0
    assert not [metric for metric in history.metrics() if metric.startswith("class/")]
    has_target = name in ("huber_loss", "hinge_embedding_loss")
    assert bool(about["target_shape"]) == bool(about["target_dtype"]) == has_target
    assert bool(history.places("target/std")) == has_target


@pytest.mark.parametrize("name", [name for name in LOSSES if name.startswith(("trip", "cos"))])
def test_embeddings_are_not_measured_as_probabilities(name: str) -> None:
    assert watched(name).places("output/probability_fraction") == []


@pytest.mark.parametrize("name", ["triplet_margin_loss", "cosine_embedding_loss"])
def test_a_deep_network_whose_outputs_start_alike_and_go_apart_has_not_collapsed(name: str) -> None:
    loss, training = LOSSES[name]
    net = chain(nn.ReLU, 8, 64)
    doctor = run(replace(training, loss=loss, net=net, optimizer=adam(1e-3), steps=90))
    spread = doctor.history.series("output/sample_spread", f"{name}#0").values
    assert max(spread[:4]) < 0.01
    assert spread[-1] > 0.1
    assert "embedding-collapse" not in {finding.code for finding in doctor.findings}


def test_sequences_are_known_by_their_characters() -> None:
    history = watched("ctc_loss")
    assert history.meta["losses"]["ctc_loss#0"]["input_shape"] == [48, 4, 11]
    assert history.last("output/log_probability_fraction") == {"ctc_loss#0": 1.0}
