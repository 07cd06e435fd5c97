"""Which calls of a forward pass are seen, and under which names (P18)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from spy import Block, Net, Spy, attached, places, watch_of, watching
from torch import Tensor, nn
from torch.nn import functional

from lightning_diag.measure.base import Call, CallMeasure, Columns
from lightning_diag.measure.dead_relu import FiredMeasure
from lightning_diag.probe.watch import CallWatch


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """P17: after any of these tests, nothing is attached to anything."""
    before = attached()
    yield
    assert attached() == before


def test_places_are_module_function_and_index() -> None:
    net = Net()
    assert places(net, lambda: net(torch.randn(3, 4))) == [
        "body.0.act/relu#0",
        "body.0/tanh#0",
        "body.1.act/relu#0",
        "body.1/tanh#0",
        "shared/relu#0",
        "relu#0",
        "shared/relu#1",
        "relu#1",
        "sigmoid#0",
    ]


def test_a_relu_used_twice_has_two_places() -> None:
    """P18: the second call is not lost."""
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu)
    assert places(net, lambda: net(torch.randn(3, 2))) == ["1/relu#0", "1/relu#1"]


def test_every_forward_pass_counts_from_zero() -> None:
    net = Net()
    with watching(net, spy := Spy()) as watch:
        net(torch.randn(3, 4))
        watch.start()
        net(torch.randn(3, 4))
    assert spy.after_calls[:9] == spy.after_calls[9:]


def test_calls_beside_all_modules_belong_to_the_root() -> None:
    """As in a training_step, which is not called as a module."""
    net = Net()

    def training_step() -> Tensor:
        return functional.relu(net.first.lin(torch.randn(3, 4))).tanh()

    assert places(net, training_step) == ["relu#0", "tanh#0"]


def test_layers_are_places_too() -> None:
    net = Net()
    assert places(net, lambda: net(torch.randn(3, 4)), "layer") == [
        "body.0.lin/linear#0",
        "body.1.lin/linear#0",
    ]


def test_a_module_that_has_no_name_belongs_to_who_calls_it() -> None:
    class Anonymous(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(nn.ReLU()(x))

    net = nn.Sequential(nn.Linear(4, 4), Anonymous())
    assert places(net, lambda: net(torch.randn(3, 4))) == ["1/relu#0"]


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ReLU()
        self.head = nn.Softmax(dim=1)

    def forward(self, *, features: Tensor) -> dict[str, Any]:
        hidden = self.inner(input=features)
        return {"hidden": (hidden, [functional.relu(input=hidden)]), "p": self.head(hidden)}


def test_keywords_and_nested_outputs() -> None:
    net = Keywords()
    found = places(net, lambda: net(features=torch.randn(3, 4)))
    assert found == ["inner/relu#0", "relu#0", "head/softmax#0"]


def test_functional_call_runs_the_same_places() -> None:
    net = Net()
    weights = {name: p * 2 for name, p in net.named_parameters()}
    run = lambda: torch.func.functional_call(net, weights, (torch.randn(3, 4),))  # noqa: E731
    assert places(net, run) == places(net, lambda: net(torch.randn(3, 4)))


# Exceptions --------------------------------------------------------------------------------------


class Fragile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bad = Block()
        self.good = Block()
        self.where = "inside"

    def forward(self, x: Tensor) -> Tensor:
        try:
            self.bad(x[:, :2] if self.where == "inside" else x)
        except (RuntimeError, ValueError):
            x = functional.relu(x)
        return torch.as_tensor(self.good(x))


def refuse(*_: Any) -> None:
    raise ValueError


@pytest.mark.parametrize("where", ["inside", "pre-hook", "hook"])
def test_names_are_right_again_after_an_exception(where: str) -> None:
    net = Fragile()
    net.where = where
    if where == "pre-hook":
        net.bad.register_forward_pre_hook(refuse)
    elif where == "hook":
        net.bad.register_forward_hook(refuse)
    spy = Spy()
    with watching(net, spy):
        net(torch.randn(3, 4))
    assert spy.after_calls[-3:] == ["relu#0", "good.act/relu#0", "good/tanh#0"]


def test_an_exception_leaves_nothing_attached() -> None:
    net, before = Net(), attached()
    with pytest.raises(RuntimeError), watching(net, Spy()):
        net(torch.randn(3, 5))
    assert attached() == before


def test_stopping_again_and_at_any_time_is_safe() -> None:
    watch, before = watch_of(Net(), Spy()), attached()
    watch.stop()
    watch.resume()
    assert attached() == before
    for begin in (watch.start, watch.resume):
        begin()
        begin()
        assert attached() == before._replace(modes=before.modes + 1)
        watch.pause()
        watch.pause()
        assert attached() == before
    watch.stop()
    watch.stop()
    watch.resume()
    assert attached() == before


def test_a_paused_watch_sees_nothing() -> None:
    net = Net()
    with watching(net, spy := Spy()) as watch:
        watch.pause()
        net(torch.randn(3, 4))
        assert spy.after_calls == []
        watch.resume()
        net.body(torch.randn(3, 4))
    assert spy.after_calls[0] == "body.0.act/relu#0"


# Measures ----------------------------------------------------------------------------------------


def test_measures_see_the_kinds_that_they_name() -> None:
    net = Net()
    assert places(net, lambda: net(torch.randn(3, 4)), "sigmoid") == ["sigmoid#0"]
    assert places(net, lambda: net(torch.randn(3, 4)), "softmax") == []


class Sometimes(Spy):
    """Has its turn when told, and counts how often it is asked."""

    def __init__(self, *kinds: str) -> None:
        super().__init__(*kinds)
        self.turn = True
        self.asked = 0

    def is_due(self) -> bool:
        self.asked += 1
        return self.turn


def test_a_measure_that_is_not_due_is_asked_once_a_pass_and_shown_nothing() -> None:
    net = Net()
    seldom, always = Sometimes("layer", "relu"), Spy("relu")
    watch = watch_of(net, seldom, always)
    for turn in (True, False, True):
        seldom.turn = turn
        watch.start()
        net(torch.randn(3, 4))
        watch.stop()
    assert seldom.asked == 3
    assert seldom.before_calls.count("body.0.lin/linear#0") == 2
    assert seldom.after_calls.count("shared/relu#1") == 2
    assert always.after_calls.count("shared/relu#1") == 3


def test_layers_that_nobody_looks_at_still_tell_how_units_lie() -> None:
    """The activation after a linear layer counts units last, after a convolution in the middle."""
    dims: list[int] = []

    class Units(Spy):
        def after(self, call: Call) -> Columns | None:
            dims.append(call.unit_dim)
            return None

    layers = Sometimes("layer")
    for turn in (True, False):
        layers.turn = turn
        watch = watch_of(net := nn.Sequential(nn.Linear(4, 4), nn.ReLU()), layers, Units("relu"))
        watch.start()
        net(torch.randn(2, 3, 4))
        watch.stop()
        watch = watch_of(net := nn.Sequential(nn.Conv1d(3, 5, 1), nn.ReLU()), layers, Units("relu"))
        watch.start()
        net(torch.randn(2, 3, 4))
        watch.stop()
    assert dims == [-1, 1, -1, 1]


def test_columns_go_to_the_sink_and_what_raises_through_the_guard() -> None:
    def look(measure: CallMeasure, observe: Any, call: Call) -> Columns | None:
        try:
            return observe(call)  # type: ignore[no-any-return]
        except ZeroDivisionError:
            return None

    class Bad(Spy):
        def after(self, call: Call) -> Columns | None:
            raise ZeroDivisionError

    found: list[tuple[str, str]] = []
    watch = CallWatch(
        {},
        [Bad(), FiredMeasure()],
        lambda measure, call, _: found.append((measure.name, call.place)),
        look,
    )
    watch.start()
    try:
        assert torch.relu(torch.tensor([[-1.0, 2.0]])).tolist() == [[0.0, 2.0]]
    finally:
        watch.stop()
    assert found == [("dead_relu", "relu#0")]


def test_sites_are_remembered_with_their_functions() -> None:
    net = Net()
    with watching(net, Spy()) as watch:
        net(torch.randn(3, 4))
        watch.start()
        net(torch.randn(3, 4))
    kinds = {place: function.kind for place, function in watch.sites.items()}
    assert kinds["shared/relu#1"] == "relu"
    assert kinds["body.1/tanh#0"] == "tanh"
    assert kinds["body.0.lin/linear#0"] == "layer"
    assert list(kinds)[:2] == ["body.0.lin/linear#0", "body.0.act/relu#0"]


def test_the_error_of_a_watched_function_is_its_own() -> None:
    with pytest.raises(IndexError, match="Dimension out of range"), watching(nn.Module(), Spy()):
        functional.softmax(torch.ones(2, 2), dim=7)
    with watching(nn.Module(), Spy()):
        assert math.isnan(float(torch.relu(torch.tensor(math.nan))))
