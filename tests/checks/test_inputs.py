"""Checks of what goes into the network: they fire, just do not fire, and know what to leave."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset

from checks.sick_data import leaked, sloped, splits, train_on
from checks.subjects import (
    SAMPLES,
    Dictionaries,
    Pair,
    Plain,
    as_dictionaries,
    labels,
    loader,
    mlp,
    numbers,
)
from lightning_diag import rules
from lightning_diag.before_training import preflight_outcome, subject
from lightning_diag.checks.channels_last_input import ChannelsLastInput
from lightning_diag.checks.constant_feature import ConstantFeature
from lightning_diag.checks.double_precision_input import DoublePrecisionInput
from lightning_diag.checks.duplicate_feature import DuplicateFeature, duplicates
from lightning_diag.checks.leaked_sample import LeakedSample, shared
from lightning_diag.checks.train_validation_shift import TrainValidationShift
from lightning_diag.checks.unnormalised_input import UnnormalisedInput
from lightning_diag.finding import Finding, NotObserved

X = numbers(SAMPLES, 8)
HELD = numbers(SAMPLES, 8, seed=8)


def judged(check: Any, pair: Pair) -> list[Finding] | NotObserved:
    """Ask a check about a module and its data."""
    found: list[Finding] | NotObserved = check(subject(*pair))
    return found


def reason(check: Any, pair: Pair) -> str:
    """Return why a check could not judge."""
    found = judged(check, pair)
    assert isinstance(found, NotObserved)
    return found.reason


def said(check: Any, pair: Pair) -> str:
    """Return what a check found."""
    found = judged(check, pair)
    assert isinstance(found, list)
    (finding,) = found
    return f"{finding.severity}: {finding.message}"


@pytest.mark.parametrize("code", ["unnormalised-input", "train-validation-shift"])
def test_a_check_has_the_thresholds_of_the_rule_of_the_same_name(code: str) -> None:
    (rule,) = [r for r in rules.DEFAULT_RULES if r.code == code]
    check = {c.code: c for c in (UnnormalisedInput, TrainValidationShift)}[code]
    ours = {field.name: field.default for field in fields(check)}
    assert ours == {field.name: field.default for field in fields(rule)}


# -- unnormalised-input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x: 50 * x, "root mean square of 4"),
        (lambda x: x + 12, "standard deviations away from zero"),
        (lambda x: x * torch.tensor([0.01] * 7 + [20.0]), "times as much as the median one"),
        (lambda x: x / 1000, "the largest of its inputs is"),
        (lambda x: x[:1].expand(SAMPLES, 8).clone(), "every sample that enters it is the same"),
    ],
)
def test_inputs_off_scale_are_found(change: Callable[[Tensor], Tensor], text: str) -> None:
    """C7."""
    assert text in said(UnnormalisedInput(), train_on(change(X), labels()))


@pytest.mark.parametrize("change", [lambda x: 8 * x, lambda x: x + 7, lambda x: x / 100])
def test_inputs_that_are_nearly_off_scale_are_not(change: Callable[[Tensor], Tensor]) -> None:
    assert judged(UnnormalisedInput(), train_on(change(X), labels())) == []


def test_bytes_that_are_fed_as_they_are_are_found() -> None:
    picture = torch.randint(0, 256, (SAMPLES, 8), generator=torch.Generator().manual_seed(0))
    module = Plain(nn.Sequential(_Float(), mlp()))
    assert "root mean square" in said(
        UnnormalisedInput(), (module, loader(picture.byte(), labels()))
    )


class _Float(nn.Module):
    """Converts, and does nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        """Return floats."""
        return x.float()


def test_one_nan_far_behind_in_the_data_is_found_and_bad() -> None:
    x = torch.cat([X] * 8)
    x[300, 2] = torch.nan
    text = said(UnnormalisedInput(), (Plain(mlp()), loader(x, labels(samples=len(x)))))
    assert text.startswith("bad")
    assert "1 of 512 samples" in text


def test_a_norm_behind_a_layer_undoes_scale_but_not_nan() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    assert judged(UnnormalisedInput(), (Plain(net), loader(X * 300, labels()))) == []
    broken = X.clone()
    broken[3] = torch.inf
    assert "NaN" in said(UnnormalisedInput(), (Plain(net), loader(broken, labels())))


def test_a_frozen_first_layer_was_made_for_its_data() -> None:
    net = mlp()
    net[0].requires_grad_(False)
    assert judged(UnnormalisedInput(), (Plain(net), loader(X * 300, labels()))) == []


