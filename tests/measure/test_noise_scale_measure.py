"""The noise scale against the gradient of every sample of a data set, in float64 (W15)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from lightning_diag.measure.base import Call
from lightning_diag.measure.moments import added
from lightning_diag.measure.noise_estimate import (
    Estimate,
    _quantile,
    noise_scale_of,
    two_batch_estimate,
)
from lightning_diag.measure.noise_scale import (
    _MOST,
    NoiseScaleMeasure,
    SplitMeasure,
    spread_square_sum,
)
from lightning_diag.measure.split import PartWatch, can_split, keep, part_squares

SAMPLES = 512
CPU = torch.device("cpu")


def per_sample_gradients(seed: int = 0) -> Tensor:
    """Return the gradient of each sample's loss, ``(samples, parameters)``, of a small network."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64)
    y = (x[:, 0] + 0.5 * x[:, 1].square() > 0.3).long()
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 2)).double()

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(net, parameters, (x[None],)), y[None])

    weights = {name: p.detach() for name, p in net.named_parameters()}
    found = vmap(grad(loss), (None, 0, 0))(weights, x, y)
    return torch.cat([part.flatten(1) for part in found.values()], 1)


def truth(gradients: Tensor) -> Estimate:
    """Return trace of the covariance and squared norm of the true gradient, without bias."""
    mean = gradients.mean(0)
    trace = float((gradients - mean).square().sum() / (len(gradients) - 1))
    return Estimate(trace, float(mean.square().sum()) - trace / len(gradients))


def observed(gradients: Tensor, sizes: Sequence[int], order: Tensor) -> Estimate:
    """Return what the measure makes of micro-batches of these sizes, as training adds them up."""
    parts = [part.mean(0) for part in gradients[order[: sum(sizes)]].split(list(sizes))]
    small = [spread_square_sum(part) for part in parts]
    total = spread_square_sum(torch.stack(parts).sum(0))
    measure = NoiseScaleMeasure()
    columns = measure.observe(small, [float(n) for n in sizes], total, device=CPU)
    numbers = measure.summarise([""], columns.sums, columns.maxima)
    assert numbers["batch_size"] == {"": sum(sizes)}
    return Estimate(numbers["trace"][""], numbers["signal"][""])


@pytest.mark.parametrize(
    "sizes",
    [(8, 8, 8, 8), (32, 32), (1,) * 16, (4, 8, 16), (2, 30)],
    ids=["micro-batches", "ranks", "single samples", "unequal", "very unequal"],
)
def test_both_parts_are_right_on_average(sizes: Sequence[int]) -> None:
    """W15: their mean over many batches is the brute-force value, within its standard error."""
    gradients = per_sample_gradients()
    generator = torch.Generator().manual_seed(1)
    drawn = [
        observed(gradients, sizes, torch.randperm(SAMPLES, generator=generator))
        for _ in range(2000)
    ]
    expected = truth(gradients)
    for part, target in (("trace", expected.trace), ("signal", expected.signal)):
        values = torch.tensor([getattr(one, part) for one in drawn], dtype=torch.float64)
        error = float(values.std()) / math.sqrt(len(values))
        assert error < 0.06 * target
        assert abs(float(values.mean()) - target) < 4 * error


def test_the_scale_of_many_batches_is_the_brute_force_one() -> None:
    gradients = per_sample_gradients()
    generator = torch.Generator().manual_seed(2)
    drawn = [
        observed(gradients, (8,) * 4, torch.randperm(SAMPLES, generator=generator))
        for _ in range(1000)
    ]
    trace, signal = truth(gradients)
    found = noise_scale_of(drawn)
    assert found is not None
    assert found.samples == pytest.approx(trace / signal, rel=0.1)
    assert found.low < trace / signal < found.high


def test_means_come_first_and_the_ratio_second() -> None:
    """The mean of these ratios would be 25.5, and a single step's can be anything."""
    found = noise_scale_of([Estimate(10.0, 1.0), Estimate(50.0, 1.0), Estimate(60.0, 5.0)] * 2)
    assert found is not None
    assert found.samples == pytest.approx(120 / 7)


def test_the_interval_holds_the_truth_19_times_in_20() -> None:
    """Also where the signal is hardly told from 0; W15."""
    rng = random.Random(3)
    for signal in (4.0, 1.0, 0.3):
        held = 0
        for _ in range(1000):
            seen = [Estimate(rng.gauss(100, 20), rng.gauss(signal, 2.0)) for _ in range(16)]
            found = noise_scale_of(seen)
            assert found is not None
            held += found.low <= 100 / signal <= found.high
        assert 0.93 <= held / 1000 <= 0.985


