"""Compiled models: the same numbers, and compiled code that nobody notices us in (P8, P42)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from runs import Classifier, all_monitors, data, history, seeded, trainer
from torch import nn
from torch._dynamo.utils import counters

from lightning_diag import ActivationMonitor
from lightning_diag.history import History
from lightning_diag.probe import eager
from lightning_diag.probe.eager import EagerStep


class Plain(nn.Module):
    """No dropout: its random stream is the one thing that an eager step may change."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return three logits a sample."""
        out: torch.Tensor = self.head(torch.relu(self.body(x)))
        return out


def eager_net() -> nn.Module:
    return Plain()


def wrapped() -> nn.Module:
    """Return a module inside another: the names of its parameters begin with ``_orig_mod``."""
    net: Any = torch.compile(Plain(), backend="aot_eager")
    assert isinstance(net, nn.Module)
    return net


def in_place() -> nn.Module:
    net = Plain()
    net.compile(backend="aot_eager")
    return net


def part() -> nn.Module:
    net = Plain()
    net.body = torch.compile(net.body, backend="aot_eager")  # type: ignore[assignment]
    return net


FORMS: list[Callable[[], nn.Module]] = [wrapped, in_place, part]
forms = pytest.mark.parametrize("make", FORMS, ids=lambda make: make.__name__)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def run(make: Callable[[], nn.Module], callbacks: list[Any], **options: Any) -> Classifier:
    def build() -> Classifier:
        module = Classifier(make(), lambda p: torch.optim.SGD(p, 0.1))
        trainer(*callbacks, **{"max_epochs": 4, **options}).fit(module, data())
        return module

    result: Classifier = seeded(build)
    return result


def graphs() -> tuple[int, Counter[str]]:
    """Return how many graphs were compiled, and the breaks between them."""
    return counters["stats"]["unique_graphs"], counters["graph_break"].copy()


SOME_STEPS: dict[str, Any] = {"every_n_steps": 8, "max_overhead": 1e9}


@forms
def test_compiled_run_gives_the_numbers_and_names_of_the_eager_one(
    make: Callable[[], nn.Module],
) -> None:
    """P8, P42: keys without the compiler's prefixes, values equal up to rounding."""
    run(eager_net, all_monitors(**SOME_STEPS))
    run(make, all_monitors(**SOME_STEPS))
    plain, compiled = History.open("lightning_diag"), History.open("lightning_diag-1")
    assert compiled.steps == plain.steps
    for metric in plain.metrics():
        if metric.startswith(("step_time", "overhead", "data/wait")):
            continue
        assert compiled.places(metric) == plain.places(metric)
        for place in plain.places(metric):
            expected = list(plain.series(metric, place).values)
            found = list(compiled.series(metric, place).values)
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-6), (metric, place)
    assert "net.body.1/relu#0" in plain.places("activation/mean")
    assert "net/relu#0" in plain.places("activation/mean")


@forms
def test_unwatched_steps_compile_nothing_and_break_nothing(make: Callable[[], nn.Module]) -> None:
    """P8: as many graphs, and as many breaks, as without us."""
    run(make, [])
    bare = graphs()
    torch._dynamo.reset()
    counters.clear()
    run(make, all_monitors(**SOME_STEPS))
    assert bare[0] > 0
    assert graphs() == bare


@forms
def test_compiled_training_ends_as_without_up_to_rounding(make: Callable[[], nn.Module]) -> None:
    """A watched step runs eagerly, so its rounding is eager's."""
    bare = run(make, []).state_dict()
    watched = run(make, all_monitors(**SOME_STEPS)).state_dict()
    for name, value in bare.items():
        assert torch.allclose(watched[name], value, rtol=1e-4, atol=1e-6), name


@forms
def test_left_compiled_is_bit_for_bit_and_does_not_see_inside(
    make: Callable[[], nn.Module],
) -> None:
    """``compiled_models="leave"``: nothing changes, calls are not observed, gradients are."""
    bare = run(make, []).state_dict()
    compiled = graphs()
    torch._dynamo.reset()
    counters.clear()
    watched = run(make, all_monitors(compiled_models="leave", **SOME_STEPS)).state_dict()
    assert all(torch.equal(watched[name], value) for name, value in bare.items())
    assert graphs() == compiled
    found = history()
    assert "activation/mean" not in found.metrics()
    assert found.places("gradient/norm")[0] == "net.body.0.weight"


def test_short_memory_leaves_the_step_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eager step needs more memory than a compiled one: without it, calls go unobserved."""
    monkeypatch.setattr(eager, "_short_of_memory", lambda: True)
    run(wrapped, [ActivationMonitor(**SOME_STEPS)])
    assert "activation/mean" not in history().metrics()


def test_stance_is_put_back() -> None:
    """Also when the user had one, and when stopped twice."""
    step = EagerStep("eager")
    torch.compiler.set_stance("eager_on_recompile")
    try:
        step.start()
        step.start()
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
        step.stop()
        step.stop()
        assert torch._dynamo.eval_frame._stance.stance == "eager_on_recompile"
    finally:
        torch.compiler.set_stance("default")
