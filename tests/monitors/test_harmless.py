"""Contracts of every monitor: it leaves no trace, and nothing can make it end a run."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from runs import (
    EVERY_STEP,
    MONITORS,
    Classifier,
    Evaluated,
    Net,
    all_monitors,
    data,
    history,
    seeded,
    trainer,
)
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.overrides import _get_current_function_mode_stack

from lightning_diag import DiagWarning, Doctor, Record
from lightning_diag.probe.watcher import Watcher

WATCHERS: list[Callable[..., Watcher]] = [*MONITORS, Doctor]
watchers = pytest.mark.parametrize("make", WATCHERS, ids=lambda make: make.__name__)


def outcome(callbacks: list[Any], **options: Any) -> dict[str, Any]:
    """Train with all seeds fixed; return everything that training leaves behind."""

    def run() -> dict[str, Any]:
        module = Classifier()
        fit = trainer(*callbacks, **options)
        fit.fit(module, data(shuffle=True))
        return {
            "weights and buffers": module.state_dict(),
            "optimizer": fit.optimizers[0].state_dict(),
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
            "modes": [m.training for m in module.modules()],
        }

    result: dict[str, Any] = seeded(run)
    return result


def assert_identical(left: Any, right: Any, where: str = "") -> None:
    """Compare nested values bit for bit."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_identical(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for i, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_identical(one, other, f"{where}/{i}")
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype, where
        assert torch.equal(left.nan_to_num(), right.nan_to_num()), where
    elif isinstance(left, np.ndarray):
        assert np.array_equal(left, right), where
    else:
        assert left == right, where


@watchers
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 4, "gradient_clip_val": 0.5},
        {"precision": "bf16-mixed"},
    ],
    ids=["plain", "accumulated and clipped", "bf16"],
)
def test_training_ends_bit_for_bit_as_without(
    make: Callable[..., Watcher], options: dict[str, Any]
) -> None:
    """First, do no harm: weights, buffers, optimizer state and all random states."""
    assert_identical(outcome([make(**EVERY_STEP)], **options), outcome([], **options))


def attachments(module: nn.Module, optimizers: list[Any]) -> dict[str, Any]:
    """Count everything that could have been attached to a module, and to torch itself."""
    counts: dict[str, Any] = {
        "mode stack": len(_get_current_function_mode_stack()),
        "global forward": len(torch_modules._global_forward_hooks),
        "global pre": len(torch_modules._global_forward_pre_hooks),
        "stance": torch._dynamo.eval_frame._stance.stance,
    }
    for name, child in module.named_modules():
        own = {key: len(value) for key, value in vars(child).items() if "hook" in key and value}
        counts[f"hooks of {name}"] = own
        counts[f"attributes of {name}"] = sorted(set(vars(child)) - {"_trainer", "_fabric"})
    for name, parameter in module.named_parameters():
        counts[f"hooks of {name}"] = len(parameter._backward_hooks or {})
        counts[f"accumulation hooks of {name}"] = len(
            getattr(parameter, "_post_accumulate_grad_hooks", None) or {}
        )
    for optimizer in optimizers:
        counts[f"optimizer {type(optimizer).__name__}"] = (
            len(optimizer._optimizer_step_pre_hooks),
            len(optimizer._optimizer_step_post_hooks),
        )
    return counts


class Failing(Classifier):
    """Raises inside the fourth forward pass, in the middle of a module's call."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error
        self.net.drop.register_forward_pre_hook(self.fail)
        self.calls = 0

    def fail(self, *_: Any) -> None:
        self.calls += 1
        if self.calls == 4:
            raise self.error("on purpose")


@watchers
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_nothing_stays_attached(
    make: Callable[..., Watcher], error: type[BaseException] | None
) -> None:
    """After fit, an exception, Ctrl-C and a second fit every hook count is as before (P17)."""
    module = Classifier() if error is None else Failing(error)
    callback = make(**EVERY_STEP)
    for _ in range(2):
        before = attachments(module, [])
        fit = trainer(callback)
        try:
            fit.fit(module, data())
        except (RuntimeError, KeyboardInterrupt, SystemExit):
            assert error is not None
        found = attachments(module, fit.optimizers)
        for optimizer in fit.optimizers:
            assert found.pop(f"optimizer {type(optimizer).__name__}") == (0, 0)
        # Lightning adds its own attributes on the first fit
        kept = {key: value for key, value in before.items() if not key.startswith("attributes of ")}
        assert {key: found[key] for key in kept} == kept
        names = {key: value for key, value in found.items() if key.startswith("attributes of ")}
        assert not [name for own in names.values() for name in own if "diag" in name]


class Inspects(pl.Callback):
    """Looks at what is attached at the end of every batch, when watching is over."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        counts = attachments(pl_module, trainer.optimizers)
        self.found.append(
            {key: value for key, value in counts.items() if not key.startswith("attributes of ")}
        )