def test_no_signal_has_a_lower_end_and_no_upper_one() -> None:
    rng = random.Random(5)
    found = noise_scale_of([Estimate(rng.gauss(100, 5), rng.gauss(0.0, 1.0)) for _ in range(64)])
    assert found is not None
    assert found.high == math.inf
    assert 100 < found.low < 1000
    below = noise_scale_of([Estimate(100.0, -1.0), Estimate(90.0, -1.1)] * 4)
    assert below is not None
    assert below.samples is None
    assert (below.low, below.high) == (0.0, math.inf)


def test_gradients_that_agree_have_no_noise() -> None:
    found = noise_scale_of([Estimate(0.0, 2.0)] * 4)
    assert found is not None
    assert (found.samples, found.low, found.high) == (0.0, 0.0, 0.0)


def test_fewer_than_four_estimates_say_nothing() -> None:
    assert noise_scale_of([Estimate(1.0, 1.0)] * 3) is None


@pytest.mark.parametrize(("freedom", "table"), [(3, 3.182), (7, 2.365), (15, 2.131), (63, 1.998)])
def test_quantiles_are_those_of_the_table(freedom: int, table: float) -> None:
    assert _quantile(freedom) == pytest.approx(table, rel=0.01)


def test_ranks_are_groups_and_their_mean_is_counted_once() -> None:
    """P6: two ranks of two micro-batches are four groups, and hold the same average."""
    parts = torch.randn(4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    measure = NoiseScaleMeasure()
    # DDP averages over ranks what each has added up
    total = spread_square_sum((parts[:2].sum(0) + parts[2:].sum(0)) / 2)
    ranks = [
        measure.observe([spread_square_sum(p) for p in own], [8.0, 8.0], total, device=CPU).sums
        for own in (parts[:2], parts[2:])
    ]
    found = measure.summarise([""], ranks[0] + ranks[1], torch.zeros(1, 0))
    small = float(parts.square().sum(1).mean())
    expected = two_batch_estimate(small, float(parts.mean(0).square().sum()), 8, 4)
    assert found["trace"][""] == pytest.approx(expected.trace)
    assert found["signal"][""] == pytest.approx(expected.signal)
    assert found["batch_size"] == {"": 32.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_or_has_one_group_is_not_observed(bad: float) -> None:
    measure = NoiseScaleMeasure()
    for groups, total in (([1.0, bad], 1.0), ([1.0, 1.0], bad), ([1.0], 1.0)):
        sizes = [8.0] * len(groups)
        row = measure.observe(groups, sizes, total, device=CPU).sums
        found = measure.summarise([""], row, torch.zeros(1, 0))
        assert found == {"trace": {}, "signal": {}, "batch_size": {}}


def test_a_large_gradient_is_estimated_from_an_even_spread() -> None:
    x = torch.linspace(0, 1, 3 * _MOST)
    assert spread_square_sum(x) == pytest.approx(float(x.double().square().sum()), rel=1e-3)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(5, 7), (16, 5)),
    "linear over positions": (nn.Linear(5, 7), (16, 3, 5)),
    "conv1d": (nn.Conv1d(3, 4, 3, padding=1), (16, 3, 9)),
    "conv2d": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (16, 3, 9, 8)),
    "dilated": (nn.Conv2d(2, 4, (2, 3), dilation=2), (16, 2, 9, 8)),
    "conv3d": (nn.Conv3d(2, 3, 2), (16, 2, 4, 5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_parts_of_a_batch_get_the_gradients_that_autograd_gives_them(name: str) -> None:
    """W15: no second pass through the model is needed for the gradient of a part of it."""
    layer, shape = LAYERS[name]
    assert can_split(layer)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    output = layer(x).tanh()
    back = torch.autograd.grad(output.square().sum(), output)[0]
    inner = layer(x)
    (gradient,) = torch.autograd.grad(inner.tanh().square().sum(), inner)
    found = part_squares(keep(layer, x, 16), gradient)
    assert back.shape == gradient.shape
    parts: list[Tensor] = []
    weight: Any = layer.weight
    for part in x.chunk(8):
        loss = layer(part).tanh().square().sum()
        parts.append(torch.autograd.grad(loss, weight)[0])
    expected = [float(p.square().sum()) for p in parts]
    expected.append(float(torch.stack(parts).sum(0).square().sum()))
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(200, 300), (16, 200)), (nn.Conv2d(40, 50, 3), (16, 40, 6, 6))],
    ids=["linear", "convolution"],
)
def test_of_a_wide_layer_an_even_spread_of_units_stands_for_all(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    output = layer(x)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    found = part_squares(keep(layer, x, 16), gradient)
    weight: Any = layer.weight
    (whole,) = torch.autograd.grad(output, weight, gradient)
    assert float(found[-1]) == pytest.approx(float(whole.square().sum()), rel=0.15)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Embedding(4, 4),
        nn.ReLU(),
    ],
)
def test_other_layers_are_left_alone(layer: nn.Module) -> None:
    assert not can_split(layer)


