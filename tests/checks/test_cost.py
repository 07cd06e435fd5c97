"""What training takes, in memory and time, is estimated from a few steps of a copy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from checks.subjects import HEALTHY, Plain, loader, made, mlp, numbers, table
from lightning_diag.before_training import subject
from lightning_diag.checks import Subject, run
from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.footprint import SavedBytes, bytes_of
from lightning_diag.checks.pace import device_peak, estimate_of
from lightning_diag.checks.short_memory import ShortMemory, ran_out

WIDTHS = (8, 16, 16, 3)
FLOAT = 4


def linear(*widths: int) -> nn.Sequential:
    """Return linear layers without biases, and nothing in between."""
    pairs = pairwise(widths)
    return nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in pairs])


def summed(x: Tensor, y: Tensor) -> Tensor:
    """Return a loss whose graph keeps no tensor."""
    return x.sum()


# --- memory ---


def test_activations_are_those_that_layers_keep_counted_by_hand() -> None:
    """Each linear layer keeps its input; of 16 samples with 8, 16 and 16 numbers."""
    module, data = Plain(linear(*WIDTHS), summed), table()
    footprint = estimate_of(subject(module, data)).footprint
    weights = FLOAT * (8 * 16 + 16 * 16 + 16 * 3)
    assert footprint.activations == FLOAT * 16 * (8 + 16 + 16)
    assert footprint.weights == footprint.gradients == weights
    # Adam keeps two numbers a weight, and the count of its steps for each of three parameters.
    assert footprint.optimizer == 2 * weights + 3 * FLOAT
    assert footprint.total == 4 * weights + 3 * FLOAT + footprint.activations


def test_a_tensor_that_two_operations_keep_counts_once() -> None:
    x = torch.ones(100, requires_grad=True)
    count = SavedBytes([x])
    with count.counting():
        y = x.exp()  # keeps its result
        loss = (y * y[:50].sum()).sum()  # keeps the same memory again, and a scalar
    assert count.peak == 400 + FLOAT
    loss.backward()
    del loss, y
    assert count.now == 0


def test_what_is_kept_for_one_backward_pass_after_the_other_does_not_add_up() -> None:
    count = SavedBytes()
    with count.counting():
        for _ in range(3):
            torch.ones(100, requires_grad=True).exp().sum().backward()
    assert count.peak < 3 * 400


def test_frozen_weights_have_neither_gradients_nor_state() -> None:
    footprint = estimate_of(subject(*made(HEALTHY["frozen backbone"]))).footprint
    assert footprint.gradients == FLOAT * (32 * 3 + 3)
    assert footprint.weights > footprint.gradients


def test_more_is_needed_for_larger_batches() -> None:
    x, y = numbers(128, 8), torch.zeros(128).long()
    small, large = (
        estimate_of(subject(Plain(linear(8, 3), summed), loader(x, y, batch_size=n))).footprint
        for n in (16, 64)
    )
    assert large.activations == 4 * small.activations
    assert large.optimizer == small.optimizer


def test_training_that_does_not_fit_is_found_and_one_that_just_fits_is_not() -> None:
    """The limit is between what copies take and what a step with this batch takes."""
    pair = lambda: (Plain(mlp()), loader(numbers(512, 8), torch.zeros(512).long(), batch_size=512))  # noqa: E731
    need = estimate_of(Subject(*made(pair))).footprint.to_come

    def found(memory: int, fraction: float = 1.0) -> Any:
        return run([ShortMemory(fraction)], Subject(*made(pair), memory=memory)).findings

    assert found(need + 1) == []
    (short,) = found(need - 1)
    assert (short.severity, short.evidence.value) == ("bad", need)
    (close,) = found(need + 1, 0.95)
    assert close.severity == "suspect"


def test_what_copies_take_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are gone when training begins: weights and gradients of one, weights of the other."""
    module, data = made(HEALTHY["mlp"])
    need = estimate_of(subject(module, data)).footprint.to_come
    copies = 3 * bytes_of(module.parameters())
    home = "lightning_diag.checks.short_memory.free_bytes"
    for free, found in ((need - copies + 1, 0), (need - copies - 1, 1)):
        monkeypatch.setattr(home, lambda device, free=free: free)
        assert len(run([ShortMemory(1.0)], subject(module, data)).findings) == found


def test_a_module_too_large_to_copy_is_found_where_its_gradients_have_no_room() -> None:
    module, data = made(HEALTHY["mlp"])
    gradients = bytes_of(module.parameters())
    (found,) = run([ShortMemory()], Subject(module, data, memory=gradients - 1)).findings
    assert found.evidence.value == gradients
    outcome = run([ShortMemory()], Subject(module, data, memory=gradients + 1))
    assert outcome.findings == []
    assert "copies of the module take" in outcome.not_observed[0].reason


def test_an_error_that_is_not_of_memory_is_no_shortage() -> None:
    why = Unavailable("the step failed")
    why.__cause__ = torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert ran_out(why)
    assert not ran_out(Unavailable("the step failed: KeyError: 'memory'"))


def test_a_peak_of_a_device_below_an_earlier_one_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device's statistics are the user's, and are not reset (P26)."""
    peaks = iter([100, 100, 100, 170])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(peaks))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 40)
    for known in (None, 130):
        with device_peak(torch.device("cuda")) as peak:
            pass
        assert peak() == known


# --- time ---


class Endless(Dataset[Any]):
    """As many samples as it is told."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return torch.randn(8), 0


def days(length: int) -> Any:
    """Return a small module and that many batches of 16."""
    return Plain(mlp()), DataLoader(Endless(16 * length), 16)


def test_an_epoch_is_its_batches_times_a_step() -> None:
    estimate = estimate_of(subject(*days(1000)))
    assert estimate.batches == 1000
    assert estimate.epoch_seconds == 1000 * estimate.step_seconds
    assert 0 < estimate.fastest_seconds <= estimate.step_seconds
    assert "1,000 batches" in estimate.line


def test_the_length_of_a_stream_is_not_known() -> None:
    estimate = estimate_of(subject(*made(HEALTHY["stream"])))
    assert estimate.epoch_seconds is None
    assert estimate.line.startswith("About ")


@pytest.mark.parametrize("kind", ["gan", "two loaders", "tied weights", "configure_model"])
def test_modules_of_all_kinds_can_be_estimated(kind: str) -> None:
    estimate = estimate_of(subject(*made(HEALTHY[kind])))
    assert estimate.batches == 4
    assert estimate.footprint.gradients > 0


def test_an_optimizer_that_runs_the_step_itself_is_estimated() -> None:
    make: Callable[[Any], Any] = lambda p: torch.optim.LBFGS(p, max_iter=2)  # noqa: E731
    assert estimate_of(subject(Plain(mlp(), optimizer=make), table())).step_seconds > 0
