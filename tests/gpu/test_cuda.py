"""On a GPU: the same numbers, no waiting, no trace. Skipped where there is none."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import Classifier, Net, all_monitors, data, seeded, trainer

from lightning_diag import Doctor, GradientMonitor
from lightning_diag.history import History

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GPU: dict[str, Any] = {"accelerator": "gpu", "devices": 1}


class Strict(pl.Callback):
    """Forbids every wait for the device, except on the steps that it is told to leave alone."""

    def __init__(self, watched: set[int], *, first: bool) -> None:
        self.watched = watched
        self.first = first

    def allow(self, *, waits: bool) -> None:
        torch.cuda.set_sync_debug_mode("default" if waits else "error")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, i: int) -> None:
        if self.first:
            self.allow(waits=trainer.global_step in self.watched)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if not self.first:
            self.allow(waits=True)

    def on_exception(self, *_: Any) -> None:
        self.allow(waits=True)


def on_gpu(callbacks: list[Any], **options: Any) -> tuple[Classifier, pl.Trainer]:
    def build() -> tuple[Classifier, pl.Trainer]:
        module = Classifier(Net(), lambda p: torch.optim.AdamW(p, 1e-3))
        fit = trainer(*callbacks, **{**GPU, "max_epochs": 4, **options})
        fit.fit(module, data())
        return module, fit

    result: tuple[Classifier, pl.Trainer] = seeded(build)
    return result


def test_unwatched_steps_never_wait_for_the_device() -> None:
    """P19: with every wait an error, all unwatched steps pass; of the watched ones none is off."""
    monitors = all_monitors(every_n_steps=8, max_overhead=1e9)
    probe_run = all_monitors(every_n_steps=8, max_overhead=1e9)
    on_gpu(probe_run)
    watched = set(History.open("lightning_diag").steps)
    assert len(watched) < 20
    on_gpu([Strict(watched, first=True), *monitors, Strict(watched, first=False)])


def test_training_on_gpu_ends_bit_for_bit_as_without() -> None:
    """First, do no harm: also on the device, and its random state."""
    bare, _ = on_gpu([])
    state = torch.cuda.get_rng_state()
    watched, _ = on_gpu(all_monitors())
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for name, value in bare.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name


def test_gpu_gives_the_numbers_of_the_cpu() -> None:
    """Up to the rounding of either, and without dropout, whose random streams differ."""

    def build(accelerator: str) -> None:
        net = Net()
        net.drop.p = 0.0
        options = {"accelerator": accelerator, "max_epochs": 1}
        trainer(*all_monitors(), **options).fit(Classifier(net), data())

    for accelerator in ("cpu", "gpu"):
        seeded(partial(build, accelerator))
    cpu, gpu = History.open("lightning_diag"), History.open("lightning_diag-1")
    assert gpu.steps == cpu.steps
    for metric in cpu.metrics():
        if metric.startswith(("step_time/", "overhead/", "data/wait")):
            continue
        for place in cpu.places(metric):
            expected, found = cpu.series(metric, place), gpu.series(metric, place)
            assert found.steps == expected.steps, (metric, place)
            close = pytest.approx(list(expected.values), rel=5e-3, abs=1e-5)
            assert list(found.values) == close, (metric, place)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("fused", [False, True])
def test_mixed_precision_norms_are_unscaled(precision: Any, fused: bool) -> None:
    """P4: within a few percent of float32, fused or not, with a scale of 65536."""

    def build(chosen: Any) -> None:
        net = Net()
        net.drop.p = 0.0
        module = Classifier(net, lambda p: torch.optim.AdamW(p, 1e-3, fused=fused))
        monitor = GradientMonitor(every_n_steps=1, max_overhead=1e9)
        trainer(monitor, **GPU, max_epochs=1, precision=chosen).fit(module, data())

    seeded(lambda: build("32-true"))
    seeded(lambda: build(precision))
    full, mixed = History.open("lightning_diag"), History.open("lightning_diag-1")
    expected = list(full.series("gradient/total_norm").values)
    assert list(mixed.series("gradient/total_norm").values) == pytest.approx(expected, rel=0.05)


def test_no_device_memory_is_kept() -> None:
    """P17: what watching allocated is free again."""

    def left(callbacks: list[Any]) -> int:
        on_gpu(callbacks)
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    left([])
    assert left(all_monitors()) <= left([])


def test_doctor_reports_its_overhead_on_gpu() -> None:
    """P19: measured on the device's own timeline."""
    doctor = Doctor(every_n_steps=5)
    on_gpu([doctor], max_epochs=20)
    share = doctor.history.last("overhead/fraction")[""]
    assert 0 <= share < 1
