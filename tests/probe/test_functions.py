"""Which functions are watched, and as what: every way to call an activation of torch (P18)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import activation
from torch.overrides import TorchFunctionMode

from lightning_diag.measure.activation import SATURATION
from lightning_diag.probe.functions import FUNCTIONS, OPERANDS, UNITS_LAST, Function, lookup

KINDS = {
    "relu", "leaky", "sigmoid", "tanh", "hard", "softmax", "smooth",
    "cell", "layer", "norm", "direction", "loss",
}  # fmt: skip
LOSSES = {function.name for function in FUNCTIONS.values() if function.kind == "loss"}
# Modules of torch.nn.modules.activation that are not watched, and why.
UNWATCHED = {
    "GLU": "gates one half of its input with the other",
    "Hardshrink": "flat around 0, not far from it",
    "Softshrink": "flat around 0, not far from it",
    "Tanhshrink": "flat around 0, not far from it",
    "Softmin": "calls softmax from within a function that hides it",
    "Threshold": "any threshold and any value",
    "MultiheadAttention": "fused",
}
MODULES: list[tuple[nn.Module, str, str]] = [
    (nn.ReLU(), "relu", "relu"),
    (nn.ReLU(inplace=True), "relu", "relu"),
    (nn.LeakyReLU(), "leaky_relu", "leaky"),
    (nn.LeakyReLU(inplace=True), "leaky_relu", "leaky"),
    (nn.ELU(), "elu", "leaky"),
    (nn.ELU(inplace=True), "elu", "leaky"),
    (nn.CELU(), "celu", "leaky"),
    (nn.CELU(inplace=True), "celu", "leaky"),
    (nn.SELU(), "selu", "leaky"),
    (nn.SELU(inplace=True), "selu", "leaky"),
    (nn.RReLU(), "rrelu", "leaky"),
    (nn.RReLU(inplace=True), "rrelu", "leaky"),
    (nn.PReLU(), "prelu", "leaky"),
    (nn.Sigmoid(), "sigmoid", "sigmoid"),
    (nn.Tanh(), "tanh", "tanh"),
    (nn.Hardtanh(), "hardtanh", "hard"),
    (nn.Hardtanh(inplace=True), "hardtanh", "hard"),
    (nn.ReLU6(), "relu6", "hard"),
    (nn.ReLU6(inplace=True), "relu6", "hard"),
    (nn.Hardsigmoid(), "hardsigmoid", "hard"),
    (nn.Hardswish(), "hardswish", "hard"),
    (nn.Hardswish(inplace=True), "hardswish", "hard"),
    (nn.Softsign(), "softsign", "hard"),
    (nn.Softmax(dim=1), "softmax", "softmax"),
    (nn.LogSoftmax(dim=1), "log_softmax", "softmax"),
    (nn.Softmax2d(), "softmax", "softmax"),
    (nn.GELU(), "gelu", "smooth"),
    (nn.GELU(approximate="tanh"), "gelu", "smooth"),
    (nn.SiLU(), "silu", "smooth"),
    (nn.SiLU(inplace=True), "silu", "smooth"),
    (nn.Mish(), "mish", "smooth"),
    (nn.Mish(inplace=True), "mish", "smooth"),
    (nn.Softplus(), "softplus", "smooth"),
    (nn.LogSigmoid(), "logsigmoid", "smooth"),
]


class Seen(TorchFunctionMode):
    """Notes what is watched, as the real watch does."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Function] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = lookup(func, args, kwargs or {})
        if found is not None:
            self.functions.append(found)
        return func(*args, **(kwargs or {}))


def seen(call: Callable[[], Any]) -> list[tuple[str, str]]:
    with Seen() as mode:
        call()
    return [(function.name, function.kind) for function in mode.functions]