def test_a_recurrent_network_is_looked_at_too() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(8, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.rnn(x)[0][:, -1])
            return out

    x = 40 * numbers(SAMPLES, 5, 8)
    assert "`net.rnn/rnn`" in said(UnnormalisedInput(), (Plain(Last()), loader(x, labels())))


def test_sorted_data_are_looked_at_from_end_to_end() -> None:
    """Of a class each the first batch is far from zero, and all of the data are not."""
    x = torch.arange(SAMPLES)[:, None] / 10 - 3.15 + 0.01 * X
    data = loader(x, (x[:, 0] > 0).long(), shuffle=False)
    assert judged(UnnormalisedInput(), (Plain(mlp()), data)) == []


def test_few_samples_are_no_verdict() -> None:
    few = loader(50 * X[:20], labels(samples=20))
    assert reason(UnnormalisedInput(), (Plain(mlp()), few)) == "fewer than 32 samples were seen"


def test_inputs_of_steps_that_fail_are_looked_at() -> None:
    outcome = preflight_outcome(*train_on(50 * X, labels() + 1), level=["inputs", "labels"])
    assert {f.code for f in outcome.findings} == {"unnormalised-input", "label-out-of-range"}


def test_words_are_no_numbers() -> None:
    net = nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(24, 3))
    words = torch.randint(0, 20, (SAMPLES, 6))
    assert "no layer was given data" in reason(
        UnnormalisedInput(), (Plain(net), loader(words, labels()))
    )


# -- channels-last-input -----------------------------------------------------------------------


def _convolution(channels: int) -> Plain:
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Plain(nn.Sequential(net, nn.Linear(4, 3)))


def test_channels_that_come_last_and_fail_are_bad() -> None:
    data = loader(numbers(SAMPLES, 12, 12, 3), labels())
    assert said(ChannelsLastInput(), (_convolution(3), data)).startswith("bad: At `net.0.0/conv2d`")


def test_channels_that_come_last_and_run_are_suspect() -> None:
    data = loader(numbers(SAMPLES, 20, 20, 3), labels())
    text = said(ChannelsLastInput(), (_convolution(20), data))
    assert text.startswith("suspect")
    assert "takes rows for channels" in text


@pytest.mark.parametrize("shape", [(3, 20, 20), (16, 16, 5), (16, 8, 4), (3, 40, 3)])
def test_channels_first_are_well(shape: tuple[int, ...]) -> None:
    data = loader(numbers(SAMPLES, *shape), labels())
    assert judged(ChannelsLastInput(), (_convolution(shape[0]), data)) == []


def test_another_memory_format_is_no_other_shape() -> None:
    x = numbers(SAMPLES, 3, 20, 20).to(memory_format=torch.channels_last)
    assert judged(ChannelsLastInput(), (_convolution(3), loader(x, labels()))) == []


# -- train-validation-shift --------------------------------------------------------------------


def _splits(held: Tensor) -> Pair:
    return splits(X, sloped(X), held, sloped(held))


@pytest.mark.parametrize("change", [lambda x: x + 3, lambda x: x / 255, lambda x: 2.5 * x])
def test_a_split_that_was_processed_otherwise_is_found(change: Callable[[Tensor], Tensor]) -> None:
    """C7."""
    assert "differ in tensor '0'" in said(TrainValidationShift(), _splits(change(HELD)))


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x + 0.4, lambda x: 1.4 * x])
def test_splits_that_nearly_agree_are_well(change: Callable[[Tensor], Tensor]) -> None:
    assert judged(TrainValidationShift(), _splits(change(HELD))) == []


def test_validation_sorted_by_class_is_no_shift() -> None:
    """The first batch would be; samples are from all over the split."""
    spread = torch.repeat_interleave(torch.tensor([-2.0, 0.0, 2.0]), 100)[:, None]
    x, held = numbers(300, 8) + spread[torch.randperm(300)], numbers(300, 8, seed=5) + spread
    pair = splits(x, sloped(x), held, sloped(held))
    assert judged(TrainValidationShift(), pair) == []


class Hooked(Plain):
    """Normalises on the device, each split in its own way."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Take the offset of training away in training alone."""
        x, y = batch
        return (x - 5 if self.trainer.training else x), y


