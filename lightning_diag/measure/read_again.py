"""Samples read again by their index, when they are shown: nothing of them is kept before (P32)."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from lightning_diag.measure.batch_samples import content_of
from lightning_diag.measure.data import leaves
from lightning_diag.measure.filters import looks_pictured
from lightning_diag.measure.pictures import as_text

_SECONDS = 5.0
"""Our choice: seconds that samples may take to read, in all; those that are left go without."""
_LETTERS = 200
"""Our choice: letters of a text that are shown."""
_FIELDS = 8
"""Our choice: fields of a row of a table that are shown."""
Content = dict[str, Any]
"""``pixels`` with their ``shape``, ``numbers`` or ``text``, and ``name``: what is known of it."""


def read_again(
    dataset: Any,
    indices: Sequence[int],
    *,
    seconds: float = _SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, Content]:
    """Return what can be shown of some samples, as the data set gives them now.

    A sample that is augmented at random is another view of it; all random states are put back.

    Args:
        dataset: Anything with `__getitem__`; `Subset` is looked into for the names of files.
        indices: Which samples.
        seconds: Time after which no more are read.
        clock: Tells the time in seconds.

    Raises:
        Exception: Whatever the data set raises.

    Example:
        >>> read_again(["a good film", "a bad one"], [1])
        {1: {'text': 'a bad one'}}
    """
    began, found = clock(), {}
    with _same_random_state():
        for index in indices:
            if clock() - began > seconds:
                break
            _seed(index)
            name = _file_of(dataset, index)
            known = {} if name is None else {"name": name}
            found[index] = {**content(dataset[index]), **known}
    return found


def content(sample: Any) -> Content:
    """Return what can be shown of a sample: a picture, else a text, else its first numbers.

    Pictures are tensors or arrays that make one (spectrograms are), and what pillow opens. A row of
    a table, which is a mapping of single values, becomes a text.

    Example:
        >>> content({"age": 31, "height": 1.75, "label": 1})
        {'text': 'age 31, height 1.75, label 1'}
        >>> content((torch.tensor([0.5, 2.0, 1.0]), 1))
        {'numbers': [0.5, 2.0, 1.0]}
    """
    known = [_of_tensor(x) for _, x in leaves(_with_tensors(sample)) if x.dim() and x.numel()]
    pictures = [one for one in known if "pixels" in one]
    if pictures:
        return pictures[0]
    text = next(_texts(sample), None) or _row(sample)
    if text is not None:
        return {"text": text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"}
    return known[0] if known else {}


def _with_tensors(sample: Any) -> Any:
    """Return a sample with its arrays and pictures as tensors."""
    if isinstance(sample, Tensor):
        return sample.detach().cpu()
    if isinstance(sample, Mapping):
        return {str(key): _with_tensors(value) for key, value in sample.items()}
    if isinstance(sample, (list, tuple)):
        return [_with_tensors(value) for value in sample]
    if callable(getattr(sample, "convert", None)) or hasattr(sample, "__array_interface__"):
        return _tensor(sample)
    return sample


def _tensor(array: Any) -> Tensor | None:
    import numpy as np  # noqa: PLC0415  # who has arrays has numpy

    if callable(getattr(array, "convert", None)) and getattr(array, "mode", "L") not in "LRGB":
        array = array.convert("RGB")
    try:
        return torch.from_numpy(np.array(array))
    except TypeError:  # of strings or objects
        return None


def _of_tensor(x: Tensor) -> Content:
    if x.layout is not torch.strided or x.is_complex():
        return {}
    columns = content_of(x[None], torch.zeros(1, dtype=torch.int64))
    pixels = columns.get("pixels")
    if pixels is not None and ("numbers" not in columns or looks_pictured(pixels)):
        return {"shape": [*pixels.shape[2:], pixels.shape[1]], "pixels": as_text(pixels[0])}
    return {"numbers": [float(f"{value:.6g}") for value in columns["numbers"][0].tolist()]}


def _texts(sample: Any) -> Iterator[str]:
    if isinstance(sample, str):
        yield sample
    elif isinstance(sample, (list, tuple)):
        for value in sample:
            yield from _texts(value)
    elif isinstance(sample, Mapping) and _row(sample) is None:
        for value in sample.values():
            yield from _texts(value)


def _row(sample: Any) -> str | None:
    """Return a row of a table as text, None if the sample is none."""
    row = next((x for x in sample if isinstance(x, Mapping)), None) if _is_pair(sample) else sample
    if not isinstance(row, Mapping) or len(row) < 2:
        return None
    values = {key: x.item() if _is_single(x) else x for key, x in row.items()}
    if not all(isinstance(value, (int, float, str, bool)) for value in values.values()):
        return None
    parts = [f"{key} {_short(value)}" for key, value in list(values.items())[:_FIELDS]]
    return ", ".join(parts)


def _is_pair(sample: Any) -> bool:
    return isinstance(sample, (list, tuple))


def _is_single(x: Any) -> bool:
    return getattr(x, "shape", None) in ((), torch.Size([])) and hasattr(x, "item")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _file_of(dataset: Any, index: int) -> str | None:
    """Return the name of the file that a sample is in, where a folder of files is read."""
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, int(dataset.indices[index])
    for attribute in ("samples", "imgs"):
        known = getattr(dataset, attribute, None)
        if isinstance(known, list) and index < len(known):
            entry = known[index]
            first = entry[0] if isinstance(entry, (list, tuple)) and entry else entry
            return first if isinstance(first, str) else None
    return None


def _seed(seed: int) -> None:
    """Make what is random the same on every rank."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


@contextmanager
def _same_random_state() -> Iterator[None]:
    numpy = sys.modules.get("numpy")
    python, legacy = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.random.set_state(legacy)
