"""What batches and inputs are reduced to, against slow references in float64."""

from __future__ import annotations

import math
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lightning_diag.measure.base import Columns
from lightning_diag.measure.data import is_measured, leaf_columns, leaf_numbers, leaves, thinned
from lightning_diag.measure.input import feature_columns, feature_numbers


def numbers_of(*parts: Tensor) -> dict[str, float]:
    """Return the numbers of a tensor that came in parts."""
    columns = [leaf_columns(part) for part in parts]
    sums = torch.stack([c.sums[0] for c in columns]).sum(0)
    maxima = torch.stack([c.maxima[0] for c in columns]).amax(0)
    return leaf_numbers(sums.tolist(), maxima.tolist())


def drawn(*shape: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Return random values, whose samples differ from each other."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(shape, generator=generator)
    each = torch.randn(shape[0], *[1] * (len(shape) - 1), generator=generator)
    return (x + each) * std + mean


@pytest.mark.parametrize("shape", [(64,), (64, 9), (64, 3, 5, 5)])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (120.0, 60.0), (1000.0, 1.0)])
def test_moments_of_a_batch_equal_the_reference(
    shape: tuple[int, ...], mean: float, std: float
) -> None:
    """C7."""
    x = drawn(*shape, mean=mean, std=std)
    found, wide = numbers_of(x), x.double()
    samples = wide.reshape(64, -1)
    near = (samples - wide.mean()).square().mean(1)
    expected = {
        "mean": wide.mean(),
        "std": wide.std(correction=0),
        "min": wide.min(),
        "max": wide.max(),
        "samples": torch.tensor(64.0),
        "mean_error": samples.mean(1).std(correction=0) / 8,
        "std_error": near.std(correction=0) / 8 / (2 * wide.std(correction=0)),
    }
    # a mean of a thousand standard deviations costs digits of the errors
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-3)


def test_parts_of_a_batch_pool_to_the_whole() -> None:
    x = drawn(60, 7, mean=3.0)
    whole = pytest.approx(numbers_of(x), rel=1e-9)
    assert numbers_of(*x.split(15)) == whole
    assert numbers_of(x[:1], x[1:]) == whole


def test_the_error_of_the_mean_is_that_of_repeated_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    means, stds, errors = [], [], []
    for _ in range(300):
        x = torch.randn(32, 5, generator=generator) + torch.randn(32, 1, generator=generator)
        found = numbers_of(x)
        means.append(found["mean"])
        stds.append(found["std"])
        errors.append((found["mean_error"], found["std_error"]))
    mean_error, std_error = torch.tensor(errors).mean(0).tolist()
    assert mean_error == pytest.approx(torch.tensor(means).std().item(), rel=0.15)
    assert std_error == pytest.approx(torch.tensor(stds).std().item(), rel=0.15)


def test_what_is_not_finite_or_empty_has_no_numbers() -> None:
    assert numbers_of(torch.tensor([1.0, math.nan])) == {}
    assert leaf_numbers([0.0] * 6, [0.0, 0.0]) == {}
    assert not is_measured(torch.zeros(0, 3))
    assert not is_measured(torch.zeros(4, dtype=torch.long))
    assert not is_measured(torch.eye(3).to_sparse())
    assert not is_measured(torch.zeros(3, device="meta"))
    assert is_measured(torch.zeros(2, 2, dtype=torch.uint8))


def features(x: Tensor, dim: int = -1) -> dict[str, float]:
    """Return the numbers of the features of a tensor."""
    columns: Columns = feature_columns(x, dim)
    return feature_numbers(columns.sums[0], columns.maxima[0])


