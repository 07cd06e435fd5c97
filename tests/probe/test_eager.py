"""When a watched step runs compiled modules eagerly, and when it lets them be (P8)."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo

from lightning_diag.probe import eager
from lightning_diag.probe.eager import EagerStep

GIB = 2**30


def stance() -> str:
    return str(torch._dynamo.eval_frame._stance.stance)


def device(monkeypatch: pytest.MonkeyPatch, memory: tuple[float, float, float, float]) -> None:
    """Put in a device with so many GiB free, held by torch, in use now, and at most so far."""
    free, reserved, now, peak = memory
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        mem_get_info=lambda: (int(free * GIB), 80 * GIB),
        memory_reserved=lambda: int(reserved * GIB),
        memory_allocated=lambda: int(now * GIB),
        max_memory_allocated=lambda: int(peak * GIB),
    )
    monkeypatch.setattr(eager, "torch", SimpleNamespace(cuda=cuda, compiler=torch.compiler))


def test_compiled_modules_run_eagerly_in_between_and_compiled_again_after() -> None:
    step, before = EagerStep("eager"), stance()
    assert step.allowed()
    step.start()
    step.start()
    assert stance() == "force_eager"
    step.stop()
    step.stop()
    assert stance() == before == "default"


def test_a_stance_that_the_user_took_comes_back() -> None:
    with torch.compiler.set_stance("eager_on_recompile"):
        step = EagerStep("eager")
        step.start()
        assert stance() == "force_eager"
        step.stop()
        assert stance() == "eager_on_recompile"


def test_compiled_code_runs_again_after_an_eager_step_without_a_new_compilation() -> None:
    compilations: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    double = torch.compile(lambda x: x * 2, backend=backend)
    step = EagerStep("eager")
    for _ in range(3):
        assert float(double(torch.ones(()))) == 2.0
        step.start()
        assert float(double(torch.ones(()))) == 2.0
        step.stop()
    assert len(compilations) == 1


def test_where_nothing_can_be_compiled_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the compiler takes seconds."""
    monkeypatch.delitem(sys.modules, "torch._dynamo")
    for choice in ("eager", "leave"):
        step = EagerStep(choice)
        assert step.allowed()
        step.start()
        assert "torch._dynamo" not in sys.modules
        step.stop()


def test_compiled_modules_are_let_be_if_the_user_says_so() -> None:
    assert not EagerStep("leave").allowed()


def test_an_older_torch_cannot_switch_and_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.compiler, "set_stance")
    assert not EagerStep("eager").allowed()


@pytest.mark.parametrize(
    ("memory", "fits"),
    [
        # a step needed 10 GiB above the 2 that stay: an eager one may need 20
        ((21.0, 12.0, 2.0, 12.0), True),
        ((10.0, 12.0, 2.0, 12.0), True),
        ((9.9, 12.0, 2.0, 12.0), False),
        ((0.0, 22.0, 2.0, 12.0), True),
        ((0.0, 12.0, 2.0, 12.0), False),
        # before the first step nothing is known, and nothing is in the way
        ((0.0, 2.0, 2.0, 2.0), True),
    ],
)
def test_an_eager_step_that_may_not_fit_is_not_tried(
    monkeypatch: pytest.MonkeyPatch, memory: tuple[float, float, float, float], fits: bool
) -> None:
    """Memory that torch holds and does not use counts as free."""
    device(monkeypatch, memory)
    assert EagerStep("eager").allowed() is fits


def test_a_device_that_nobody_uses_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking would start it."""
    cuda = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: False)
    monkeypatch.setattr(eager, "torch", SimpleNamespace(cuda=cuda, compiler=torch.compiler))
    assert EagerStep("eager").allowed()
