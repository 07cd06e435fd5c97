"""What user code does while checks run stays undone, unheard and unread (P26)."""

from __future__ import annotations

import logging
import os
import queue
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule
from runs import trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from checks.subjects import Plain, mlp, numbers, table
from lightning_diag import Doctor, Preflight, preflight
from lightning_diag.before_training import checks_of, preflight_outcome
from lightning_diag.checks.around import one_way
from lightning_diag.checks.data import Unavailable, first_batches
from lightning_diag.checks.memory import size_of
from lightning_diag.checks.silence import silence
from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.causes import explain

LEVEL = ["initial-loss", "missing-gradient"]
counted = 0
listed: list[int] = []
drawn = np.random.default_rng(0)


def after(module: Any, data: Any = None) -> list[str]:
    """Check a module; return why checks could not judge."""
    outcome = preflight_outcome(module, table() if data is None else data, level=LEVEL)
    return sorted({each.reason for each in outcome.not_observed})


def stepping(act: Callable[[Any], Any]) -> Any:
    """Return a module whose training step does something first."""

    class Acting(Plain):
        kept: list[int] = []  # noqa: RUF012
        steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            act(self)
            return super().training_step(batch, batch_idx)

    return Acting(mlp())


def plain(**held: Any) -> Any:
    """Return a module with attributes."""
    module = Plain(mlp())
    for name, value in held.items():
        setattr(module, name, value)
    return module


# --- unheard ---


def speak(module: Any) -> None:
    """Use everything that is heard."""
    print("step")
    sys.stderr.write("step")
    warnings.warn("step", stacklevel=1)
    logging.getLogger("user").error("step")
    breakpoint()  # noqa: T100