def test_what_hooks_of_a_stage_do_counts() -> None:
    assert judged(TrainValidationShift(), _splits(HELD + 3)) != []
    data = (loader(X + 5, sloped(X)), loader(HELD + 5, sloped(HELD)))
    assert "their means differ by" in said(TrainValidationShift(), (Hooked(mlp()), data))


# -- leaked-sample -----------------------------------------------------------------------------


def test_samples_of_both_splits_are_found_by_what_they_hold() -> None:
    text = said(LeakedSample(), leaked(0.25))
    assert "16 of 64 samples of validation are among 64 samples of training" in text


@pytest.mark.parametrize("share", [0.0, 2 / SAMPLES])
def test_one_or_two_copies_are_no_leak(share: float) -> None:
    assert judged(LeakedSample(), leaked(share)) == []


def test_two_subsets_of_the_same_data_are_found_by_position() -> None:
    data = TensorDataset(torch.cat([X, HELD]), labels(samples=128))
    parts = Subset(data, range(70)), Subset(data, range(60, 128))
    pair = Plain(mlp()), tuple(DataLoader(part, 16) for part in parts)
    assert "10 of 68 samples of validation are among 70" in said(LeakedSample(), pair)
    apart = (
        Plain(mlp()),
        tuple(DataLoader(Subset(data, p), 16) for p in (range(64), range(64, 128))),
    )
    assert judged(LeakedSample(), apart) == []


def test_two_samplers_of_one_data_set_are_no_leak() -> None:
    data = TensorDataset(torch.cat([X, HELD]), labels(samples=128))
    halves = range(64), range(64, 128)
    both = tuple(DataLoader(data, 16, sampler=SubsetRandomSampler(half)) for half in halves)
    assert judged(LeakedSample(), (Plain(mlp()), both)) == []
    assert "64 of 64" in said(LeakedSample(), (Plain(mlp()), (both[0], both[0])))


class Files(Dataset[Any]):
    """Reads files, with changes that are drawn."""

    def __init__(self, names: list[str], transform: Any = None) -> None:
        self.samples = [(name, 0) for name in names]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        name, label = self.samples[index]
        raw = numbers(8, seed=sum(map(ord, name)))
        return (raw if self.transform is None else self.transform(raw)), label


def _noise(x: Tensor) -> Tensor:
    return x + torch.randn(8)


def _files(train: list[str], held: list[str], cls: type[Files] = Files) -> Pair:
    both = (DataLoader(cls(train, _noise), 4), DataLoader(cls(held), 4))
    return Plain(mlp()), both


def test_files_of_both_splits_are_found_by_their_names() -> None:
    names = [chr(65 + i) for i in range(20)]
    assert "what the data sets call them" in said(LeakedSample(), _files(names[:12], names[8:]))
    assert judged(LeakedSample(), _files(names[:10], names[10:])) == []


def test_augmented_samples_are_compared_without_their_transform() -> None:
    class Nameless(Files):
        def __init__(self, names: list[str], transform: Any = None) -> None:
            super().__init__(names, transform)
            self.read, self.samples = self.samples, []

        def __len__(self) -> int:
            return len(self.read)

        def __getitem__(self, index: int) -> Any:
            raw = numbers(8, seed=ord(self.read[index][0]))
            return (raw if self.transform is None else self.transform(raw)), 0

    names = [chr(65 + i) for i in range(60)]
    assert "their largest arrays" in said(LeakedSample(), _files(names[:40], names[20:], Nameless))


def test_samples_that_are_drawn_anew_cannot_be_compared() -> None:
    class Drawn(Files):
        def __getitem__(self, index: int) -> Any:
            return torch.randn(8), 0

    names = [chr(65 + i) for i in range(20)]
    pair = _files(names[:10], names[10:], Drawn)
    assert "are drawn anew each time" in reason(LeakedSample(), pair)


def test_samples_of_few_values_are_equal_by_chance() -> None:
    def few(seed: int) -> Tensor:
        return (
            torch.randint(0, 2, (SAMPLES, 8), generator=torch.Generator().manual_seed(seed)) * 1.0
        )

    x, held = few(0), few(1)
    assert shared([*map(bytes, x.byte().numpy())], [*map(bytes, held.byte().numpy())], "").hits > 3
    assert judged(LeakedSample(), splits(x, sloped(x), held, sloped(held))) == []


def test_rare_samples_that_were_copied_do_not_hide_a_leak() -> None:
    x = X[:40].repeat(4, 1)
    held = torch.cat([X[:40], numbers(200, 8, seed=9)])
    assert "40 of 240" in said(LeakedSample(), splits(x, sloped(x), held, sloped(held)))


