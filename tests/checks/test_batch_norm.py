"""Batch norms over a few samples, or with statistics of something else (W14)."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from checks.sick_outputs import normed, odd_one_out
from checks.subjects import Pair, Plain, cnn, labels, loader, made, mlp, numbers, pictures
from lightning_diag.before_training import subject
from lightning_diag.checks.base import Check
from lightning_diag.checks.batch_norm_gap import BatchNormGap
from lightning_diag.checks.last_batch_of_one import LastBatchOfOne
from lightning_diag.checks.norms import (
    is_fresh,
    norm_call,
    scatter_of_means,
    statistics_off,
)
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.rules import batch_norm_gap as rule


def judged(pair: Pair, check: Check | None = None) -> list[Finding]:
    """Return what a check says of a module and its data."""
    found = (check or BatchNormGap())(subject(*pair))
    assert not isinstance(found, NotObserved)
    return found


def rows(batch_size: int, samples: int = 64) -> DataLoader[Any]:
    """Return tables."""
    return loader(numbers(samples, 8), labels(3, samples), batch_size=batch_size)


# --- tiny batches ---


@pytest.mark.parametrize(
    ("size", "severity"), [(2, "suspect"), (3, "note"), (4, "note"), (5, None)]
)
def test_batches_of_single_numbers_are_tiny_up_to_four(size: int, severity: str | None) -> None:
    found = judged(made(lambda: (Plain(normed()), rows(size))))
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    if found:
        assert found[0].places == ("net.1",)
        assert found[0].evidence.value == pytest.approx(1 / math.sqrt(size), rel=1e-3)


def _pictures(size: int) -> Pair:
    return Plain(cnn()), loader(numbers(64, 3, 8, 8), labels(), batch_size=size)


def test_pictures_that_differ_in_detail_alone_need_no_more_than_two() -> None:
    """Sixty-four pixels of noise have the same mean in all pictures."""
    assert judged(made(lambda: _pictures(2))) == []


def test_pictures_that_differ_as_a_whole_do() -> None:
    x = numbers(64, 1, 1, 1).expand(64, 3, 8, 8) + 0.1 * numbers(64, 3, 8, 8)
    pair = made(lambda: (Plain(cnn()), loader(x, labels(), batch_size=2)))
    (finding,) = judged(pair)
    assert finding.severity == "suspect"
    assert "net.1" in finding.places


def test_one_picture_a_batch_is_compared_with_the_next() -> None:
    x = numbers(64, 1, 1, 1).expand(64, 3, 8, 8) + 0.1 * numbers(64, 3, 8, 8)
    (finding,) = judged(made(lambda: (Plain(cnn()), loader(x, labels(), batch_size=1))))
    assert "from 1 sample a batch" in finding.message


def _on_devices(module: Any, data: Any, **settings: Any) -> list[Finding]:
    """Return what is said where a trainer has such settings; it has no more to do with it."""
    known = Subject(module, data)
    known.trainer = None
    found = BatchNormGap()
    given = SimpleNamespace(**settings)
    return found._told(_Given(known, given), {"net.1": (0.7, 2)}, int(settings["world_size"]))  # type: ignore[arg-type]


class _Given:
    """A subject with a trainer's settings."""

    def __init__(self, known: Subject, trainer: Any) -> None:
        self.trainer = trainer
        self.known = known


def test_several_devices_can_join_their_statistics_and_accumulation_cannot() -> None:
    (finding,) = _on_devices(Plain(normed()), rows(2), world_size=4, accumulate_grad_batches=8)
    assert "on each of 4 devices" in finding.message
    assert "Accumulating 8 batches does not change that." in finding.message
    assert "Trainer(sync_batchnorm=True)" in finding.remedy
    (alone,) = _on_devices(Plain(normed()), rows(2), world_size=1, accumulate_grad_batches=1)
    assert "sync_batchnorm" not in alone.remedy
    assert "Accumulating" not in alone.message


def test_norms_that_evaluate_take_no_statistics() -> None:
    module = Plain(normed())
    module.net[1].eval()
    assert judged((module, rows(2))) == []


# --- statistics of something else ---


def trained_on(scale: float, net: nn.Module) -> Plain:
    """Return a network whose statistics are those of inputs of another scale."""
    torch.manual_seed(0)
    module = Plain(net)
    for seed in range(60):
        module.net(scale * numbers(16, *_shape(net), seed=seed))
    return module