def compared(name: str) -> tuple[Any, ...]:
    """Return what a loss without a target for each prediction needs."""
    if name == "ctc_loss":
        lengths = torch.tensor([4, 4])
        return torch.randn(4, 2, 3).log_softmax(2), torch.ones(2, 2).long(), lengths, lengths // 2
    if name == "multilabel_margin_loss":
        return torch.randn(2, 3), torch.tensor([[0, -1, -1], [2, 1, -1]])
    last = torch.randn(2, 3) if name.startswith("triplet") else torch.tensor([1.0, -1.0])
    shape = (2,) if name == "margin_ranking_loss" else (2, 3)
    return torch.randn(shape), torch.randn(shape), last


def arguments(name: str) -> tuple[Any, ...]:
    """Return what a function of that name needs."""
    x = torch.randn(2, 3)
    if name in ("cross_entropy", "nll_loss", "multi_margin_loss"):
        return x, torch.tensor([0, 2])
    if name in OPERANDS:
        return compared(name)
    if name in LOSSES:
        x = torch.rand(2, 3)  # binary_cross_entropy takes probabilities
        return (x, torch.ones(2, 3), torch.ones(2, 3))[: 3 if name == "gaussian_nll_loss" else 2]
    if name.startswith("conv"):
        dims = int(name[-2])
        return torch.randn(1, 2, *[3] * dims), torch.randn(2, 2, *[1] * dims)
    cell = (torch.zeros(2, 4), torch.randn(4, 3), torch.randn(4, 4))
    extra: dict[str, tuple[Any, ...]] = {
        "linear": (torch.randn(4, 3),),
        "bilinear": (x, torch.randn(4, 3, 3)),
        "prelu": (torch.tensor([0.1]),),
        "softmax": (1,),
        "log_softmax": (1,),
        "batch_norm": (torch.zeros(3), torch.ones(3)),
        "rnn_tanh_cell": cell,
        "rnn_relu_cell": cell,
    }
    return x, *extra.get(name, ())


@pytest.mark.parametrize(("module", "name", "kind"), MODULES, ids=str)
def test_every_activation_module_is_seen_once(module: nn.Module, name: str, kind: str) -> None:
    assert seen(lambda: module(torch.randn(2, 3, 4, 4))) == [(name, kind)]


def test_no_activation_module_of_torch_is_forgotten() -> None:
    known = {type(module).__name__ for module, _, _ in MODULES} | UNWATCHED.keys()
    assert set(activation.__all__) == known


@pytest.mark.parametrize(
    "module",
    [nn.GLU(), nn.Hardshrink(), nn.Softmin(1), nn.Tanhshrink(), nn.Threshold(1, 2)],
    ids=str,
)
def test_what_is_not_watched_is_not_taken_for_something_else(module: nn.Module) -> None:
    assert seen(lambda: module(torch.randn(2, 4, 2, 2))) == []


@pytest.mark.filterwarnings("ignore:reduction. .mean. divides")
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__qualname__)
def test_every_function_is_seen_once_however_it_is_called(function: Any) -> None:
    """As a function, as a method and in place."""
    expected = FUNCTIONS[function]
    inplace = function.__name__.endswith("_")
    args = arguments(expected.name)
    kept = args[0].clone()
    assert seen(lambda: function(*args)) == [(expected.name, expected.kind)]
    assert inplace or torch.equal(args[0], kept)


@pytest.mark.filterwarnings("ignore:reduction. .mean. divides")
@pytest.mark.parametrize("name", sorted({f.name for f in FUNCTIONS.values() if f.kind != "layer"}))
def test_inplace_flags_and_keywords_are_seen_once(name: str) -> None:
    function = getattr(functional, name, None) or getattr(torch, name)
    expected = [(name, lookup(function, (), {}).kind)]  # type: ignore[union-attr]
    first, *rest = arguments(name)
    try:
        parameters = list(inspect.signature(function).parameters)
    except ValueError:  # a builtin says nothing of itself
        parameters = []
    if "inplace" in parameters:
        assert seen(lambda: function(first, *rest, inplace=True)) == expected
    if parameters or not rest:
        keywords = dict(zip(parameters[1:], rest, strict=False))
        given = OPERANDS.get(name, ("input",))[0]
        assert seen(lambda: function(**{given: first}, **keywords)) == expected