@pytest.mark.parametrize(("shape", "dim"), [((40, 6), -1), ((40, 6, 5, 5), 1), ((40, 4, 6), 2)])
def test_features_equal_the_reference(shape: tuple[int, ...], dim: int) -> None:
    scales = torch.tensor([1.0, 2.0, 3.0, 4.0, 500.0, 0.0])
    shift = torch.tensor([0.0, 10.0, -20.0, 0.0, 0.0, 7.0])
    view = [1] * len(shape)
    view[dim] = 6
    x = drawn(*shape) * scales.view(view) + shift.view(view)
    columns = x.double().movedim(dim, -1).reshape(-1, 6)
    mean, std = columns.mean(0)[:5], columns.std(0, correction=0)[:5]
    middle = std.sort().values[2]
    found = features(x, dim)
    assert found == pytest.approx(
        {
            "max": float(x.abs().max()),
            "samples": 40.0,
            "offset": float((mean / std.clamp(min=middle)).square().mean().sqrt()),
            "scale_ratio": float(std.max() / middle),
            "constant_fraction": 1 / 6,
            "binary_fraction": 0.0,
        },
        rel=1e-5,
    )


def test_zeros_and_ones_have_neither_offset_nor_scale() -> None:
    x = torch.nn.functional.one_hot(torch.arange(40) % 4, 5).float()
    found = features(x)
    assert found["binary_fraction"] == pytest.approx(0.8)
    assert found["constant_fraction"] == pytest.approx(0.2)
    assert "offset" not in found
    assert "scale_ratio" not in found


def test_values_that_are_not_finite_are_left_out_of_features() -> None:
    x = drawn(40, 3)
    spoilt = x.clone()
    spoilt[5, 0], spoilt[6, 1] = math.nan, math.inf
    rest = features(spoilt)
    assert rest["offset"] == pytest.approx(features(x)["offset"], rel=0.2)
    assert all(map(math.isfinite, rest.values()))
    assert features(torch.full((4, 2), math.nan)) == {}


@pytest.mark.parametrize(
    "shape", [(), (10**6,), (4000, 50), (8, 3, 512, 512), (2, 1, 10**6), (300, 3, 64, 64)]
)
def test_a_part_is_small_and_keeps_samples(shape: tuple[int, ...]) -> None:
    part = thinned(torch.zeros(shape))
    assert part.numel() <= 65_536
    assert part.dim() == len(shape)
    if shape:
        assert part.shape[0] >= min(shape[0], 256)


def test_all_features_stay_in_a_part() -> None:
    assert thinned(torch.zeros(128, 224, 224, 3), keep_last=True).shape[-1] == 3


class Pair(NamedTuple):
    """A batch of two parts."""

    image: Tensor
    label: Tensor


@dataclass
class Sample:
    """A batch with names."""

    image: Any
    label: Any


class Graph:
    """A batch of one's own."""

    def __init__(self) -> None:
        self.nodes = torch.ones(4, 2)
        self._store = {"edges": torch.ones(2, 6)}


class Rude(UserDict[str, Any]):
    """Raises whenever it is read."""

    def __iter__(self) -> Any:
        raise RuntimeError


X, Y = torch.zeros(2, 3), torch.ones(2)


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        (X, ["batch"]),
        ((X, Y), ["0", "1"]),
        ([X, "text", 3, None, [Y]], ["0", "4.0"]),
        ({"image": X, "more": {"label": Y}}, ["image", "more.label"]),
        (OrderedDict(b=X, a=Y), ["b", "a"]),
        (Pair(X, Y), ["image", "label"]),
        (Sample(X, (Y,)), ["image", "label.0"]),
        (Graph(), ["nodes", "store.edges"]),
        ({1: X, ("a", 2): Y}, ["1", "('a', 2)"]),
        (Rude({"x": X}), []),
        (iter([X]), []),
        (None, []),
        ("text", []),
        (3, []),
        ([], []),
    ],
)
def test_tensors_are_found_in_batches_of_any_kind(batch: Any, names: list[str]) -> None:
    assert [name for name, _ in leaves(batch)] == names


def test_an_iterator_keeps_what_it_gives() -> None:
    batch = iter([X, Y])
    leaves({"lazy": batch, "eager": X})
    assert next(batch) is X


def test_large_and_endless_batches_are_looked_at_in_part() -> None:
    endless: list[Any] = [X]
    endless.append(endless)
    assert 1 <= len(leaves(endless)) <= 16
    assert len(leaves([X] * 10_000)) == 16
    assert len(leaves({i: i for i in range(10**5)})) == 0
