"""Watching changes nothing and leaves nothing attached; other modes work as ever (P17, P18)."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from spy import Net, Spy, attached, watch_of, watching
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lightning_diag.measure.base import Columns
from lightning_diag.measure.dead_relu import FiredMeasure
from lightning_diag.probe.watch import CallWatch, _get_current_function_mode_stack


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """P17: after any of these tests, nothing is attached to anything."""
    before = attached()
    yield
    assert attached() == before


# In place ----------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x)
        y += x
        return torch.as_tensor(self.relu(y))


def test_an_inplace_relu_after_a_residual_is_seen_before_it_overwrites() -> None:
    """P18: its input holds negative values, and backward still works."""
    net, x = Residual(), torch.randn(5, 4)
    with torch.no_grad():
        expected = functional.linear(x, net.lin.weight) + x
    with watching(net, spy := Spy()):
        net(x).sum().backward()
    assert torch.equal(spy.inputs["relu/relu#0"], expected)
    assert float(expected.min()) < 0
    assert net.lin.weight.grad is not None


def test_a_unit_that_an_inplace_relu_switches_off_is_not_fired() -> None:
    found: list[Columns] = []
    watch = CallWatch(
        {}, [FiredMeasure()], lambda _, __, columns: found.append(columns), lambda _, f, c: f(c)
    )
    watch.start()
    try:
        torch.tensor([[-1.0, 2.0], [-3.0, -4.0]]).relu_()
    finally:
        watch.stop()
    assert [columns.maxima.tolist() for columns in found] == [[[-1.0, 2.0]]]


# Nothing changes ---------------------------------------------------------------------------------


def train(net: nn.Module, *, watched: bool) -> list[Tensor]:
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    watch = watch_of(net, Spy(), FiredMeasure())
    for _ in range(3):
        optimizer.zero_grad()
        if watched:
            watch.start()
        try:
            loss: Tensor = functional.dropout(net(torch.randn(6, 4)), 0.3).square().sum()
        finally:
            watch.stop()
        torch.autograd.backward(loss)
        optimizer.step()
    return [*(p.detach() for p in net.parameters()), torch.get_rng_state()]


def test_training_is_bit_for_bit_the_same() -> None:
    net = Net()
    twin = copy.deepcopy(net)
    for ours, plain in zip(train(net, watched=True), train(twin, watched=False), strict=True):
        assert torch.equal(ours, plain)


def test_a_watched_module_can_be_saved_and_copied() -> None:
    """P17."""
    net = Net()
    before = {name: dict(vars(module)) for name, module in net.named_modules()}
    with watching(net, Spy()):
        net(torch.randn(2, 4))
        pickle.loads(pickle.dumps(net))
        copy.deepcopy(net)(torch.randn(2, 4))
        assert {name: vars(module) for name, module in net.named_modules()} == before


def test_no_tensor_and_no_module_is_kept_alive() -> None:
    net = Net()
    watch = watch_of(net, FiredMeasure())
    watch.start()
    x = torch.randn(3, 4)
    y = net(x)
    alive = [weakref.ref(x), weakref.ref(y), weakref.ref(net)]
    watch.pause()
    del x, y, net
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3
    watch.stop()


# Other modes -------------------------------------------------------------------------------------


class Other(TorchFunctionMode):
    """Somebody else's mode, which counts the functions that reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.relus = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.relus += func is torch.relu
        return func(*args, **(kwargs or {}))


def test_modes_entered_before_and_within_see_their_calls() -> None:
    net, spy = nn.Module(), Spy()
    with Other() as outer:
        with watching(net, spy):
            torch.relu(torch.ones(1))
            with Other() as inner:
                torch.relu(torch.ones(1))
        torch.relu(torch.ones(1))
        assert _get_current_function_mode_stack() == [outer]
    assert spy.after_calls == ["relu#0", "relu#1"]
    assert (outer.relus, inner.relus) == (3, 1)


def test_a_mode_entered_within_and_left_after_us_stays_until_then() -> None:
    net, spy, other = nn.Module(), Spy(), Other()
    watch = watch_of(net, spy)
    watch.start()
    with other:
        watch.pause()
        torch.relu(torch.ones(1))
        assert _get_current_function_mode_stack() == [other]
        watch.resume()
        torch.relu(torch.ones(1))
        watch.stop()
        torch.relu(torch.ones(1))
        assert _get_current_function_mode_stack() == [other]
    assert other.relus == 3
    assert spy.after_calls == ["relu#0"]


def test_devices_as_contexts_and_defaults_work_as_ever() -> None:
    net, spy = nn.Module(), Spy()
    with torch.device("meta"):
        with watching(net, spy):
            assert torch.ones(1).device.type == "meta"
            with torch.device("cpu"):
                torch.relu(torch.ones(1))
            assert torch.ones(1).device.type == "meta"
        assert torch.ones(1).device.type == "meta"
    torch.set_default_device("meta")
    try:
        with watching(net, spy):
            assert torch.ones(1).device.type == "meta"
            torch.set_default_device("cpu")
            torch.relu(torch.ones(1))
    finally:
        torch.set_default_device(None)
    assert spy.after_calls == ["relu#0", "relu#0"]