def test_parts_within_a_batch_are_a_ranks_own() -> None:
    """The mean of two ranks' estimates: their parts are not averaged with each other."""
    measure = SplitMeasure()
    one = measure.observe([5.0, 5.0], [8.0, 8.0], 16.0, device=CPU).sums
    other = measure.observe([9.0, 9.0], [8.0, 8.0], 28.0, device=CPU).sums
    found = measure.summarise([""], one + other, torch.zeros(1, 0))
    expected = two_batch_estimate(7.0, 22.0 / 4, 8, 2)
    assert found["trace"][""] == pytest.approx(expected.trace)
    assert found["signal"][""] == pytest.approx(expected.signal)
    assert found["batch_size"] == {"": 32.0}


def call(layer: nn.Linear, x: Tensor, index: int = 0) -> Call:
    """Return a call of a layer that has returned."""
    return Call(f"net.0/linear#{index}", "linear", "layer", 1, x, layer(x))


def test_a_layer_that_is_called_twice_is_not_observed() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    watch = PartWatch()
    watch.layers = {"net.0": layer}
    watch.begin(4)
    one, other = call(layer, x), call(layer, x, 1)
    watch.after(one)
    watch.after(other)
    assert one.output is not None
    assert other.output is not None
    (one.output.sum() + other.output.sum()).backward()
    assert watch.squares == {id(layer.weight): None}


def test_an_output_that_two_backward_passes_reach_is_not_observed() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    watch = PartWatch()
    watch.layers = {"net.0": layer}
    watch.begin(4)
    one = call(layer, x)
    watch.after(one)
    assert one.output is not None
    loss = one.output.sum()
    loss.backward(retain_graph=True)
    assert watch.squares[id(layer.weight)] is not None
    loss.backward()
    assert watch.squares == {id(layer.weight): None}


@pytest.mark.parametrize("samples", [1, 5, 0])
def test_inputs_that_do_not_count_samples_first_are_left_alone(samples: int) -> None:
    layer = nn.Linear(3, 2)
    watch = PartWatch()
    watch.layers = {"net.0": layer}
    watch.begin(samples)
    one = call(layer, torch.randn(4, 3))
    watch.after(one)
    assert one.output is not None
    one.output.sum().backward()
    assert watch.squares == {}


def test_the_users_autocast_and_types_change_no_number() -> None:
    def squares() -> list[float]:
        layer, x = nn.Linear(3, 2), torch.arange(12.0).view(4, 3) / 7
        nn.init.constant_(layer.weight, 0.3)
        watch = PartWatch()
        watch.layers = {"net.0": layer}
        watch.begin(4)
        one = call(layer, x)
        watch.after(one)
        assert one.output is not None
        loss = one.output.sum() * 1.001
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss.backward()
        found = watch.squares[id(layer.weight)]
        assert found is not None
        return found.tolist()

    (*parts, whole) = squares()
    assert parts == pytest.approx([1.002001 * 2 * n for n in row_squares()], rel=1e-6)
    assert whole > max(parts)


def row_squares() -> list[float]:
    x = torch.arange(12.0, dtype=torch.float64).view(4, 3) / 7
    values: list[float] = x.square().sum(1).tolist()
    return values


def test_what_fails_in_backward_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("lightning_diag.measure.split.part_squares", fail)
    layer = nn.Linear(3, 2)
    watch = PartWatch()
    watch.layers = {"net.0": layer}
    watch.begin(4)
    one = call(layer, torch.randn(4, 3))
    watch.after(one)
    assert one.output is not None
    one.output.sum().backward()
    assert layer.weight.grad is not None
    assert str(watch.error) == "a bug"


def test_sums_mix_numbers_of_the_host_and_tensors() -> None:
    assert added([1.0, 2.0]) == 3.0
    assert float(added([1.0, torch.tensor(2.0)])) == 3.0
    assert added([]) == 0.0