def test_old_functions_that_call_methods_are_seen_once() -> None:
    x = torch.randn(3)
    assert seen(lambda: functional.tanh(x)) == [("tanh", "tanh")]
    assert seen(lambda: functional.sigmoid(x)) == [("sigmoid", "sigmoid")]
    assert seen(lambda: torch.special.expit(x)) == [("sigmoid", "sigmoid")]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.clamp(x, 0),
        lambda x: torch.clamp(x, min=0.0),
        lambda x: torch.clamp(input=x, min=0),
        lambda x: torch.clamp_(x, 0),
        lambda x: torch.clip(x, 0),
        lambda x: torch.clip(x, min=0),
        lambda x: torch.clip_(x, 0),
        lambda x: torch.clamp_min(x, 0),
        lambda x: torch.clamp_min_(x, 0.0),
        lambda x: x.clamp(0),
        lambda x: x.clamp(min=0, max=None),
        lambda x: x.clamp_(0),
        lambda x: x.clip(min=0),
        lambda x: x.clip_(0),
        lambda x: x.clamp_min(0),
        lambda x: x.clamp_min_(min=0),
    ],
    ids=range(16),
)
def test_a_clamp_from_below_at_zero_is_a_relu(call: Callable[[Tensor], Tensor]) -> None:
    assert seen(lambda: call(torch.randn(3))) == [("relu", "relu")]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.clamp(0, 6),
        lambda x: x.clamp(min=1e-6),
        lambda x: x.clamp(max=0),
        lambda x: torch.clamp(x, -1, 1),
        lambda x: x.clamp(torch.zeros(3)),
        lambda x: torch.clamp_max(x, 0),
        lambda x: x.clip(None, 0),
    ],
    ids=range(7),
)
def test_other_clamps_are_not(call: Callable[[Tensor], Tensor]) -> None:
    assert seen(lambda: call(torch.randn(3))) == []


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: functional.hardtanh(x, 0.0, 6.0), "relu6"),
        (lambda x: functional.hardtanh(x, min_val=0, max_val=6, inplace=True), "relu6"),
        (lambda x: functional.hardtanh_(x, 0.0, 6.0), "relu6"),
        (lambda x: functional.hardtanh(x, -1, 1), "hardtanh"),
        (lambda x: functional.hardtanh(x, max_val=1.0), "hardtanh"),
        (nn.Hardtanh(-2.0, 2.0), None),
        (lambda x: functional.hardtanh(x, -1.0, 2.0), None),
        (lambda x: functional.hardtanh(x, max_val=4.0), None),
    ],
)
def test_bounds_of_a_hardtanh_say_what_it_is(
    call: Callable[[Tensor], Tensor], name: str | None
) -> None:
    """Other bounds than the usual ones have another flat part: not observed, rather than wrong."""
    expected = [] if name is None else [(name, "hard")]
    assert seen(lambda: call(torch.randn(3))) == expected


def test_kinds_and_names_fit_together() -> None:
    assert {function.kind for function in FUNCTIONS.values()} == KINDS
    assert SATURATION.keys() <= {function.name for function in FUNCTIONS.values()}
    kinds: dict[str, str] = {}
    for function in FUNCTIONS.values():
        assert kinds.setdefault(function.name, function.kind) == function.kind
        assert (function.channels_last is None) == (function.kind != "layer")
    assert not UNITS_LAST & FUNCTIONS.keys()


@pytest.mark.parametrize("function", [torch.add, torch.Tensor.__getitem__, torch.sin, len, print])
def test_other_functions_are_not_watched(function: Any) -> None:
    assert lookup(function, (torch.ones(1),), {}) is None
