"""What every measure is held to: it never raises, never touches anything, and is documented."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lightning_diag
from lightning_diag.measure.activation import (
    OutputMeasure,
    SaturationMeasure,
    TailMeasure,
    VarianceGainMeasure,
)
from lightning_diag.measure.base import Call, CallMeasure, Columns, LossCall, Measure
from lightning_diag.measure.batch_norm import BatchNormMeasure, Update
from lightning_diag.measure.classes import ClassMeasure
from lightning_diag.measure.dead_relu import FiredMeasure
from lightning_diag.measure.directions import DirectionMeasure
from lightning_diag.measure.examples import ExampleMeasure
from lightning_diag.measure.filters import FilterMeasure, kernels
from lightning_diag.measure.gradient import GradientMeasure, squares
from lightning_diag.measure.histogram import HistogramMeasure
from lightning_diag.measure.input import FeatureMeasure, InputMeasure
from lightning_diag.measure.losses import INDEX_LOSSES
from lightning_diag.measure.noise import GradientPairMeasure, sample
from lightning_diag.measure.noise_scale import (
    NoiseScaleMeasure,
    SplitMeasure,
    spread_square_sum,
)
from lightning_diag.measure.output import PredictionMeasure
from lightning_diag.measure.replica import ReplicaMeasure
from lightning_diag.measure.samples import SampleSpreadMeasure
from lightning_diag.measure.split import PartWatch
from lightning_diag.measure.target import SpreadMeasure, TargetMeasure
from lightning_diag.measure.update import UpdateMeasure
from lightning_diag.measure.weight import (
    DuplicateMeasure,
    GradientDuplicateMeasure,
    WeightMeasure,
)
from lightning_diag.probe.functions import FUNCTIONS, Function

NORM_STEP = Update((torch.zeros(3), torch.ones(3)), (torch.ones(3), torch.ones(3)), 0.1, 1e-5)
MEASURES: list[Measure] = [
    GradientMeasure(),
    UpdateMeasure(),
    OutputMeasure(),
    SaturationMeasure(),
    TailMeasure(),
    VarianceGainMeasure(),
    FiredMeasure(),
    HistogramMeasure(4, lambda place: (-1.0, 1.0)),
    SampleSpreadMeasure(),
    InputMeasure(lambda call: True),
    FeatureMeasure(lambda call: True),
    PredictionMeasure(),
    DirectionMeasure(),
    TargetMeasure(),
    SpreadMeasure(),
    ClassMeasure(),
    WeightMeasure(),
    DuplicateMeasure(),
    GradientDuplicateMeasure(),
    ExampleMeasure(),
    FilterMeasure(),
    ReplicaMeasure(),
    GradientPairMeasure(),
    NoiseScaleMeasure(),
    SplitMeasure(),
    PartWatch(),
    BatchNormMeasure(lambda place: None, lambda place: NORM_STEP),
]
# In the table of the docs, and made by monitors from the numbers of measures or of the trainer.
DERIVED = {
    "gradient/layer_norm",
    "gradient/total_norm",
    "gradient/clipped_norm",
    "input/normalised",
    "gradient/clip_coefficient",
    "gradient/clipped_fraction",
    "gradient/depth_ratio",
    "gradient/histogram",
    "weight/histogram",
    "update/skipped",
    "output/accuracy",
    "output/sample_spread",
    "target/sample_spread",
    "class/imbalance",
    "class/majority_share",
    "class/predicted_share",
    "class/rare_recall",
    "setup/eval_mode",
    "setup/eval_share",
    "setup/frozen_changed",
}
# Columns of one measure whose numbers are named after what they are of.
RENAMED = {"spread/output": "output/sample_spread", "spread/target": "target/sample_spread"}


def with_value(value: float, *shape: int) -> Tensor:
    x = torch.randn(shape)
    x.view(-1)[0] = value
    return x


def sparse() -> Tensor:
    layer = nn.Embedding(6, 3, sparse=True)
    layer(torch.tensor([1, 1, 4])).sum().backward()
    assert layer.weight.grad is not None
    return layer.weight.grad


INPUTS: dict[str, Callable[[], Tensor]] = {
    "usual": lambda: torch.randn(4, 3),
    "NaN": lambda: with_value(math.nan, 4, 3),
    "inf": lambda: with_value(math.inf, 4, 3, 5, 5),
    "minus inf": lambda: with_value(-math.inf, 90, 70),
    "all NaN": lambda: torch.full((4, 3), math.nan),
    "zeros": lambda: torch.zeros(4, 3),
    "huge": lambda: torch.full((4, 3), 3e38),
    "tiny": lambda: torch.full((4, 3), 1e-44),
    "empty": lambda: torch.empty(0, 3),
    "no units": lambda: torch.empty(4, 0),
    "one dimension": lambda: torch.randn(5),
    "scalar": lambda: torch.tensor(0.5),
    "five dimensions": lambda: torch.randn(2, 3, 2, 2, 2),
    "bf16": lambda: torch.randn(4, 3).bfloat16(),
    "fp16": lambda: torch.randn(4, 3).half(),
    "float64": lambda: torch.randn(4, 3).double(),
    "complex": lambda: torch.randn(4, 3, dtype=torch.complex64),
    "conjugate": lambda: torch.randn(4, 3, dtype=torch.complex64).conj(),
    "sparse": sparse,
    "expanded": lambda: torch.randn(1, 3).expand(4, 3),
    "transposed": lambda: torch.randn(3, 4).t(),
    "channels last": lambda: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "with graph": lambda: torch.randn(4, 3, requires_grad=True) * 2,
    "leaf": lambda: torch.randn(4, 3, requires_grad=True),
}


def called(function: Function, unit_dim: int, x: Tensor) -> Call:
    """Return a call of a function with `x`."""
    call = (function.name, function.name, function.kind, unit_dim, x)
    if function.kind != "loss":
        return Call(*call)
    target = x.detach().clone()
    if function.name in INDEX_LOSSES:
        samples = x.shape[:1] if x.dim() > 1 else ()
        target = torch.zeros(samples + x.shape[2:], dtype=torch.long, device="cpu")
    return LossCall(*call, target=target)


def observed(measure: Measure, x: Tensor) -> Iterator[Columns | None]:
    """Show `x` to a measure in every way that a run would."""
    if isinstance(measure, GradientMeasure):
        yield measure.observe([x, None])
        yield measure.observe([x], torch.tensor(1024.0, device="cpu", dtype=torch.float32))
    elif isinstance(measure, UpdateMeasure):
        yield measure.observe([x.detach().clone()], [x])
    elif isinstance(measure, (WeightMeasure, DuplicateMeasure, ReplicaMeasure)):
        yield measure.observe([x])
    elif isinstance(measure, GradientPairMeasure):
        pair = sample([x])
        yield None if pair is None else measure.observe(pair.clone(), pair)
    elif isinstance(measure, NoiseScaleMeasure):
        square = spread_square_sum(x)
        yield measure.observe([square, square], [4.0, 8.0], square * 3, device=x.device)
    elif isinstance(measure, FilterMeasure):
        yield measure.observe(kernels(x)) if x.dim() == 4 else None
    elif isinstance(measure, CallMeasure):
        for function in {f.name: f for f in FUNCTIONS.values() if f.kind in measure.kinds}.values():
            for unit_dim in {-1, 1 if x.dim() > 1 else -1}:
                call = called(function, unit_dim, x)
                yield measure.before(call)
                call.output = x.clone()
                yield measure.after(call)


def numbers(measure: Measure, x: Tensor) -> list[str]:
    """Return all that a measure says of `x`, as text: NaN equals NaN there."""
    found = []
    with torch.no_grad():
        for columns in observed(measure, x):
            if columns is None:
                found.append("None")
                continue
            places = [f"p{i}" for i in range(len(columns.sums))]
            summary = measure.summarise(places, columns.sums.cpu(), columns.maxima.cpu())
            assert set(summary) <= set(measure.outputs)
            assert not columns.sums.requires_grad
            # replicas that hold a NaN are told by it
            assert isinstance(measure, ReplicaMeasure) or not columns.maxima.isnan().any()
            found.append(str((columns.sums.tolist(), columns.maxima.tolist(), summary)))
    return found


def fingerprint(x: Tensor) -> str:
    values = (x.to_dense() if x.is_sparse else x).detach().resolve_conj()
    values = torch.view_as_real(values) if x.is_complex() else values
    layout = x._nnz() if x.is_sparse else x.stride()
    grad = x.grad if x.is_leaf else None
    return str((values.tolist(), x._version, layout, x.requires_grad, x.is_conj(), grad))


@pytest.mark.parametrize("kind", INPUTS)
def test_no_gradient_makes_its_squares_raise(kind: str) -> None:
    x = INPUTS[kind]()
    columns, full = squares([None, x]), GradientMeasure().observe([None, x])
    torch.testing.assert_close(columns.sums[:, 0], full.sums[:, 0], equal_nan=True)
    assert columns.sums[:, 1].tolist() == [0.0, 1.0]


def every_class(base: type) -> Iterator[type]:
    classes: list[type] = base.__subclasses__()
    for cls in classes:
        yield cls
        yield from every_class(cls)


def test_all_measures_are_held_to_this() -> None:
    concrete = {
        cls
        for cls in every_class(Measure)
        if not inspect.isabstract(cls) and cls.__module__.startswith("lightning_diag.")
    }
    assert concrete == {type(measure) for measure in MEASURES}


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: type(measure).__name__)
@pytest.mark.parametrize("kind", INPUTS)
def test_no_input_makes_a_measure_raise_or_is_changed_by_it(measure: Measure, kind: str) -> None:
    x = INPUTS[kind]()
    before, random = fingerprint(x), torch.get_rng_state()
    found = numbers(measure, x)
    assert found
    assert fingerprint(x) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert numbers(measure, x) == found


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: type(measure).__name__)
@pytest.mark.parametrize("kind", ["usual", "bf16", "NaN", "channels last"])
def test_the_users_settings_change_no_number(measure: Measure, kind: str) -> None:
    """Default types and devices and autocast are those of the training, not of the watching."""
    x = INPUTS[kind]()
    expected = numbers(measure, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert numbers(measure, x) == expected
    with torch.device("meta"):
        assert numbers(measure, x) == expected
    torch.set_default_dtype(torch.float16)
    try:
        assert numbers(measure, x) == expected
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: type(measure).__name__)
def test_nothing_that_was_looked_at_is_kept(measure: Measure) -> None:
    import gc
    import weakref

    x = torch.randn(4, 3)
    reference = weakref.ref(x)
    numbers(measure, x)
    del x
    gc.collect()
    assert reference() is None


def documented(root: Path) -> set[str]:
    rows = (root / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    named = (re.findall(r"`(\w+/\w+)`", row.split("|")[1]) for row in rows if row.startswith("| `"))
    return {metric for metrics in named for metric in metrics}


def test_outputs_are_those_of_the_architecture(root: Path) -> None:
    table = documented(root)
    ours = {f"{measure.name}/{output}" for measure in MEASURES for output in measure.outputs}
    assert set(RENAMED.values()) <= table
    ours -= RENAMED.keys()
    names = {measure.name for measure in MEASURES}
    assert {metric for metric in table if metric.split("/")[0] in names} == ours | DERIVED
    assert not (ours | RENAMED.keys()) & DERIVED


def test_what_measures_do_not_give_a_monitor_does() -> None:
    package = Path(lightning_diag.__file__).parent
    files = [*package.glob("monitors/*.py"), package / "measure" / "classes.py"]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    missing = [metric for metric in sorted(DERIVED) if f'"{metric}"' not in source]
    assert [metric for metric in missing if metric not in RENAMED.values()] == []
    assert 'f"{whose}/sample_spread"' in source


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: type(measure).__name__)
def test_every_output_is_explained(measure: Measure) -> None:
    assert measure.outputs
    for output, meaning in measure.outputs.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", output)
        assert len(meaning) > 15
        assert ("fraction" in output) == ("0 to 1" in meaning)