def test_a_trainer_that_overfits_on_purpose_is_left_alone() -> None:
    class Trainer:
        overfit_batches = 2

    asked = subject(*leaked())
    asked.trainer = Trainer()
    assert isinstance(LeakedSample().judge(asked), NotObserved)


# -- features and types ------------------------------------------------------------------------


def test_half_of_the_columns_that_never_change_are_a_note() -> None:
    x = torch.cat([X[:, :4], torch.ones(SAMPLES, 4)], 1)
    assert "4 of 8 columns" in said(ConstantFeature(), train_on(x))
    x[0, 7] = 0
    assert judged(ConstantFeature(), train_on(x)) == []


def test_one_channel_that_never_changes_is_a_note() -> None:
    x = numbers(SAMPLES, 3, 6, 6)
    x[:, 1] = 0
    assert "1 of 3 channels" in said(ConstantFeature(), (_convolution(3), loader(x, labels())))
    x[5, 1, 2, 2] = 1
    assert judged(ConstantFeature(), (_convolution(3), loader(x, labels()))) == []


def test_a_column_in_two_units_is_a_note_and_one_that_is_alike_is_not() -> None:
    copy = torch.cat([X[:, :7], 100 - 2.54 * X[:, 2:3]], 1)
    assert "`2 and 7`" in said(DuplicateFeature(), train_on(copy))
    near = torch.cat([X[:, :7], X[:, 2:3] + 0.01 * HELD[:, :1]], 1)
    assert judged(DuplicateFeature(), train_on(near)) == []


def test_yes_against_no_is_no_duplicate() -> None:
    yes = (X[:, :1] > 0).float()
    assert judged(DuplicateFeature(), train_on(torch.cat([X[:, :6], yes, 1 - yes], 1))) == []


def test_duplicates_agree_with_all_pairs_by_hand() -> None:
    x = torch.cat([X, X[:, 3:4] / 3, -X[:, :1]], 1)
    by_hand = [
        (i, j)
        for i in range(10)
        for j in range(i + 1, 10)
        if abs(np.corrcoef(x[:, i], x[:, j])[0, 1]) > 1 - 1e-6
    ]
    assert duplicates(x, 8) == by_hand == [(0, 9), (3, 8)]


class Casting(Plain):
    """Converts its batch in the step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of float32."""
        x, y = batch
        return functional.cross_entropy(self(x.float()), y)


def test_doubles_that_are_converted_are_a_note_if_there_are_many() -> None:
    def pair(columns: int) -> Pair:
        data = loader(numbers(SAMPLES, columns).double(), labels(), batch_size=64)
        return Casting(nn.Linear(columns, 3)), data

    assert said(DoublePrecisionInput(), pair(16)).startswith("note: 1,024 elements")
    assert judged(DoublePrecisionInput(), pair(15)) == []


def test_doubles_that_a_layer_refuses_are_bad_however_few() -> None:
    pair = Plain(mlp()), loader(X[:16].double(), labels(samples=16))
    text = said(DoublePrecisionInput(), pair)
    assert text.startswith("bad: 128 elements")
    assert "the training step fails" in text


def test_a_module_of_doubles_wants_doubles() -> None:
    assert (
        judged(DoublePrecisionInput(), (Plain(mlp()).double(), loader(X.double(), labels()))) == []
    )


def test_dictionaries_are_looked_into() -> None:
    pictures = loader(90 * numbers(SAMPLES, 8), labels(), collate_fn=as_dictionaries)
    outcome = preflight_outcome(Dictionaries(mlp()), pictures, level=["inputs"])
    assert [f.code for f in outcome.findings] == ["unnormalised-input"]


def test_a_generator_of_the_data_set_stays_where_it_is() -> None:
    """P26."""

    class Own(Files):
        def __init__(self) -> None:
            super().__init__([chr(65 + i) for i in range(20)])
            self.random = random.Random(4)

        def __getitem__(self, index: int) -> Any:
            x, y = super().__getitem__(index)
            return x * self.random.random(), y

    data = Own()
    both = DataLoader(data, 4), DataLoader(Files(["x"] * 9), 4)
    for check in (LeakedSample(), ConstantFeature()):
        judged(check, (Plain(mlp()), both))
        assert data.random.getstate() == random.Random(4).getstate()
