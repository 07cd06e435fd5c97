"""Calls that belong to training are counted, each once, and no others are (P18)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torchmetrics
from spy import Block, Net, Spy, attached, places, watching
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """P17: after any of these tests, nothing is attached to anything."""
    before = attached()
    yield
    assert attached() == before


class Training(nn.Module):
    """A student, its teacher, a metric."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Block()
        self.teacher = Block()
        self.metric = torchmetrics.Accuracy("binary", validate_args=False)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_a_teacher_without_gradients_is_not_counted(off: Callable[[], Any], mode: str) -> None:
    """Whatever its mode: momentum encoders are left in training mode."""
    net = Training()
    net.teacher.train(mode == "train").requires_grad_(requires_grad=False)

    def step() -> None:
        with off():
            target = net.teacher(torch.randn(3, 4))
        functional.mse_loss(net.student(torch.randn(3, 4)), target.clone())

    assert places(net, step) == ["student.act/relu#0", "student/tanh#0"]
    assert places(net, step, "layer") == ["student.lin/linear#0"]


def test_a_teacher_inside_of_the_module_that_trains_is_not_counted() -> None:
    """As under DDP, which calls the whole training step as a module's forward."""
    net = Training()

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            net.teacher(x)
            functional.softmax(x, dim=1)
        return torch.as_tensor(net.student(x))

    net.forward = forward
    assert places(net, lambda: net(torch.randn(3, 4))) == ["student.act/relu#0", "student/tanh#0"]


def test_metrics_are_not_counted() -> None:
    net = Training()
    target = torch.tensor([0, 1, 1])

    def step() -> None:
        logits = net.student(torch.randn(3, 4)).sum(1) * 9
        net.metric(logits, target)
        net.metric.update(logits, target)
        net.metric.compute()
        torchmetrics.functional.accuracy(logits.detach(), target, "binary")

    found = places(net, step)
    assert found[:2] == ["student.act/relu#0", "student/tanh#0"]
    assert not [place for place in found if place.startswith("metric")]


def test_inference_tensors_are_no_trouble() -> None:
    """They have no version, by which a change in place would show."""
    net = Training()
    net.student.requires_grad_(requires_grad=False)
    with torch.inference_mode():
        features = torch.randn(3, 4)
    from lightning_diag.measure.activation import OutputMeasure, VarianceGainMeasure

    for measure in (OutputMeasure(), VarianceGainMeasure()):
        with watching(net, measure) as watch:
            net.student(features)
            functional.relu(features)
        assert list(watch.sites) == ["student.act/relu#0", "student/tanh#0"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(6).view(2, 3),
        lambda: torch.randn(2, 3, device="meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)]),
        lambda: torch.randn(2, 3).as_subclass(type("Image", (Tensor,), {})),
    ],
    ids=["integers", "meta", "sparse", "nested", "subclass"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
def test_tensors_that_cannot_be_looked_at_are_left_alone(make: Callable[[], Tensor]) -> None:
    assert places(nn.Module(), lambda: torch.relu(make())) == []


def test_functions_of_transforms_are_left_alone() -> None:
    net = Net()
    x = torch.randn(3, 4)

    def loss(row: Tensor) -> Tensor:
        return torch.relu(net.first.lin(row)).sum()

    def step() -> None:
        torch.vmap(loss)(x)
        torch.func.grad(loss)(x)
        torch.func.jacrev(loss)(x)
        torch.relu(x)

    assert places(net, step) == ["relu#0"]


# Checkpointing -----------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool, function: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.reentrant = reentrant
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            run = (lambda x, b=block: torch.sigmoid(b(x))) if self.function else block
            x = checkpoint(run, x, use_reentrant=self.reentrant)
        return functional.gelu(x)


@pytest.mark.parametrize("function", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("paused", [False, True])
def test_checkpointed_calls_are_counted_once(reentrant: bool, function: bool, paused: bool) -> None:
    """P18: what backward recomputes is no new call, also where nobody says that it begins."""
    net = Checkpointed(reentrant=reentrant, function=function)
    spy = Spy()
    with watching(net, spy) as watch:
        loss = net(torch.randn(3, 4)).sum()
        if paused:
            watch.pause()
        loss.backward()
        watch.resume()
        torch.tanh(loss)
    own = ["sigmoid#0"] if function else []
    second = ["sigmoid#1"] if function else []
    assert spy.after_calls == [
        "blocks.0.act/relu#0",
        "blocks.0/tanh#0",
        *own,
        "blocks.1.act/relu#0",
        "blocks.1/tanh#0",
        *second,
        "gelu#0",
        "tanh#0",
    ]


def test_checkpointing_that_the_training_step_calls_is_counted_once() -> None:
    net = Net()

    def step() -> None:
        x = torch.randn(3, 4, requires_grad=True)
        checkpoint(net.body[0], x, use_reentrant=True).sum().backward()

    assert places(net, step) == ["body.0.act/relu#0", "body.0/tanh#0"]
