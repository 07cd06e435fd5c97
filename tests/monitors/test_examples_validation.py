"""The worst samples of validation, against the loss of each one computed by hand (W13)."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from runs import EVERY_STEP, Classifier, data, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import Doctor, History, WorstExamples
from lightning_diag.probe.validation import _MOST, _STEPS_EACH

NAME = "example/worst_validation"
PLACE = "cross_entropy#0"
TRAINED = 6
"""Steps of an epoch."""


class Validated(Classifier):
    """Keeps what validation predicts, by loader and batch, as far as the newest one goes."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 3))
        self.seen: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.rounds: list[dict[tuple[int, int], tuple[Tensor, Tensor]]] = []

    def on_validation_start(self) -> None:
        """Begin anew."""
        if not self.trainer.sanity_checking:
            self.seen = {}
            self.rounds.append(self.seen)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the loss, and keep what it is of."""
        x, y = batch
        out = self.net(x)
        self.log("val_loss", functional.cross_entropy(out, y))
        self.seen[dataloader_idx, batch_idx] = (out.float(), y.clone())

    def losses(
        self, which: int = -1, chosen: Callable[[int], bool] = lambda _: True
    ) -> list[tuple[float, int, int]]:
        """Return loss, loader and index of all samples, worst first, computed one by one."""
        rows, counts = [], dict.fromkeys([loader for loader, _ in self.rounds[which]], 0)
        for number, ((loader, _), (out, y)) in enumerate(sorted(self.rounds[which].items())):
            for i in range(len(out)):
                loss = float(functional.cross_entropy(out[i : i + 1], y[i : i + 1]))
                if chosen(number):
                    rows.append((loss, loader, counts[loader]))
                counts[loader] += 1
        return sorted(rows, reverse=True)


class Single(Validated):
    """The same, with the signature that one loader asks for."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """See `Validated`."""
        super().validation_step(batch, batch_idx)


def held_out(
    samples: int = 52, batch_size: int = 8, *, shuffle: bool = False, seed: int = 5
) -> DataLoader[Any]:
    """Return data of three classes whose labels say nothing."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 8, generator=generator)
    y = torch.randint(3, (samples,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size, shuffle=shuffle)


def pictures(wrong: int = -1) -> DataLoader[Any]:
    """Return grey pictures of 6 x 6, of which one may have the wrong label."""
    generator = torch.Generator().manual_seed(4)
    y = torch.randint(3, (64,), generator=generator)
    x = torch.randn(64, 1, 6, 6, generator=generator) * 0.1
    x[torch.arange(64), 0, y] += 2.0
    if wrong >= 0:
        y[wrong] = (y[wrong] + 1) % 3
    return DataLoader(TensorDataset(x, y), 8)


def watched(
    module: Any = None, loaders: Any = None, *callbacks: Any, monitor: Any = None, **options: Any
) -> tuple[Any, History]:
    """Train and validate under watch; return module and history."""

    def run() -> Any:
        model = module or Single()
        fit = trainer(monitor or WorstExamples(**EVERY_STEP), *callbacks, **options)
        fit.fit(model, data(), held_out() if loaders is None else loaders)
        return model

    model = seeded(run)
    return model, History.open("lightning_diag")


def shown(history: History, place: str = PLACE) -> list[tuple[int, dict[str, Any]]]:
    return history.shown(NAME).get(place, [])


def told(content: dict[str, Any]) -> list[tuple[float, Any]]:
    return [(one["loss"], one["index"]) for one in content["examples"]]


def assert_worst(content: dict[str, Any], expected: list[tuple[float, int, int]]) -> None:
    assert content["stage"] == "validation"
    assert content["samples"] == len(expected)
    assert [one["index"] for one in content["examples"]] == [row[2] for row in expected[:16]]
    for one, (loss, _, _) in zip(content["examples"], expected, strict=False):
        assert one["loss"] == pytest.approx(loss, rel=1e-4)


# --- which samples ---


def test_the_worst_of_a_whole_validation_are_shown_with_their_indices() -> None:
    """Top 16 of 52, of which the last batch has fewer; a sample for each index."""
    module, history = watched(max_epochs=3)
    looks = shown(history)
    assert [step for step, _ in looks] == [5, 11, 17]
    for which, (_, content) in enumerate(looks):
        assert_worst(content, module.losses(which))
    dataset = held_out().dataset
    for one in looks[-1][1]["examples"]:
        x, y = dataset[one["index"]]
        assert one["target"] == int(y)
        assert one["numbers"] == pytest.approx(x[:8].tolist(), rel=1e-4)
        assert one["loader"] is None


def test_sixteen_of_one_batch_may_be_the_worst() -> None:
    module, history = watched(None, held_out(40, 40), max_epochs=1)
    assert_worst(shown(history)[-1][1], module.losses())


def test_training_is_told_apart_from_validation() -> None:
    _, history = watched(max_epochs=2)
    assert {c["stage"] for _, c in history.shown("example/worst")[PLACE]} == {"train"}
    assert {c["stage"] for _, c in shown(history)} == {"validation"}
    assert history.meta["examples"] == {"validation": [PLACE]}


def test_a_validation_in_the_middle_of_an_epoch_has_its_step() -> None:
    module, history = watched(max_epochs=1, val_check_interval=2)
    assert [step for step, _ in shown(history)] == [1, 3, 5]
    assert_worst(shown(history)[1][1], module.losses(1))


def test_of_several_loaders_each_sample_tells_which() -> None:
    """Indices begin at 0 in each."""
    module, history = watched(Validated(), [held_out(20), held_out(30, 6, seed=6)], max_epochs=1)
    content, expected = shown(history)[-1][1], module.losses()
    assert content["samples"] == 50
    assert [(e["loader"], e["index"]) for e in content["examples"]] == [
        (loader, index) for _, loader, index in expected[:16]
    ]
    assert {one["loader"] for one in content["examples"]} == {0, 1}


def test_batches_of_several_loaders_at_once_have_no_index() -> None:
    class Pairs(Single):
        def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            for x, y in batch:
                functional.cross_entropy(self.net(x), y)

    pairs = CombinedLoader([held_out(16), held_out(24)], mode="min_size")
    _, history = watched(Pairs(), pairs, max_epochs=1)
    assert set(history.shown(NAME)) == {PLACE, "cross_entropy#1"}
    for place in history.shown(NAME):
        assert {one["index"] for one in shown(history, place)[-1][1]["examples"]} == {None}


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling")
def test_shuffled_samples_have_no_index_and_are_the_worst_all_the_same() -> None:
    module, history = watched(None, held_out(shuffle=True), max_epochs=1)
    content = shown(history)[-1][1]
    losses = [loss for loss, _, _ in module.losses()[:16]]
    assert [loss for loss, _ in told(content)] == pytest.approx(losses, rel=1e-4)
    assert {index for _, index in told(content)} == {None}


def test_a_wrong_label_is_the_worst_example_with_its_picture() -> None:
    class Seeing(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            nn.CrossEntropyLoss()(self.net(batch[0]), batch[1])

    seeded(
        lambda: trainer(WorstExamples(**EVERY_STEP), max_epochs=20).fit(
            Seeing(), pictures(), pictures(wrong=13)
        )
    )
    first = shown(History.open("lightning_diag"))[-1][1]["examples"][0]
    assert first["index"] == 13
    assert first["prediction"] != first["target"]
    assert first["shape"] == [6, 6, 1]
    assert first["pixels"]


def test_without_pictures_nothing_of_the_samples_is_stored() -> None:
    monitor = WorstExamples(pictures=False, **EVERY_STEP)
    module, history = watched(monitor=monitor, max_epochs=1)
    assert_worst(shown(history)[-1][1], module.losses())
    assert {(e["pixels"], e["numbers"]) for e in shown(history)[-1][1]["examples"]} == {
        (None, None)
    }


class Inferred(Single):
    """Goes into inference mode by itself."""

    @torch.inference_mode()
    def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        super().validation_step(batch, batch_idx)
        assert self.seen[0, batch_idx][0].is_inference()


@pytest.mark.parametrize("make", [Single, Inferred])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_neither_inference_mode_nor_half_precision_hide_a_loss(
    make: Callable[[], Any], precision: Any
) -> None:
    module, history = watched(make(), max_epochs=1, precision=precision)
    content, expected = shown(history)[-1][1], module.losses()
    losses = [loss for loss, _, _ in expected[:16]]
    assert [loss for loss, _ in told(content)] == pytest.approx(losses, rel=1e-4)


# --- which batches, and what it costs ---


def chosen(total: int, which: int) -> list[int]:
    """Return the batches of a watched validation: each one, or 64 in equal distances."""
    if total <= _MOST:
        return list(range(total))
    return [b for b in range(total) if (b + which) * _MOST % total < _MOST]


def test_of_a_long_validation_64_batches_are_watched_and_others_the_next_time() -> None:
    """Half of 128 batches, then the other half; the worst of them, with their true indices."""
    module, history = watched(None, held_out(256, 2), max_epochs=2)
    looks = shown(history)
    assert [step for step, _ in looks] == [5, 11]  # the second since it is the last
    both = []
    for which, (_, content) in enumerate(looks):
        batches = chosen(128, which)
        assert len(batches) == _MOST
        assert_worst(content, module.losses(which, lambda batch, b=batches: batch in b))
        both += batches
    assert sorted(both) == list(range(128))


@pytest.mark.parametrize("total", [65, 100, 127, 129, 1000])
def test_watched_batches_are_64_evenly_spread_wherever_they_begin(total: int) -> None:
    for which in range(5):
        batches = chosen(total, which)
        assert len(batches) == _MOST
        gaps = {b - a for a, b in pairwise(batches)}
        assert max(gaps) - min(gaps) <= 1


class Counts(Single):
    """Counts the batches in which somebody watches."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []
        self.modes: list[int] = []

    def on_validation_start(self) -> None:
        super().on_validation_start()
        self.counts.append(0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self.counts[-1] += len(_get_current_function_mode_stack())
        super().validation_step(batch, batch_idx)

    def on_validation_end(self) -> None:
        self.modes.append(len(_get_current_function_mode_stack()))


def test_there_are_sixteen_steps_to_each_watched_batch_beyond_the_first() -> None:
    """P19: 7 batches a validation and one each 6 steps; 9 fit in 64, later every 18th or 19th."""
    module, history = watched(Counts(), max_epochs=60)
    steps = [step for step, _ in shown(history)]
    at = [TRAINED * (i + 1) - 1 for i, count in enumerate(module.counts) if count]
    assert module.counts.count(7) + module.counts.count(0) == 60
    assert steps[-1] == at[-1] == 359  # the last one, whatever there was before
    spent = 0
    for step in at[:-1]:
        spent += 7
        assert spent <= _MOST + (step + 1) // _STEPS_EACH
    assert at[:9] == [TRAINED * (i + 1) - 1 for i in range(9)]
    assert 1 <= len(at) - 9 <= 4


def test_nothing_is_watched_once_it_has_cost_what_it_may() -> None:
    """P19."""
    monitor = WorstExamples(every_n_steps=1, max_overhead=1e-9, startup_seconds=0.0)
    module, history = watched(Counts(), monitor=monitor, max_epochs=4)
    assert sum(module.counts) == 0
    assert history.shown(NAME) == {}
    assert "examples" not in history.meta


def test_without_the_monitor_no_batch_is_watched() -> None:
    from lightning_diag import GradientMonitor

    module, _ = watched(Counts(), monitor=GradientMonitor(**EVERY_STEP), max_epochs=2)
    assert module.counts == [0, 0]


# --- what stays away, and what stays behind ---


def test_sanity_checking_leaves_nothing() -> None:
    """P27."""

    class Once(pl.Callback):
        def on_train_start(self, trainer: Any, *_: Any) -> None:
            raise RuntimeError("before the first step")

    with pytest.raises(RuntimeError, match="before the first step"):
        watched(Counts(), None, Once(), num_sanity_val_steps=2)
    assert History.open("lightning_diag").shown(NAME) == {}
    module = Counts()
    monitor = WorstExamples(**EVERY_STEP)
    seeded(
        lambda: trainer(monitor, max_epochs=1, num_sanity_val_steps=2).fit(
            module, data(), held_out()
        )
    )
    assert module.counts == [0, 7]


def test_a_validation_by_itself_is_left_alone() -> None:
    module = Counts()
    trainer(WorstExamples(**EVERY_STEP)).validate(module, held_out(), verbose=False)
    assert module.counts == [0]
    assert not Path("lightning_diag").exists()


class Formula(Classifier):
    """Computes its validation's loss by hand."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        out = self.net(batch[0]).log_softmax(1)
        self.log("val_loss", -out.gather(1, batch[1][:, None]).mean())


class Loses(Classifier):
    """Validates by a loss that compares samples."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        out = self.net(batch[0])
        functional.triplet_margin_loss(out, out + 1, out - 1)
        functional.kl_div(out.log_softmax(1), out.softmax(1), reduction="batchmean")


@pytest.mark.parametrize("make", [Formula, Loses])
def test_a_validation_without_a_loss_of_samples_is_not_observed(make: Callable[[], Any]) -> None:
    _, history = watched(make(), max_epochs=1)
    assert history.shown(NAME) == {}
    assert history.meta["examples"] == {"validation": []}
    assert history.shown("example/worst")[PLACE]


class Breaks(Single):
    """Raises inside a watched batch of a validation."""

    error: type[BaseException] = RuntimeError

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        super().validation_step(batch, batch_idx)
        if batch_idx == 3:
            assert _get_current_function_mode_stack()
            raise self.error("on purpose")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, StopIteration])
def test_nothing_stays_attached_when_a_validation_fails(error: type[BaseException]) -> None:
    """P17: StopIteration ends a validation early, and training goes on."""
    module = Breaks()
    module.error = error
    if error is StopIteration:
        watched(module, max_epochs=1)
    else:
        with pytest.raises((error, SystemExit)):
            watched(module, max_epochs=1)
    assert not _get_current_function_mode_stack()
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_nobody_watches_once_a_batch_has_ended() -> None:
    module, _ = watched(Counts(), max_epochs=3)
    assert module.modes == [0, 0, 0]
    assert not _get_current_function_mode_stack()


def test_no_batch_of_a_validation_is_held() -> None:
    held: list[int] = []
    batches: list[weakref.ref[Tensor]] = []

    class Held(pl.Callback):
        def on_validation_batch_start(self, _t: Any, _m: Any, batch: Any, *_: Any) -> None:
            gc.collect()
            held.append(sum(reference() is not None for reference in batches))
            batches[:] = [weakref.ref(x) for x in batch]

    class Forgets(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            functional.cross_entropy(self.net(batch[0]), batch[1])

    watched(Forgets(), None, Held(), max_epochs=1)
    with_watch = list(held)
    held.clear()
    seeded(lambda: trainer(Held(), max_epochs=1).fit(Forgets(), data(), held_out()))
    assert with_watch == held


def test_a_copy_carries_no_samples_of_a_validation() -> None:
    monitor = WorstExamples(**EVERY_STEP)
    copies: list[dict[str, Any]] = []

    class Copies(pl.Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            copies.append(monitor.__getstate__())
            copy.deepcopy(monitor)

    watched(None, None, Copies(), monitor=monitor, max_epochs=1)
    held = {(state["_valid"], state["_gathered"]) for state in copies}
    assert held == {(None, None)}
    assert copies


def left(*callbacks: Any) -> list[bytes]:
    """Train with dropout and validations; return all that is left, and what was logged."""

    class Logs(Single):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(), self.net)
            self.net[3] = nn.Linear(16, 3)
            self.logged: list[Tensor] = []

        def on_validation_end(self) -> None:
            self.logged.append(self.trainer.callback_metrics["val_loss"].clone())

    def run() -> list[bytes]:
        module = Logs()
        fit = trainer(*callbacks, max_epochs=3)
        fit.fit(module, data(shuffle=True), held_out())
        tensors = [*module.state_dict().values(), *module.logged, torch.get_rng_state()]
        state = np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002  # the global one
        kept = [x.numpy().tobytes() for x in tensors]
        return [*kept, state.tobytes(), str(random.getstate()).encode()]

    result: list[bytes] = seeded(run)
    return result


@pytest.mark.parametrize("make", [WorstExamples, Doctor])
def test_training_and_validation_end_bit_for_bit_as_without(make: Any) -> None:
    """First, do no harm: also what validation logs."""
    assert left(make(**EVERY_STEP)) == left()


@pytest.mark.parametrize("compiled_models", ["eager", "leave"])
def test_a_compiled_model_is_watched_as_in_training(compiled_models: Any) -> None:
    """P8: run eagerly, or left alone; nothing is compiled anew on our account."""
    torch._dynamo.reset()
    compiled: list[int] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    module = Single()
    module.net = torch.compile(module.net, backend=backend)
    monitor = WorstExamples(compiled_models=compiled_models, **EVERY_STEP)
    _, history = watched(module, monitor=monitor, max_epochs=3)
    if compiled_models == "eager":
        assert_worst(shown(history)[-1][1], module.losses())
    else:
        assert history.shown(NAME) == {}
        assert compiled
    count = len(compiled)
    seeded(lambda: trainer(max_epochs=1).fit(module, data(), held_out()))
    assert len(compiled) - count <= 3  # what had only been run eagerly
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
def test_a_resumed_run_watches_the_same_validations(tmp_path: Path) -> None:
    """P25: as one that was never interrupted."""
    whole, _ = watched(Counts(), max_epochs=40)
    counts: list[int] = []

    def run(until: int, resume: Path | None = None) -> None:
        module = Counts()
        fit = trainer(WorstExamples(**EVERY_STEP), max_epochs=until, default_root_dir=tmp_path)
        fit.fit(module, data(), held_out(), ckpt_path=resume)
        fit.save_checkpoint(tmp_path / "half.ckpt")
        counts.extend(module.counts)

    run(25)
    run(40, tmp_path / "half.ckpt")
    assert sum(counts[:24]) == sum(whole.counts[:24])
    spent = 7 if counts[24] and not whole.counts[24] else 0  # the last one of the first part
    assert abs(sum(counts) - sum(whole.counts) - spent) <= 7