def _shape(net: Any) -> tuple[int, ...]:
    return (8,) if isinstance(net[0], nn.Linear) else (3, 8, 8)


def test_statistics_of_the_same_data_are_no_finding() -> None:
    assert judged((trained_on(1.0, normed()), rows(16))) == []
    assert judged((trained_on(1.0, cnn()), pictures())) == []


def test_another_domain_is_no_finding() -> None:
    assert judged((trained_on(2.0, normed()), rows(16))) == []


@pytest.mark.parametrize("scale", [1 / 255, 255.0])
def test_inputs_of_another_unit_are_found(scale: float) -> None:
    """Bytes in place of fractions, and fractions in place of bytes."""
    (finding,) = judged((trained_on(scale, cnn()), pictures()))
    assert finding.severity == "suspect"
    assert finding.places[0] == "net.1"


def test_four_times_the_scale_is_a_note() -> None:
    (finding,) = judged((trained_on(0.25, normed()), rows(16)))
    assert finding.severity == "note"
    assert 10 < finding.evidence.value < 20


# --- the last batch ---


def test_the_last_batch_is_what_is_left() -> None:
    check = LastBatchOfOne()
    (finding,) = judged(odd_one_out(), check)
    assert finding.severity == "bad"
    assert "65 in batches of 16" in finding.message
    assert judged((Plain(normed()), rows(16, 66)), check) == []
    assert judged((Plain(normed()), rows(16, 64)), check) == []


def test_it_ends_as_pytorch_says() -> None:
    module, data = odd_one_out()
    *_, (x, _) = data
    assert len(x) == 1
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        module(x)


@pytest.mark.parametrize(
    "pair",
    [
        lambda: (Plain(normed()), loader(numbers(65, 8), labels(3, 65), drop_last=True)),
        lambda: (Plain(cnn()), loader(numbers(65, 3, 8, 8), labels(3, 65))),
        lambda: (Plain(mlp()), loader(numbers(65, 8), labels(3, 65))),
    ],
    ids=["left out", "of pixels", "without norms"],
)
def test_a_last_sample_that_does_no_harm_is_not_spoken_of(pair: Any) -> None:
    assert judged(pair(), LastBatchOfOne()) == []


def test_batches_of_unknown_length_are_not_observed() -> None:
    data: Any = [(numbers(4, 8), labels(3, 4))]
    found = LastBatchOfOne()(subject(Plain(normed()), DataLoader(data, batch_size=None)))
    assert isinstance(found, NotObserved)


# --- numbers ---


def test_means_scatter_as_they_do_when_drawn_again_and_again() -> None:
    """Against the standard deviation of the means of ten thousand batches."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(40_000, 1, 1, generator=generator)
    x = shared + 2 * torch.randn(40_000, 1, 5, generator=generator)
    means, variances = x.mean(2), x.var(2, correction=0)
    drawn = x.view(10_000, -1).mean(1).std() / x.std()
    assert scatter_of_means(means, variances, 4) == pytest.approx(float(drawn), rel=0.02)


def test_without_differences_nothing_is_known() -> None:
    assert math.isnan(scatter_of_means(torch.zeros(4, 2), torch.zeros(4, 2), 4))
    assert math.isnan(scatter_of_means(torch.zeros(1, 2), torch.ones(1, 2), 1))


def test_distance_from_running_statistics_is_the_mean_square_in_variances() -> None:
    norm = nn.BatchNorm1d(2, eps=0.0)
    x = torch.tensor([[1.0, -2.0], [3.0, 2.0]])
    call = norm_call("", norm, x)
    by_hand = math.sqrt((1 + 9) / 2 * (4 + 4) / 2)
    assert statistics_off(call) == pytest.approx(by_hand)
    assert statistics_off(norm_call("", norm, x / 100)) == pytest.approx(1e4 / by_hand)
    assert statistics_off(norm_call("", nn.BatchNorm1d(2, track_running_stats=False), x)) is None


def test_a_norm_is_fresh_until_it_has_seen_a_batch() -> None:
    norm = nn.BatchNorm1d(2)
    assert is_fresh(norm)
    norm(Tensor([[1.0, 2.0], [3.0, 5.0]]))
    assert not is_fresh(norm)
    assert is_fresh(nn.BatchNorm1d(2, track_running_stats=False))


def test_samples_that_are_too_few_are_those_of_the_rule_with_the_same_code() -> None:
    check, judge = BatchNormGap(), rule.BatchNormGap()
    assert (check.code, check.samples) == (judge.code, judge.samples)
