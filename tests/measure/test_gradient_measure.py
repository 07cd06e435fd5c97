"""Statistics of gradients, against float64 and numbers worked out by hand (W1, W2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_diag.measure.base import Columns
from lightning_diag.measure.gradient import (
    GradientMeasure,
    depth_ratio,
    layer_norms,
    root_sum_square,
    squares,
)
from lightning_diag.measure.shards import local_part

MEASURE = GradientMeasure()


def numbers(*gradients: Tensor | None, scale: Tensor | None = None) -> dict[str, list[float]]:
    """Return each output in the order of the gradients; absent ones are left out."""
    places = [f"p{i}" for i in range(len(gradients))]
    columns = MEASURE.observe(gradients, scale)
    found = MEASURE.summarise(places, columns.sums, columns.maxima)
    return {output: list(values.values()) for output, values in found.items()}


class Shard(Tensor):
    """Stands in for a tensor that is spread over ranks: a part, and where the rest is."""

    placements: list[Any]
    device_mesh: Any
    part: Tensor

    def to_local(self) -> Tensor:
        return self.part


class Placement:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def is_shard(self) -> bool:
        return self.kind == "shard"

    def is_partial(self) -> bool:
        return self.kind == "partial"


class Mesh:
    def __init__(self, *shape: int) -> None:
        self.shape = shape


def shard(part: Tensor, whole: tuple[int, ...], mesh: Sequence[int], *kinds: str) -> Shard:
    result = torch.empty(whole).as_subclass(Shard)
    result.part = part
    result.device_mesh = Mesh(*mesh)
    result.placements = [Placement(kind) for kind in kinds]
    return result


def joined(*parts: Columns) -> Columns:
    """Join ranks: sums add up, maxima exceed."""
    sums = torch.stack([part.sums for part in parts]).sum(0)
    return Columns(sums, torch.stack([part.maxima for part in parts]).amax(0))


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_norm_largest_value_and_zeros(size: int) -> None:
    gradient = torch.randn(size)
    gradient[0] = 0.0
    found = numbers(gradient)
    assert found["norm"] == [pytest.approx(float(gradient.double().norm()), rel=1e-6)]
    assert found["max"] == [float(gradient.abs().max())]
    assert found["zero_fraction"] == [pytest.approx(1 / size)]
    assert found["nonfinite_count"] == [0.0]
    assert found["missing"] == [0.0]


def test_a_missing_gradient_has_no_numbers_but_that_it_is_missing() -> None:
    found = numbers(torch.tensor([3.0, -4.0]), None)
    assert found["missing"] == [0.0, 1.0]
    for output in ("norm", "max", "zero_fraction", "nonfinite_count"):
        assert len(found[output]) == 1


def test_all_gradients_may_be_missing() -> None:
    assert numbers(None, None) == {
        "norm": [],
        "max": [],
        "zero_fraction": [],
        "nonfinite_count": [],
        "missing": [1.0, 1.0],
    }


def test_zero_is_not_missing() -> None:
    found = numbers(torch.zeros(5))
    assert (found["norm"], found["zero_fraction"], found["missing"]) == ([0.0], [1.0], [0.0])


def test_an_empty_gradient_has_no_share_of_zeros() -> None:
    found = numbers(torch.zeros(0, 4), torch.ones(1))
    assert found["norm"] == [0.0, 1.0]
    assert found["zero_fraction"] == [0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_of_gradients(dtype: torch.dtype) -> None:
    gradient = torch.randn(300).to(dtype)
    found = numbers(gradient)
    assert found["norm"] == [pytest.approx(float(gradient.double().norm()), rel=1e-5)]
    assert found["max"] == [float(gradient.abs().max())]


def test_float16_gradients_are_added_up_in_a_wider_type() -> None:
    """Alone, 60,000 squared is beyond float16."""
    assert numbers(torch.full((100,), 60_000.0).half())["norm"] == [pytest.approx(6e5, rel=1e-5)]


def test_a_complex_gradient_counts_real_and_imaginary_parts() -> None:
    found = numbers(torch.tensor([3 + 4j, 0j]))
    assert found["norm"] == [pytest.approx(5.0)]
    assert found["max"] == [4.0]
    assert found["zero_fraction"] == [0.5]


def test_a_sparse_gradient_has_the_numbers_of_the_dense_one() -> None:
    """Rows that an embedding did not use are exact zeros, and rows used twice add up."""
    results = []
    for sparse in (False, True):
        torch.manual_seed(0)
        layer = nn.Embedding(10, 3, sparse=sparse)
        layer(torch.tensor([1, 1, 4])).square().sum().backward()
        results.append(numbers(layer.weight.grad))
    assert results[0].keys() == results[1].keys()
    for output in results[0]:
        assert results[0][output] == pytest.approx(results[1][output], rel=1e-6)
    assert results[1]["zero_fraction"] == [pytest.approx(0.8)]


def test_bad_values_are_counted_and_not_hidden() -> None:
    """P13: neither dropped nor fatal."""
    found = numbers(torch.tensor([math.nan, math.inf, -math.inf, 1.0]), torch.ones(2))
    assert found["nonfinite_count"] == [3.0, 0.0]
    assert not math.isfinite(found["norm"][0])
    assert found["max"] == [math.inf, 1.0]


def test_a_loss_scale_is_taken_out() -> None:
    """P4: a fused optimizer unscales inside of its step."""
    gradient = torch.tensor([3.0, -4.0, 0.0])
    scale = torch.tensor(65536.0)
    assert numbers(gradient * scale, None, scale=scale) == numbers(gradient, None)


@pytest.mark.parametrize("magnitude", [1e-30, 1e25])
def test_norms_of_vanishing_and_exploding_gradients(magnitude: float) -> None:
    assert numbers(torch.tensor([3.0, 4.0]) * magnitude)["norm"] == [
        pytest.approx(5 * magnitude, rel=1e-5, abs=0)
    ]


@pytest.mark.parametrize(
    ("mesh", "kinds"),
    [((2,), ("shard",)), ((2, 2), ("replicate", "shard")), ((2, 2), ("shard", "replicate"))],
)
def test_shares_of_sharded_gradients_make_one_whole(
    mesh: tuple[int, ...], kinds: tuple[str, ...]
) -> None:
    """P5: norms are those of the whole, however its parts are spread and replicated."""
    whole = torch.randn(7, 3)
    whole[0] = 0.0
    whole[6, 2] = math.inf
    parts = [whole[:4], whole[4:]]
    copies = math.prod(mesh) // 2
    ranks = [
        MEASURE.observe([shard(part, (7, 3), mesh, *kinds), torch.ones(3)])
        for part in parts
        for _ in range(copies)
    ]
    both = joined(*ranks)
    alone = MEASURE.observe([whole, torch.ones(3)])
    expected = MEASURE.summarise(["w", "b"], alone.sums, alone.maxima)
    assert MEASURE.summarise(["w", "b"], both.sums, both.maxima) == expected
    assert expected["nonfinite_count"] == {"w": 1.0, "b": 0.0}


def test_a_rank_may_hold_nothing_of_a_sharded_gradient() -> None:
    ranks = [
        MEASURE.observe([shard(part, (3,), (2,), "shard")])
        for part in (torch.tensor([3.0, 0.0, 4.0]), torch.zeros(0))
    ]
    both = joined(*ranks)
    found = MEASURE.summarise(["w"], both.sums, both.maxima)
    assert found["norm"] == {"w": 5.0}
    assert found["zero_fraction"] == {"w": pytest.approx(1 / 3)}


def test_partial_sums_cannot_be_measured() -> None:
    with pytest.raises(TypeError, match="partial sum"):
        local_part(shard(torch.ones(2), (2,), (2,), "partial"))


def test_squares_are_those_of_the_measure() -> None:
    gradients = [torch.randn(30), None, torch.tensor([3 + 4j])]
    columns = squares(gradients)
    full = MEASURE.observe(gradients)
    assert columns.sums[:, 0].tolist() == full.sums[:, 0].tolist()
    assert columns.sums[:, 1].tolist() == [1.0, 0.0, 1.0]
    assert columns.maxima.shape == (3, 0)


def test_norms_of_parts_make_the_norm_of_the_whole() -> None:
    parts = [torch.randn(5), torch.randn(3, 2), torch.randn(1)]
    whole = float(torch.cat([part.flatten() for part in parts]).double().norm())
    assert root_sum_square(float(part.norm()) for part in parts) == pytest.approx(whole, rel=1e-6)
    assert root_sum_square([1e200, 1e200]) == pytest.approx(math.sqrt(2) * 1e200)
    assert not math.isfinite(root_sum_square([1.0, math.nan]))
    layers = {"a.w": "a", "a.b": "a", "c.w": "c", "frozen": "a"}
    assert layer_norms({"a.w": 3.0, "c.w": 7.0, "a.b": 4.0}, layers) == {"a": 5.0, "c": 7.0}


def test_depth_ratio_compares_elements_and_not_sizes() -> None:
    norms = {"first": 2.0, "bias": 99.0, "middle": 5.0, "last": 2.0}
    shapes = {"first": (10, 40), "bias": (10,), "middle": (1, 1), "last": (2, 2)}
    # RMS 2/20 = 0.1 over RMS 2/2 = 1
    assert depth_ratio(norms, shapes) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "norms", [{}, {"a": 1.0}, {"a": 1.0, "bias": 1.0}, {"a": 1.0, "b": 0.0}, {"a": 1.0, "none": 1}]
)
def test_without_two_weights_with_gradients_there_is_no_depth_ratio(
    norms: dict[str, float],
) -> None:
    shapes = {"a": (2, 2), "b": (2, 2), "bias": (2,), "none": (0, 2)}
    assert depth_ratio(norms, shapes) is None