def test_what_a_step_says_is_not_heard(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert after(stepping(speak)) == []
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == []
    logging.getLogger("user").error("heard again")
    assert caplog.messages == ["heard again"]


def test_a_stream_that_was_kept_speaks_again(capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[Any] = []
    with silence():
        kept.append(sys.stdout)
        print("unheard")
    kept[0].write("heard")
    assert capsys.readouterr().out == "heard"


def test_writers_of_trackers_write_nothing_and_need_no_copy(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    writer.flush()
    before = [path.stat().st_size for path in tmp_path.iterdir()]
    module = stepping(lambda m: (m.writer.add_scalar("x", 1.0), m.writer.flush()))
    module.writer = writer
    assert after(module) == []
    writer.flush()
    assert [path.stat().st_size for path in tmp_path.iterdir()] == before
    writer.add_scalar("x", 1.0)
    writer.close()
    assert [path.stat().st_size for path in tmp_path.iterdir()] > before


# --- undone ---


def count(module: Any) -> None:
    """Change globals, the class, and the process."""
    global counted  # noqa: PLW0603
    counted += 1
    listed.append(counted)
    drawn.random()
    type(module).steps += 1
    module.kept.append(1)
    os.environ["LIGHTNING_DIAG_STEPS"] = "1"
    os.chdir("/")


def test_globals_classes_and_the_process_are_as_before() -> None:
    module, state, folder = stepping(count), drawn.bit_generator.state, Path.cwd()
    assert after(module) == []
    assert (counted, listed, module.steps, module.kept) == (0, [], 0, [])
    assert drawn.bit_generator.state == state
    assert "LIGHTNING_DIAG_STEPS" not in os.environ
    assert Path.cwd() == folder


def test_what_stands_deep_in_containers_of_the_original_is_as_before() -> None:
    module = plain(store={"deep": [[torch.zeros(2)]]})
    module.act = lambda x: (module.store["deep"][0].append(1),
                            module.store["deep"][0][0].add_(1), x)[2]  # fmt: skip
    module.forward = lambda x: module.act(module.net(x))
    after(module)
    assert len(module.store["deep"][0]) == 1
    assert module.store["deep"][0][0].tolist() == [0.0, 0.0]


class Noisy(Dataset[Any]):
    """Counts, and draws from generators of its own."""

    def __init__(self) -> None:
        self.reads, self.order = 0, [0]
        self.generators: list[Any] = [np.random.default_rng(0), random.Random(0)]

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        self.order.append(index)
        self.generators[1].random()
        return torch.full((8,), float(self.generators[0].random())), index % 3


class Epochs(Sampler[int]):
    """Counts its epochs."""

    epoch = 0

    def __len__(self) -> int:
        return 64

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        yield from range(64)


def test_data_sets_samplers_and_collate_functions_are_as_before() -> None:
    class Collate:
        calls = 0

        def __call__(self, samples: Any) -> Any:
            self.calls += 1
            return torch.utils.data.default_collate(samples)

    data, sampler, collate = Noisy(), Epochs(), Collate()
    states = [data.generators[0].bit_generator.state, data.generators[1].getstate()]
    assert after(Plain(mlp()), DataLoader(data, 16, sampler=sampler, collate_fn=collate)) == []
    assert (data.reads, data.order, sampler.epoch, collate.calls) == (0, [0], 0, 0)
    now = [data.generators[0].bit_generator.state, data.generators[1].getstate()]
    assert now == states


def test_own_iterables_are_as_before() -> None:
    class Shuffled:
        order = list(range(64))  # noqa: RUF012

        def __init__(self) -> None:
            self.order = list(range(64))

        def __iter__(self) -> Iterator[Any]:
            random.shuffle(self.order)
            yield from [(numbers(16, 8), torch.arange(16) % 3)] * 4

    data = Shuffled()
    assert after(Plain(mlp()), data) == []
    assert data.order == list(range(64))


# --- unread ---


def once(source: Any) -> IterableDataset[Any]:
    """Return data that draw from something which only they know."""

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from iter(source.get, None) if isinstance(source, queue.Queue) else source

    return Stream()


@pytest.mark.parametrize("kind", ["iterator", "queue"])
def test_what_data_draw_from_is_not_used_up(kind: str) -> None:
    samples = [(numbers(8), 0)] * 8
    waiting: Any = queue.Queue()
    for sample in samples:
        waiting.put(sample)
    source: Any = iter(samples) if kind == "iterator" else waiting
    (reason,) = after(Plain(mlp()), DataLoader(once(source), 4))
    assert "and iterating it would use that up" in reason
    left = len(list(source)) if kind == "iterator" else waiting.qsize()
    assert left == 8


def test_an_iterator_that_a_loader_keeps_open_is_not_moved() -> None:
    class Endless(DataLoader[Any]):
        def __iter__(self) -> Any:
            yield from self.__dict__["open"]

    data = Endless(TensorDataset(numbers(8, 8), torch.arange(8) % 3))
    data.__dict__["open"] = iter([1, 2])
    (reason,) = after(Plain(mlp()), data)
    assert reason == "Endless holds an open iterator, which iterating a copy would move"
    assert list(data.__dict__["open"]) == [1, 2]


def test_what_can_be_iterated_again_draws_from_nothing() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[int]:
            yield from range(counted + 3)

    assert one_way(Stream()) == ""


class Slow(Dataset[Any]):
    """Takes its time, and goes on where a sample is broken."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        try:
            time.sleep(0.02)
        except Exception:  # noqa: BLE001
            return self[index + 1]
        return numbers(8), 0


@pytest.mark.parametrize("data", [Slow(), Subset(Slow(), range(64))])
def test_slow_data_are_left_after_a_while(data: Any) -> None:
    with pytest.raises(Unavailable, match=r"reading 2 batches takes more than 0.1 s"):
        first_batches(DataLoader(data, 32), 2, 0.1)


# --- copied after all, or not ---


def test_what_is_hard_to_copy_is_shared_or_cloned() -> None:
    module = plain(draws=torch.Generator().manual_seed(1), names=lambda x: x)
    module.seen = [module(numbers(2, 8))]
    assert after(module) == []


@pytest.mark.parametrize("make", [threading.Lock, lambda: (i for i in range(2))])
def test_what_cannot_be_copied_is_told_in_a_sentence(make: Callable[[], Any]) -> None:
    (reason,) = after(plain(held=make()))
    assert reason.startswith("the module cannot be copied: TypeError: cannot pickle")


def test_a_data_module_that_a_module_holds_is_not_copied() -> None:
    class Large(LightningDataModule):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError

    assert after(plain(parts={"data": Large()})) == []


def test_a_step_that_wants_to_leave_does_not_end_the_program() -> None:
    def leave(_: Any) -> None:
        raise SystemExit(3)

    (reason,) = after(stepping(leave))
    assert reason == "`training_step` failed on a copy of the module: SystemExit: 3"


def test_optimizers_are_there_when_training_starts() -> None:
    class Early(Plain):
        def on_train_start(self) -> None:
            self.rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]

    assert after(Early(mlp())) == []


def test_arrays_and_lists_of_tensors_count_as_memory() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.features = np.zeros(100)  # type: ignore[assignment]
    module.kept = [torch.zeros(50)]  # type: ignore[assignment]
    assert size_of(module) == 4 + 800 + 200


# --- what is said ---


def test_checks_that_took_long_say_how_to_do_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for long in (False, True):
        if long:
            monkeypatch.setattr("lightning_diag.doctor.LONG", 0.0)
        fit = trainer(Doctor(preflight=["nothing-to-train"]), max_steps=1)
        fit.fit(Plain(mlp()), table())
        said = capsys.readouterr().out
        assert ("What was checked before training took" in said) == long
        assert ('`Doctor(preflight="off")`' in " ".join(said.split())) == long


def test_an_averaged_copy_of_a_network_is_no_uncalled_module() -> None:
    class Averaged(Plain):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Linear(8, 16), nn.Dropout(), nn.Linear(16, 3)))
            self.average = AveragedModel(self.net)

    assert preflight(Averaged(), table(), level=["uncalled-module"]) == []


def test_thresholds_of_checks_are_set_by_code() -> None:
    anew = {"initial-loss": {"factor": 9.0}, "dead-relu": {"fraction": 0.3}}
    doctor = Doctor(thresholds=anew, preflight="full")
    assert checks_of("full", {"initial-loss": {"factor": 9.0}}) == doctor.checks
    other = Preflight(level="full", thresholds={"initial-loss": {"factor": 9.0}})
    assert other.checks == doctor.checks
    module, data = Plain(mlp(), lambda x, y: nn.functional.cross_entropy(1000 * x, y)), table()
    level = ["initial-loss"]
    assert preflight(module, data, level=level)
    assert not preflight(module, data, level=level, thresholds={"initial-loss": {"factor": 1e6}})
    with pytest.raises(ValueError, match="of 'initial-loss' must be of its own, got 'factr'"):
        Preflight(thresholds={"initial-loss": {"factr": 9.0}})


def test_a_layer_that_never_runs_is_explained_by_nothing_else() -> None:
    evidence = Evidence(9.0, 2.0, 1, 1)
    codes = ("output-activation-mismatch", "missing-gradient")
    found = [Finding(code, "bad", "M.", "D.", (), (0, 0), evidence) for code in codes]
    ranked = explain(found, History(), foretold=set(codes))
    assert {f.code: f.caused_by for f in ranked} == dict.fromkeys(codes)
    in_a_run = {f.code: f.caused_by for f in explain(found, History())}
    assert in_a_run["missing-gradient"] == "output-activation-mismatch"


def test_growth_seen_before_training_explains_the_first_loss_and_not_the_other_way_round() -> None:
    evidence = Evidence(9.0, 2.0, 1, 1)
    found = [Finding(code, "bad", "M.", "D.", (), (0, 0), evidence)
             for code in ("initial-loss", "exploding-gradient")]  # fmt: skip
    ranked = explain(found, History(), foretold={"exploding-gradient", "initial-loss"})
    assert [(f.code, f.caused_by) for f in ranked] == [
        ("exploding-gradient", None), ("initial-loss", "exploding-gradient")]  # fmt: skip
    in_a_run = {f.code: f.caused_by for f in explain(found, History())}
    assert in_a_run["exploding-gradient"] == "initial-loss"
