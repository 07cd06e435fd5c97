"""Samples that are read again by their index: what is shown of them, and that nothing is disturbed.

P32.
"""

from __future__ import annotations

import base64
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from lightning_diag.measure.read_again import content, read_again

GREY = torch.arange(64, dtype=torch.uint8).reshape(8, 8)


def states() -> list[Any]:
    numpy = np.random.get_state()  # noqa: NPY002
    return [random.getstate(), str(numpy), torch.get_rng_state().tolist()]


class Augmented:
    """Draws from every random state."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return torch.full((3,), float(noise)), index


def test_random_states_are_as_before_and_each_rank_would_read_the_same() -> None:
    before = states()
    first = read_again(Augmented(), [3, 5])
    assert states() == before
    torch.rand(7)
    second = read_again(Augmented(), [5, 3])
    assert first == second
    assert first[3] != first[5]


def test_random_states_are_put_back_when_a_sample_cannot_be_read() -> None:
    class Broken(Augmented):
        def __getitem__(self, index: int) -> Any:
            super().__getitem__(index)
            raise OSError("gone")

    before = states()
    with pytest.raises(OSError, match="gone"):
        read_again(Broken(), [0])
    assert states() == before


def test_reading_stops_when_it_takes_too_long() -> None:
    seconds = iter(range(100))
    found = read_again(["a", "b", "c", "d"], [3, 2, 1, 0], seconds=2.5, clock=lambda: next(seconds))
    assert list(found) == [3, 2]


@pytest.mark.parametrize(
    "sample",
    [
        (GREY[None].float() / 63, 3),
        {"image": GREY.numpy(), "label": 3},
        (Image.fromarray(GREY.numpy()), torch.tensor(3)),
        [torch.tensor([1.0, 2.0]), GREY[..., None]],
    ],
)
def test_a_picture_is_shown_as_one_whatever_holds_it(sample: Any) -> None:
    """A tensor, an array, or what pillow has opened; before numbers."""
    found = content(sample)
    assert found["shape"] == [8, 8, 1]
    shown = list(base64.b64decode(found["pixels"]))
    assert sorted(shown) == shown
    assert len(set(shown)) > 60


def test_a_spectrogram_is_shown_as_a_picture_and_a_short_table_by_its_numbers() -> None:
    rising = torch.arange(80.0)[:, None] + torch.arange(100.0)
    assert content((rising, 1))["shape"] == [20, 25, 1]
    assert "numbers" in content((torch.rand(12, 7), 1))


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (("a good film", 1), "a good film"),
        ({"text": "a good film", "tokens": torch.arange(5), "label": 1}, "a good film"),
        ("x" * 300, "x" * 199 + "…"),
        (
            ({"age": 31, "town": "Ulm", "height": torch.tensor(1.75)}, 0),
            "age 31, town Ulm, height 1.75",
        ),
    ],
)
def test_text_and_rows_of_tables_are_shown_as_text(sample: Any, text: str) -> None:
    assert content(sample) == {"text": text}


def test_what_is_nothing_of_these_is_left_out() -> None:
    assert content(3) == {}
    assert content((None, torch.tensor(3), np.array(["a"], dtype=object))) == {}


def test_files_have_their_names_also_in_a_subset() -> None:
    class Folder(Dataset[Any]):
        samples = [(f"cat/{i}.png", 0) for i in range(4)]  # noqa: RUF012

        def __getitem__(self, index: int) -> Any:
            return Path(self.samples[index][0]).stem

    found = read_again(Subset(Subset(Folder(), [3, 1]), [1]), [0])
    assert found == {0: {"text": "1", "name": "cat/1.png"}}
    assert "name" not in read_again(TensorDataset(torch.zeros(2, 3)), [1])[1]