@watchers
def test_nothing_is_attached_between_steps(make: Callable[..., Watcher]) -> None:
    """P17: hooks come off at the end of the step that they were for."""
    inspects = Inspects()
    trainer(make(**EVERY_STEP), inspects).fit(Classifier(), data())
    bare = Inspects()
    trainer(bare).fit(Classifier(), data())
    assert inspects.found == bare.found


@watchers
def test_no_tensor_is_kept_alive(make: Callable[..., Watcher]) -> None:
    """Copies of weights and activations are gone when the fit is (P17)."""
    callback = make(**EVERY_STEP)
    module = Classifier()
    fit = trainer(callback)
    fit.fit(module, data())
    gc.collect()
    large = [
        tensor
        for tensor in gc.get_objects()
        if type(tensor) in (torch.Tensor, nn.Parameter) and tensor.shape in ((16, 16), (16, 8))
    ]
    own = {id(parameter) for parameter in module.parameters()}
    own |= {id(parameter.grad) for parameter in module.parameters()}
    moments = {id(value) for state in fit.optimizers[0].state.values() for value in state.values()}
    assert [tensor for tensor in large if id(tensor) not in own | moments] == []


class Copies(pl.Callback):
    """Copies the module in every way, from every hook of a batch."""

    def __init__(self) -> None:
        self.made = 0

    def copy(self, module: nn.Module) -> None:
        pickle.loads(pickle.dumps(module.net))
        copy.deepcopy(module.net)
        torch.save(module.net, io.BytesIO())
        self.made += 1

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.copy(pl_module)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.copy(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.copy(pl_module)


@watchers
def test_module_pickles_and_copies_during_fit(make: Callable[..., Watcher]) -> None:
    """P17: nothing of ours hangs on the module at any time."""
    copies = Copies()
    trainer(make(**EVERY_STEP), copies).fit(Classifier(), data())
    assert copies.made == 2 * 6 * 3


class Sparse(nn.Module):
    """An embedding with sparse gradients, tuples and dicts as outputs, a module never called."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8, sparse=True)
        self.linear = nn.Linear(8, 3)
        self.never = nn.Linear(2, 2)
        self.frozen = nn.Linear(8, 8).requires_grad_(requires_grad=False)

    def parts(self, x: torch.Tensor) -> dict[str, tuple[torch.Tensor, ...]]:
        """Return what modules rarely return."""
        return {"both": (self.embed(x.abs().long() % 10).mean(1), x)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return three logits a sample."""
        embedded, raw = self.parts(x)["both"]
        out: torch.Tensor = self.linear(torch.relu(embedded + self.frozen(raw)))
        return out


class Complex(nn.Module):
    """Complex weights and activations."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, dtype=torch.complex64))
        self.empty = nn.Parameter(torch.zeros(0, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return three logits a sample."""
        out: torch.Tensor = torch.tanh(x.to(torch.complex64) @ self.weight).abs()
        return out + self.empty.sum()


class Poisoned(nn.Module):
    """Puts NaN and infinity into activations, and through them into every gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return NaN."""
        out: torch.Tensor = torch.sigmoid(self.net(x) * torch.tensor([1.0, float("nan"), 1.0]))
        return torch.relu(out * float("inf"))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


NASTY: dict[str, Callable[[], Classifier]] = {
    "sparse gradients, dicts, frozen and unused": lambda: Classifier(Sparse(), sgd),
    "complex and empty": lambda: Classifier(Complex(), sgd),
    "NaN and infinity": lambda: Classifier(Poisoned(), sgd),
    "bf16 weights": lambda: Classifier(Net(), sgd).to(torch.bfloat16),
}


@watchers
@pytest.mark.parametrize("nasty", NASTY.values(), ids=NASTY)
def test_no_input_makes_it_raise_or_warn(
    make: Callable[..., Watcher], nasty: Callable[[], Classifier]
) -> None:
    """P13: NaN, infinity, empty, bf16, sparse and complex tensors are looked at, not died of."""
    module = nasty()
    bf16 = next(module.parameters()).dtype is torch.bfloat16
    with warnings.catch_warnings():
        warnings.simplefilter("error", DiagWarning)
        trainer(make(**EVERY_STEP), precision="bf16-true" if bf16 else "32-true").fit(
            module, data()
        )
    assert len(history()) == 12


@watchers
def test_watcher_that_raises_is_switched_off_with_one_warning(
    make: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours costs the user its numbers, never the run."""
    callback = make(**EVERY_STEP)
    broken = callback if not isinstance(callback, Doctor) else callback.monitors[0]

    def fail(*_: Any) -> None:
        message = "a bug"
        raise RuntimeError(message)

    monkeypatch.setattr(broken, "digest", fail)
    fit = trainer(callback)
    with pytest.warns(DiagWarning, match=f"{type(broken).__name__} is switched off.*a bug") as seen:
        fit.fit(Classifier(), data())
    assert fit.global_step == 12
    assert len([warning for warning in seen if warning.category is DiagWarning]) == 1


@watchers
def test_watcher_that_cannot_prepare_raises_before_training(
    make: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At fit start an error costs nothing yet, so it is an error."""
    callback = make(**EVERY_STEP)
    broken = callback if not isinstance(callback, Doctor) else callback.monitors[0]

    def fail(*_: Any) -> None:
        message = "not here"
        raise RuntimeError(message)

    monkeypatch.setattr(broken, "prepare", fail)
    with pytest.raises(RuntimeError, match="not here"):
        trainer(callback).fit(Classifier(), data())


@watchers
def test_validate_test_predict_and_sanity_checking_leave_no_trace(
    make: Callable[..., Watcher], tmp_path: Path
) -> None:
    """P27: only training is watched."""
    callback = make(**EVERY_STEP)
    module = Evaluated()
    fit = trainer(callback, num_sanity_val_steps=2, max_epochs=1)
    for stage in ("validate", "test", "predict"):
        getattr(fit, stage)(module, data())
    assert list(tmp_path.iterdir()) == []
    fit.fit(module, data(), data())
    watched = history()
    assert watched.steps == [0, 1, 2, 3, 4, 5]
    samples = watched.last("dead_relu/window_samples")
    assert set(samples.values()) <= {48.0}


@watchers
def test_state_loads_with_weights_only(make: Callable[..., Watcher], tmp_path: Path) -> None:
    """P25: a checkpoint holds plain values and tensors of ours alone."""
    callback = make(**EVERY_STEP)
    fit = trainer(callback, max_epochs=1)
    fit.fit(Classifier(), data())
    fit.save_checkpoint(tmp_path / "end.ckpt")
    loaded = torch.load(tmp_path / "end.ckpt", weights_only=True)
    state = loaded["callbacks"][callback.state_key]
    assert state["probe"]["steps"] == 6
    assert len(pickle.dumps(state)) < 1_000_000


def test_two_watchers_of_each_class_restore_separately(tmp_path: Path) -> None:
    """P25: the state of each instance finds its way back to it."""
    from lightning_diag import DeadReLUTracker

    first, second = (DeadReLUTracker(window=n, **EVERY_STEP) for n in (5, 40))
    fit = trainer(first, second, max_epochs=1)
    fit.fit(Classifier(), data())
    fit.save_checkpoint(tmp_path / "end.ckpt")
    assert first.state_key != second.state_key
    states = torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"]
    assert {first.state_key, second.state_key} <= states.keys()


def test_watcher_says_nothing_on_loggers_before_it_has_numbers() -> None:
    """A monitor's headline of an empty record is all NaN: absent, never 0."""
    for monitor in all_monitors():
        scalars = monitor.headline(Record(step=0, values={}).values)
        assert all(np.isnan(value) for value in scalars.values()), type(monitor).__name__
