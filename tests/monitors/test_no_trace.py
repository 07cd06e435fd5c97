"""No trace is left where traces hide: within a fit, in its graphs and copies, after a failure."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from runs import EVERY_STEP, Classifier, Evaluated, data, history, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_diag import Doctor
from lightning_diag.history import History
from lightning_diag.measure import loss_ring


class Waits(TorchDispatchMode):
    """Counts, for each step of a fit, the operations that wait for a device."""

    NAMES = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_to_copy", "masked_select")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.step = 0
        self.found: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func._overloadpacket.__name__ in self.NAMES:
            self.found[self.step] += 1
        return func(*args, **(kwargs or {}))


class Steps(pl.Callback):
    """Tells a mode which step it is."""

    def __init__(self, mode: Waits) -> None:
        self.mode = mode

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.mode.step = trainer.global_step


def test_steps_that_are_not_watched_wait_for_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """P19: what waits on a CPU would stop the pipeline of a GPU."""
    monkeypatch.setattr(loss_ring, "is_on_host", lambda loss: False)  # as on a GPU

    def waits(*callbacks: Any) -> Counter[int]:
        mode = Waits()
        with mode:
            fit = trainer(Steps(mode), *callbacks, max_epochs=4, log_every_n_steps=50)
            fit.fit(Classifier(), data())
        return mode.found

    bare = waits()
    found = waits(Doctor(every_n_steps=8, max_overhead=1e9, startup_seconds=1e9))
    watched = set(history().steps)
    others = set(range(24)) - watched
    assert len(others) > 8
    assert {step: found[step] for step in others} == {step: bare[step] for step in others}


class Canary:
    """Something that can be seen to die."""


class Graphs(Classifier):
    """Notes, at every step, how many graphs of earlier losses are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs: list[weakref.ref[Canary]] = []
        self.alive: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.alive.append(sum(graph() is not None for graph in self.graphs))
        loss = super().training_step(batch, batch_idx)
        canary, graph = Canary(), loss.grad_fn
        assert graph is not None
        metadata: Any = graph.metadata
        metadata["canary"] = canary
        self.graphs.append(weakref.ref(canary))
        return loss


@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_graph_outlives_its_step(accumulate: int) -> None:
    """P17: losses are noted on every step, watched or not, and each could hold a whole graph."""

    def alive(*callbacks: Any) -> list[int]:
        module = Graphs()
        trainer(*callbacks, accumulate_grad_batches=accumulate).fit(module, data())
        return module.alive

    assert alive(Doctor(every_n_steps=100, startup_seconds=1e9)) == alive()


class Breaks(torch.optim.SGD):
    """Fails in the middle of its third step."""

    def __init__(self, parameters: Any, error: type[BaseException]) -> None:
        super().__init__(parameters, lr=0.1)
        self.error = error
        self.steps = 0

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.steps += 1
        if self.steps == 3:
            raise self.error("on purpose")
        return loss


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_hook_stays_on_an_optimizer_that_failed(error: type[BaseException]) -> None:
    """P17: the step that was being watched is never seen to end."""
    module = Classifier(optimizer=lambda parameters: Breaks(parameters, error))
    fit = trainer(Doctor(**EVERY_STEP))
    with pytest.raises((error, SystemExit)):
        fit.fit(module, data())
    (optimizer,) = fit.optimizers
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


class Copies(pl.Callback):
    """Copies a callback in every way, when a step has been watched."""

    def __init__(self, original: Doctor) -> None:
        self.original = original
        self.copies: list[Doctor] = []
        self.trainers: list[int] = []

    def on_train_batch_end(self, *_: Any) -> None:
        if not self.copies:
            self.trainers.append(trainers())
            self.copies = [copy.deepcopy(self.original), pickle.loads(pickle.dumps(self.original))]
            self.trainers.append(trainers())


def trainers() -> int:
    gc.collect()
    return sum(type(found) is pl.Trainer for found in gc.get_objects())


class Plain(Classifier):
    """Can be pickled, which Lightning does with the module of every callback that is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.make_optimizer = torch.optim.SGD


def test_a_copy_made_during_a_fit_takes_no_trainer_along_and_watches_another_fit() -> None:
    """P17: tuners and launchers copy callbacks."""
    original = Doctor(**EVERY_STEP)
    copies = Copies(original)
    trainer(original, copies, max_epochs=1).fit(Plain(), data())
    before, after = copies.trainers
    assert before == after
    for i, copied in enumerate(copies.copies, 1):
        trainer(copied, max_epochs=1).fit(Plain(), data())
        assert History.open(f"lightning_diag-{i}").steps == list(range(6))
    assert original.history.steps == list(range(6))


class Ends(Evaluated):
    """Logs in validation, and ends in NaN."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        if self.trainer.global_step == 10:
            x = x.clone()
            x[0, 0] = float("nan")
        return super().training_step((x, y), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", functional.cross_entropy(self.net(batch[0]), batch[1]))


class Gradients(pl.Callback):
    """Keeps what other callbacks find when a batch has ended."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.found += [parameter.grad.clone() for parameter in pl_module.parameters()]


def everything(*callbacks: Any) -> list[bytes]:
    """Train with validations, to NaN; return gradients and all that is left, as bytes."""

    def run() -> list[bytes]:
        module = Ends(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3)))
        gradients = Gradients()
        fit = trainer(*callbacks, gradients, gradient_clip_val=1.0)
        fit.fit(module, data(shuffle=True), data())
        tensors = [*gradients.found, *(p.detach() for p in module.parameters())]
        tensors += [x for state in fit.optimizers[0].state.values() for x in state.values()]
        states = (random.getstate(), np.random.get_state())  # noqa: NPY002  # the global one
        shown = [x.numpy().tobytes() for x in (*tensors, torch.get_rng_state())]
        return [*shown, pickle.dumps(states)]

    result: list[bytes] = seeded(run)
    return result


def test_validations_and_nan_end_bit_for_bit_as_without() -> None:
    """First, do no harm: NaN is looked at and not mended, validations draw nothing at random."""
    left = everything(Doctor(**EVERY_STEP))
    assert np.isnan(np.frombuffer(left[4 * 11], dtype=np.float32)).any()
    assert left == everything()


def test_no_copy_of_weights_is_kept_of_a_step_that_was_skipped() -> None:
    """P12, P17: a fit may end on one."""
    doctor, module = Doctor(**EVERY_STEP), Classifier()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    trainer(doctor, plugins=[plugin], max_epochs=1).fit(module, data())
    assert doctor.history.series("update/skipped").values == [1.0] * 6
    gc.collect()
    shapes = [parameter.shape for parameter in module.parameters() if parameter.dim() > 1]
    own = {id(x) for parameter in module.parameters() for x in (parameter, parameter.grad)}
    tensors = [x for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter)]
    assert not [x for x in tensors if x.shape in shapes and id(x) not in own]
