"""Finds the samples of a loss in a batch, and takes what is shown of some of them (W13)."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from lightning_diag.measure.data import leaves
from lightning_diag.measure.pictures import Layout, arranged, layout_of, shrunk

_NUMBERS = 8
"""Our choice: numbers that are kept of a sample that is no picture."""
_INDEX_NAMES = frozenset({"index", "indices", "idx", "id", "ids", "sample_id", "sample_index"})
"""Names under which batches carry the positions of their samples in the data set."""
_LEAST_SPECTROGRAM = 16
"""Our choice: along each side of a table of numbers that is drawn, such as a spectrogram."""
_INDICES = (torch.int64, torch.int32, torch.int16, torch.bool)


class Samples:
    """The tensors of a batch, held only as long as somebody else holds them.

    Args:
        batch: What the model is trained on.
    """

    def __init__(self, batch: Any) -> None:
        found = [(name, x) for name, x in leaves(batch) if _is_plain(x)]
        self._tensors = [(name, weakref.ref(x)) for name, x in found]

    def _alive(self) -> list[tuple[str, Tensor]]:
        return [(name, x) for name, ref in self._tensors if (x := ref()) is not None]

    def content(self, rows: int, target: Tensor) -> tuple[Tensor, int] | None:
        """Return the tensor that holds the samples of so many rows, and the rows of each sample.

        The first that makes pictures, else the first. The target is left out, unless it makes
        pictures and nothing else does, as for an autoencoder. Rows may be the positions of
        sequences, also without their first or last one.
        """
        best: tuple[int, Tensor, int] | None = None
        for name, x in self._alive():
            each = _rows_of_each(x, rows)
            rank = 2 * _is_pictured(x) - _is_same(x, target)
            if each and rank >= 0 and not _is_index(name) and (best is None or rank > best[0]):
                best = (rank, x, each)
        return None if best is None else best[1:]

    def index(self, samples: int) -> Tensor | None:
        """Return the positions of the samples in the data set, where the batch carries them."""
        for name, x in self._alive():
            is_whole = not x.is_floating_point() and x.dtype is not torch.bool
            if _is_index(name) and is_whole and x.shape == (samples,):
                return x
        return None


def _is_plain(x: Tensor) -> bool:
    return type(x) is Tensor and x.layout is torch.strided and x.dim() > 0 and not x.is_complex()


def _is_index(name: str) -> bool:
    return name.rpartition(".")[2].lower() in _INDEX_NAMES


def _is_pictured(x: Tensor) -> bool:
    return x.dtype not in _INDICES and _layout_of(x) is not None


def _layout_of(x: Tensor) -> Layout | None:
    """Return how samples make pictures; tables of many numbers, such as spectrograms, do as well.

    Shape:
        ``(samples, *)``.
    """
    found = layout_of(x.shape[1:])
    is_table = x.dim() == 3 and min(x.shape[1:]) >= _LEAST_SPECTROGRAM and x.is_floating_point()
    if found is None and is_table:
        return Layout(x.shape[1], x.shape[2], 1, is_last=False)
    return found


def _is_same(x: Tensor, target: Tensor) -> bool:
    return x is target or (x.data_ptr() == target.data_ptr() and x.numel() == target.numel())


def _rows_of_each(x: Tensor, rows: int) -> int:
    """Return how many rows a loss has for each sample of a tensor, 0 if it is not of this batch."""
    samples = x.shape[0]
    if samples == rows:
        return 1
    each = rows // max(1, samples)
    is_sequence = x.dim() > 1 and each * samples == rows and each in (x.shape[1], x.shape[1] - 1)
    return each if is_sequence else 0


def content_of(x: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """Return some samples as pictures or by their first numbers; by both where either may be right.

    Shape:
        ``(samples, *)`` and ``(n,)`` -> pixels ``(n, channels, height, width)`` from 0 to 255, and
        numbers ``(n, 8)`` or fewer.
    """
    samples = x.detach()[chosen]
    found = {"numbers": samples.reshape(len(samples), -1)[:, :_NUMBERS]}
    layout = _layout_of(x)
    if layout is None or not _is_pictured(x):
        return found
    pictures = shrunk(arranged(samples, layout).float())
    if x.dtype is not torch.uint8:
        pictures = _stretched(pictures)
    return {"pixels": pictures} if x.dim() > 3 else {"pixels": pictures, **found}


def _stretched(pictures: Tensor) -> Tensor:
    """Return pictures from 0 to 255: those within 0 and 1 as they are, others by their extremes."""
    flat = pictures.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    is_unit = (low >= 0) & (high <= 1)
    low = low.where(~is_unit, torch.zeros_like(low))
    size = (high - low).where(~is_unit, torch.ones_like(low)).clamp(min=1e-12)
    return (pictures - low[:, None, None, None]) / size[:, None, None, None] * 255
