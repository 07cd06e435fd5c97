"""`cache_features`: what frozen layers put out, computed once, as a dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_diag.transfer import reading
from lightning_diag.transfer.cutting import find_cut
from lightning_diag.transfer.filling import Check, Filled, Job, Settings, Stored, fill, first_batch
from lightning_diag.transfer.reading import Samples
from lightning_diag.transfer.stand_in import CachedInput, Features
from lightning_diag.transfer.trees import leaves, rebuilt, to_tensor
from lightning_diag.transfer.where import Inputs, Where, device_of, input_paths


class CachedFeatures(Dataset[Any]):
    """Samples with the features of frozen layers in the place of their input.

    What is read comes from a memory map; nothing is held in memory.
    """

    def __init__(
        self, filled: Filled, inputs: Inputs, samples: Samples, settings: Settings
    ) -> None:
        self._filled, self._inputs, self._samples = filled, inputs, samples
        self._settings = settings
        whole_bits = settings.dtype is None and settings.views is None
        self.sizes: dict[int, bool] | None = {samples.batch_size: True} if whole_bits else None
        """Whether features have the bits of those in batches of so many samples; see `Serving`."""
        self.epoch = 0
        """Decides which of several views of a sample is read."""

    @property
    def key(self) -> str:
        """Hash of all that the features depend on; the name of their folder."""
        return self._filled.key

    @property
    def inputs(self) -> Inputs:
        """Which values of a batch they were computed from."""
        return self._inputs

    @property
    def was_there(self) -> bool:
        """Whether nothing had to be computed."""
        return self._filled.was_there

    @property
    def exact(self) -> bool:
        """Whether features of one sample had the same bits in two batches of unlike samples."""
        return self._filled.exact

    @property
    def seconds(self) -> float:
        """What computing all features took, in one process, loading of the samples included."""
        return self._filled.seconds

    def close(self) -> None:
        """Let the store evict them when it needs room."""
        self._filled.entry.close()

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        features, rest = self._read([int(i) for i in indices])
        first = self._inputs[0][1]
        found = []
        for i in range(len(indices)):
            output = self._built({name: tensor[i] for name, tensor in features.items()})
            row: dict[str, Any] = {path: tensor[i] for path, tensor in rest.items()}
            row[first] = output
            found.append(self._sample(row))
        return found

    def _sample(self, values: Mapping[str, Any]) -> Any:
        """Put a sample together; further inputs have no features of their own."""
        return rebuilt(self._filled.batch, lambda path, _: values.get(path))

    def batch(self, indices: Sequence[int]) -> Any:
        """Return a batch as a loader would, with what stands in for its inputs."""
        rows = [int(i) for i in indices]
        tensors, rest = self._read(rows)
        features = Features(tensors, self.key, self._built)
        real: dict[str, Any] = {}

        def load(path: str) -> Tensor:
            if self._settings.views is not None:
                raise RuntimeError(
                    f"The batch's {path!r} is used outside of the frozen part, or the frozen part "
                    "has changed in the middle of an epoch, and of random views only the features "
                    "are kept: leave `views` out."
                )
            if not real:
                real.update(leaves(self._samples.batch(rows)))
            tensor: Tensor = real[path]
            return tensor

        def leaf(path: str, value: Tensor) -> Any:
            if path in rest:
                return rest[path]
            meta = torch.empty((len(rows), *value.shape[1:]), dtype=value.dtype, device="meta")
            return CachedInput(path, meta, features, load)

        return rebuilt(self._filled.batch, leaf)

    def _built(self, tensors: Mapping[str, Tensor]) -> Any:
        return rebuilt(self._filled.output, lambda path, _: tensors[path])

    def _read(self, indices: list[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"samples are numbered from 0 to {len(self) - 1}, got {indices}")
        views = self._settings.views
        if views is not None and views > 1:
            draw = np.random.default_rng([self._settings.seed, self.epoch])
            rows = rows + len(self) * draw.integers(views, size=len(self))[rows]
        parts: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        for name, array in self._filled.entry.read(rows).items():
            kind, _, path = name.partition("/")
            column = self._filled.entry.layout.columns[name]
            parts[kind == "batch"][path] = to_tensor(array, column.dtype, self._filled.dtypes[name])
        return parts


def cache_features(
    module: nn.Module,
    frontier: str | None,
    data: Any,
    folder: str | os.PathLike[str],
    *,
    within: str | None = None,
    inputs: str | Sequence[str] | None = None,
    batch_size: int = 64,
    dtype: Stored | None = None,
    max_bytes: int | None = None,
    views: int | None = None,
    check: Check = "all",
    samples: int = 64,
    key: str = "",
    seed: int = 0,
    shard_bytes: int = 64 * 2**20,
) -> CachedFeatures:
    """Compute the output of frozen layers once, or find it where it was stored (P44).

    Args:
        module: The model, in the modes and on the device that it is trained in.
        frontier: Name of the submodule whose output is stored, ``""`` for the module itself; what
            runs before it must be frozen. None takes the deepest one that is.
        data: A dataset or a loader, whose order and drawing do not matter.
        folder: Where features are stored; several processes may share it.
        within: Name of the submodule that is called with the input: None is the first part of
            `frontier`, or the model itself.
        inputs: Paths of the inputs in a batch (``"0"``, ``"image"``), several in the order of the
            arguments, with ``name=`` before those that are passed by name. None is the batch's
            first value.
        batch_size: Of a dataset's batches; a loader has its own.
        dtype: ``bfloat16`` or ``float16`` to store floating point numbers in; None stores them as
            they are.
        max_bytes: Of all features in `folder`; those that were used least recently are deleted.
        views: How many random views of each sample to store; None refuses random samples.
        check: ``all`` reads every sample to see whether it is the same; ``sampled`` reads
            `samples` of them, evenly spread, and trusts `key` for the others.
        samples: How many samples are read twice, to see whether they are random.
        key: Any text that becomes part of the key, such as a version of the data.
        seed: Decides which view of a sample is read in which epoch.
        shard_bytes: Size of one file, about. Our choice of 64 MiB: what a killed run loses.

    Raises:
        CacheRefusedError: With the reason, if stored features could be wrong.
        ValueError: If an argument is out of range.

    Example:
        >>> import tempfile
        >>> from torch.utils.data import TensorDataset
        >>> net = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3)).requires_grad_(False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cached = cache_features(net, "0", TensorDataset(torch.ones(6, 4)), folder)
        ...     len(cached), cached[5][0].shape, cached.was_there
        (6, torch.Size([2]), False)
    """
    settings = Settings(
        str(folder), dtype, max_bytes, views, check, samples, key, seed, shard_bytes
    )
    source = Samples.of(data, batch_size)
    if views is None:
        reading.require_repeatable(source, samples)
    _, batch = first_batch(source, settings)
    if within is None:
        within = (frontier or "").partition(".")[0]
    paths = input_paths(inputs, batch)
    where = Where(module, within, paths, device_of(module), nullcontext)
    cut = find_cut(where, batch, frontier, moves=frontier is None)
    known = reading.data_key(source, check=check, count=samples, views=views, key=key)
    return CachedFeatures(fill(Job(where, cut, source, settings, known)), paths, source, settings)
