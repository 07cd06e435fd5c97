"""Weights, copies, embeddings, modes and replicas, against slow references."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from lightning_diag.measure.embedding import asked_for, headings, likeness, turned
from lightning_diag.measure.modes import (
    Trained,
    depends_on_mode,
    dropout_of,
    frozen_norms,
    mode_watches,
)
from lightning_diag.measure.replica import ReplicaMeasure
from lightning_diag.measure.weight import (
    DuplicateMeasure,
    GradientDuplicateMeasure,
    WeightMeasure,
    copies,
)

close = pytest.approx


def weight_numbers(x: Tensor) -> dict[str, float]:
    columns = WeightMeasure().observe([x])
    found = WeightMeasure().summarise(["w"], columns.sums, columns.maxima)
    return {output: values["w"] for output, values in found.items() if values}


def share(measure: DuplicateMeasure, x: Tensor) -> float | None:
    columns = measure.observe([x])
    found = measure.summarise(["w"], columns.sums, columns.maxima)
    return found["duplicate_fraction"].get("w")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.02), (100.0, 10.0), (-3.0, 1e-3)])
def test_mean_deviation_and_largest_equal_the_reference(
    dtype: torch.dtype, mean: float, std: float
) -> None:
    """C6."""
    x = (mean + std * torch.randn(60, 11, 3)).to(dtype)
    found, wide = weight_numbers(x), x.double()
    assert found["mean"] == close(float(wide.mean()), rel=1e-6, abs=1e-6 * std)
    assert found["std"] == close(float(wide.std(correction=0)), rel=1e-4)
    assert found["max"] == close(float(wide.abs().max()))


@pytest.mark.parametrize("value", [0.0, 0.01, -7.3])
def test_constant_weights_have_no_deviation_at_all(value: float) -> None:
    assert weight_numbers(torch.full((300, 50), value))["std"] == 0.0


def test_empty_weights_have_no_numbers() -> None:
    assert weight_numbers(torch.zeros(0, 4)) == {}


def slow_copies(x: Tensor) -> list[bool]:
    rows = x.flatten(1).double()
    near = [[bool(torch.allclose(a, b, rtol=1e-6, atol=0)) for b in rows] for a in rows]
    return [sum(row) > 1 for row in near]


@pytest.mark.parametrize("shape", [(9, 4), (12, 3, 2, 2), (7, 1), (2, 30)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_copies_are_those_that_a_comparison_of_all_pairs_finds(
    shape: tuple[int, ...], scale: float
) -> None:
    """C5."""
    torch.manual_seed(3)
    x = scale * torch.randn(shape)
    x[-1] = x[0] * (1 + 1e-7)
    found, size = copies(x)
    assert found.tolist() == slow_copies(x)
    assert found.sum() == 2
    assert size.tolist() == close(x.flatten(1).double().norm(dim=1).tolist(), rel=1e-5)


def test_random_units_are_never_copies() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        for shape in ((4096, 64), (512, 9), (128, 2)):
            assert share(DuplicateMeasure(), torch.randn(shape)) == 0.0


@pytest.mark.parametrize("x", [torch.zeros(5, 3), torch.full((5, 3), 0.3)])
def test_equal_weights_are_all_copies(x: Tensor) -> None:
    assert share(DuplicateMeasure(), x) == 1.0


def test_one_unit_has_no_share() -> None:
    assert share(DuplicateMeasure(), torch.zeros(1, 8)) is None


def test_gradients_without_any_count_only_where_all_are() -> None:
    """Silent units get none, and are no copies for that."""
    x = torch.randn(6, 4)
    x[:3] = 0.0
    assert share(GradientDuplicateMeasure(), x) == 0.0
    assert share(GradientDuplicateMeasure(), torch.zeros(6, 4)) == 1.0
    x[4] = x[5]
    assert share(GradientDuplicateMeasure(), x) == close(2 / 3)


def test_gradients_that_are_not_finite_are_no_copies() -> None:
    assert share(GradientDuplicateMeasure(), torch.full((4, 3), math.nan)) == 0.0
    assert share(GradientDuplicateMeasure(), torch.full((4, 3), math.inf)) == 0.0


def test_decay_turns_no_row_and_a_step_does() -> None:
    """H7: what AdamW shrinks was not touched."""
    table = torch.randn(500, 16)
    before = headings(table)
    for _ in range(1000):
        table.mul_(1 - 1e-4)
    assert turned(before, table) == 0.0
    table[:50] += 1e-2 * torch.randn(50, 16)
    assert turned(before, table) == close(0.1, abs=0.01)


def test_large_tables_are_followed_by_evenly_spread_rows() -> None:
    table = torch.randn(150_000, 2)
    before = headings(table)
    assert before.shape == (50_000,)
    table[:75_000] += torch.tensor([0.5, -0.7])
    assert turned(before, table) == close(0.5, abs=0.01)


@pytest.mark.parametrize("sparse", [True, False])
def test_rows_that_a_gradient_reaches(sparse: bool) -> None:
    table = nn.Embedding(20, 4, sparse=sparse)
    table(torch.tensor([3, 3, 7, 19])).sum().backward()
    assert asked_for(table.weight.grad, 20) == close(3 / 20)
    assert asked_for(None, 20) == 0.0


def test_likeness_is_the_mean_over_all_pairs() -> None:
    rows = torch.randn(30, 6) + 1.0
    expected = [
        float(torch.cosine_similarity(a, b, dim=0))
        for a, b in itertools.permutations(rows.double(), 2)
    ]
    found = likeness(rows)
    assert found is not None
    assert found[0] == close(sum(expected) / len(expected))
    norms = rows.double().norm(dim=1)
    assert found[1] == close(float(norms.std(correction=0) / norms.mean()))
    assert likeness(torch.zeros(30, 6)) is None
    assert likeness(rows * math.nan) is None


def test_replicas_that_are_equal_differ_by_nothing_and_others_by_their_share() -> None:
    """P1."""
    measure = ReplicaMeasure()
    x = torch.randn(40, 30)
    apart = x + 1e-3 * torch.randn(40, 30)
    for other, least, most in ((x.clone(), 0.0, 0.0), (apart, 1e-5, 1e-2)):
        maxima = torch.maximum(measure.observe([x]).maxima, measure.observe([other]).maxima)
        found = measure.summarise(["w"], torch.zeros(1, 0), maxima)["rank_difference"]["w"]
        assert least <= found <= most
    poisoned = measure.observe([x * math.nan])
    assert measure.summarise(["w"], poisoned.sums, poisoned.maxima)["rank_difference"] == {}


def paths(net: nn.Module) -> dict[int, str]:
    return {id(module): name for name, module in net.named_modules()}


def amiss(net: nn.Module) -> list[str]:
    trained = Trained(p for p in net.parameters() if p.requires_grad)
    watches = mode_watches(net, paths(net))
    return [name for name, watch in watches.items() if watch.is_amiss(trained)]


def network() -> nn.Sequential:
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Dropout(0.0))
    return nn.Sequential(body, nn.Linear(8, 2))


def test_trained_parts_in_eval_mode_are_amiss() -> None:
    """P48."""
    net = network()
    assert amiss(net) == []
    net.eval()
    assert amiss(net) == ["0.1", "0.2"]
    net.train()
    net[0].eval()
    assert amiss(net) == ["0.1", "0.2"]


def test_frozen_parts_in_eval_mode_are_as_they_should_be() -> None:
    net = network()
    net[0].requires_grad_(requires_grad=False).eval()
    assert amiss(net) == []


def test_a_norm_that_was_put_in_eval_mode_alone_was_so_on_purpose() -> None:
    """Unless it has no statistics yet."""
    net = network()
    body = net[0]
    assert isinstance(body, nn.Sequential)
    body[1].eval()
    assert amiss(net) == ["0.1"]
    body[1].train()
    net(torch.randn(8, 4))
    body[1].eval()
    assert amiss(net) == []


def test_adapters_in_a_frozen_backbone_do_not_count() -> None:
    net = network()
    body = net[0]
    assert isinstance(body, nn.Sequential)
    net[0].requires_grad_(requires_grad=False)
    body[0].bias.requires_grad = True
    assert amiss(net.eval()) == []


@pytest.mark.parametrize(
    ("module", "depends"),
    [
        (nn.LayerNorm(4), False),
        (nn.BatchNorm2d(4, track_running_stats=False), False),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True),
        (nn.MultiheadAttention(4, 2), False),
        (nn.LSTM(4, 4, 2, dropout=0.1), True),
        (nn.InstanceNorm2d(4), False),
    ],
)
def test_what_depends_on_the_mode(module: nn.Module, depends: bool) -> None:
    assert depends_on_mode(module) is depends


@pytest.mark.parametrize(
    ("module", "share"),
    [
        (nn.Dropout2d(0.3), 0.3),
        (nn.AlphaDropout(0.2), 0.2),
        (nn.MultiheadAttention(4, 2, dropout=0.1), 0.1),
        (nn.GRU(4, 4, 2, dropout=0.4), 0.4),
        (nn.Linear(4, 4), 0.0),
    ],
)
def test_how_much_a_module_drops(module: nn.Module, share: float) -> None:
    assert dropout_of(module) == share


def test_statistics_of_frozen_norms_are_seen_to_move() -> None:
    """P3."""
    net = network()
    assert frozen_norms(net, paths(net)) == {}
    net[0].requires_grad_(requires_grad=False)
    (norm,) = frozen_norms(net, paths(net)).values()
    assert not norm.has_changed()
    net(torch.randn(8, 4))
    assert norm.has_changed()


def test_a_moving_average_is_meant_to_move() -> None:
    net = network().requires_grad_(requires_grad=False)
    (norm,) = frozen_norms(net, paths(net)).values()
    net(torch.randn(8, 4))
    for parameter in net.parameters():
        parameter.mul_(0.9).add_(0.01)
    assert not norm.has_changed()


def test_a_part_that_was_thawed_is_no_longer_frozen() -> None:
    net = network().requires_grad_(requires_grad=False)
    (norm,) = frozen_norms(net, paths(net)).values()
    net.requires_grad_(requires_grad=True)
    net(torch.randn(8, 4))
    assert not norm.has_changed()
