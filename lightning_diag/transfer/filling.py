"""Computes the features of all samples and puts them into a store, or finds them there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_diag.transfer import reading
from lightning_diag.transfer.keys import Digest, arithmetic, prefix_key
from lightning_diag.transfer.prefix import Cut
from lightning_diag.transfer.reading import DataKey, Samples
from lightning_diag.transfer.serving import captured, detached
from lightning_diag.transfer.store import CacheRefusedError, Column, Entry, Layout, Store
from lightning_diag.transfer.trees import dtype_name, leaves, rebuilt, to_array
from lightning_diag.transfer.where import Where

Check = Literal["all", "sampled"]
Stored = Literal["bfloat16", "float16"]

_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}
"""Our choice: the share of the largest feature by which another batch may change one. Sums in
another order change it by much less, other samples in its place by much more."""
_FEATURES, _REST = "features", "batch"


@dataclass(frozen=True)
class Settings:
    """What may be chosen; see `cache_features`."""

    folder: str
    dtype: Stored | None = None
    max_bytes: int | None = None
    views: int | None = None
    check: Check = "all"
    samples: int = 64
    key: str = ""
    seed: int = 0
    shard_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        problems = {
            f"`dtype` must be 'bfloat16', 'float16' or None, got {self.dtype!r}.": (
                self.dtype not in (None, "bfloat16", "float16")
            ),
            f"`check` must be 'all' or 'sampled', got {self.check!r}.": (
                self.check not in ("all", "sampled")
            ),
            f"`views` must be at least 1 view of each sample, or None, got {self.views}.": (
                self.views is not None and self.views < 1
            ),
            f"`samples` must be at least 1 sample, got {self.samples}.": self.samples < 1,
            f"`max_bytes` must be at least 1 byte, or None, got {self.max_bytes}.": (
                self.max_bytes is not None and self.max_bytes < 1
            ),
            f"`shard_bytes` must be at least 1 byte, got {self.shard_bytes}.": self.shard_bytes < 1,
        }
        for message, broken in problems.items():
            if broken:
                raise ValueError(message)


@dataclass
class Filled:
    """Features of all samples."""

    entry: Entry
    key: str
    was_there: bool
    """Whether another run, or an earlier part of this one, had computed them."""
    exact: bool
    """Whether features had the same bits in batches of other samples."""
    dtypes: Mapping[str, torch.dtype]
    """Of each column as the model has it."""
    output: Any
    """One output of the frozen part, for its structure."""
    batch: Any
    """One batch, for its structure."""
    seconds: float = 0.0
    """What computing all features takes, loading of the samples included, in one process."""


def first_batch(samples: Samples, settings: Settings) -> tuple[list[int], Any]:
    """Return the batch that a model is tried out with."""
    indices = [i % len(samples) for i in range(samples.batch_size)]
    batch = samples.batch(indices, None if settings.views is None else 0)
    reading.require_rows(batch, len(indices))
    return indices, batch


@dataclass(frozen=True)
class Job:
    """All that features are made from."""

    where: Where
    cut: Cut
    samples: Samples
    settings: Settings
    data: DataKey
    """What the samples are, see `reading.data_key`."""


def fill(job: Job) -> Filled:
    """Return the features of all samples: from the store, as far as they are there."""
    where, cut, samples, settings = job.where, job.cut, job.samples, job.settings
    indices, batch = first_batch(samples, settings)
    output = _run(where, cut, batch)
    exact = _mixes_no_samples(where, cut, samples, settings, (indices, batch, output))
    columns, dtypes = _columns(batch, output, where, settings)
    with where.prepared():
        bits = arithmetic(where.device)
    digest = Digest().add(
        [cut.within, cut.frontier, where.inputs, settings.dtype, bits, job.data.key]
    )
    digest.add(prefix_key(cut.modules(where.model), cut.extra))
    # What no hash of settings can know, such as the user's code around layers, shows here.
    key = digest.add(reading.rows_hash(output, len(indices))).hex()
    views = settings.views or 1
    size = samples.batch_size
    row = sum(column.bytes for column in columns.values())
    per_view = -(-len(samples) // size) * size
    ideal = max(1, settings.shard_bytes // max(1, row * size)) * size
    share = -(-per_view * views // (size * where.world)) * size
    layout = Layout(
        columns,
        len(samples) * views,
        min(ideal, share),
        {"frontier": cut.frontier, "samples": len(samples), "views": views, **bits},
    )
    entry, was_there = Store(settings.folder, settings.max_bytes).open(key, layout)
    try:
        complete = _fill_shards(entry, job)
    except BaseException:
        entry.close()
        raise
    return Filled(entry, key, was_there and complete, exact, dtypes, output, batch, entry.seconds())


def _run(where: Where, cut: Cut, batch: Any) -> Any:
    args, kwargs = where.arguments(batch)
    with where.context():
        output = captured(where.model, cut, args, kwargs)
        return rebuilt(output, lambda _, value: detached(value))


def _mixes_no_samples(
    where: Where, cut: Cut, samples: Samples, settings: Settings, tried: tuple[list[int], Any, Any]
) -> bool:
    """Refuse features that depend on the other samples of a batch; return whether bits agree."""
    indices, _, output = tried
    size = len(indices)
    others = samples.spread(size)
    mixed = [indices[-1 - i // 2] if i % 2 else others[i % len(others)] for i in range(size)]
    batch = samples.batch(mixed, None if settings.views is None else 0)
    reading.require_rows(batch, size)
    rows = [(indices[-1 - i // 2], i) for i in range(size) if i % 2]
    for path, value in leaves(tried[1]).items():
        for old, new in rows:
            if not torch.equal(value[indices.index(old)], leaves(batch)[path][new]):
                raise CacheRefusedError(
                    f"transforms are random: sample {old} is another one when it is fetched again, "
                    "in a batch with others. Take the random part out, or cache several random "
                    "views of each sample with `views`"
                )
    found, known = leaves(_run(where, cut, batch)), leaves(output)
    exact = True
    for path, value in known.items():
        if found[path].shape != value.shape:
            raise CacheRefusedError(
                f"the shape of what {cut.frontier!r} puts out depends on the samples"
            )
        for old, new in rows:
            first, second = value[indices.index(old)], found[path][new]
            if torch.equal(first, second):
                continue
            exact = False
            scale = value.abs().max().item() if value.is_floating_point() else 0.0
            gap = (first - second).abs().max().item() if value.is_floating_point() else 1.0
            if not gap <= _ROUNDING.get(value.dtype, 0.0) * scale:
                raise CacheRefusedError(
                    f"{cut.frontier!r} mixes samples: the features of sample {old} differ by "
                    f"{gap:.2g} in a batch with other samples"
                )
    return exact


def _columns(
    batch: Any, output: Any, where: Where, settings: Settings
) -> tuple[dict[str, Column], dict[str, torch.dtype]]:
    taken = {path for _, path in where.inputs}
    values = {f"{_FEATURES}/{path}": value for path, value in leaves(output).items()}
    columns = {
        name: Column(
            settings.dtype
            if settings.dtype and value.is_floating_point()
            else dtype_name(value.dtype),
            tuple(value.shape[1:]),
        )
        for name, value in values.items()
    }
    rest = {f"{_REST}/{path}": value for path, value in leaves(batch).items() if path not in taken}
    columns |= {
        name: Column(dtype_name(value.dtype), tuple(value.shape[1:]))
        for name, value in rest.items()
    }
    dtypes = {name: value.dtype for name, value in {**values, **rest}.items()}
    return columns, dtypes


def _fill_shards(entry: Entry, job: Job) -> bool:
    """Compute what is missing and nobody else computes, then wait; return whether nothing was."""
    rank, world = job.where.rank, job.where.world
    order = sorted(range(entry.layout.shards), key=lambda shard: (shard % world != rank, shard))
    busy: list[int] = []
    complete = True
    for wait in (False, True):
        for shard in busy if wait else order:
            if entry.is_whole(shard):
                continue
            complete = False
            with entry.claim(shard, wait=wait) as is_ours:
                if not is_ours:
                    busy.append(shard)
                elif not entry.is_whole(shard):
                    _compute(entry, shard, job)
    return complete


def _compute(entry: Entry, shard: int, job: Job) -> None:
    start = time.perf_counter()
    samples, data = job.samples, job.data
    rows, count = entry.layout.rows_of(shard), len(samples)
    taken = {path for _, path in job.where.inputs}
    parts: dict[str, list[Tensor]] = {name: [] for name in entry.layout.columns}
    for part, view in _by_view(rows, count, job.settings.views):
        for indices, batch in samples.in_order(part, view, seed=shard + 1):
            reading.require_rows(batch, len(indices))
            keep = min(len(indices), part.stop - indices[0])
            known = data.batches.get(indices[0])
            if known not in (None, reading.rows_hash(batch, keep)):
                raise CacheRefusedError(
                    f"transforms are random: samples {indices[0]} to {indices[-1]} are others when "
                    "they are fetched again. Take the random part out, or cache several random "
                    "views of each sample with `views`"
                )
            values = {
                f"{_FEATURES}/{path}": v
                for path, v in leaves(_run(job.where, job.cut, batch)).items()
            }
            values |= {
                f"{_REST}/{path}": v for path, v in leaves(batch).items() if path not in taken
            }
            for name, value in values.items():
                parts[name].append(_stored(value[:keep], entry.layout.columns[name]))
    columns = {name: to_array(torch.cat(tensors)) for name, tensors in parts.items()}
    entry.write(shard, columns, time.perf_counter() - start)


def _by_view(rows: range, count: int, views: int | None) -> Iterator[tuple[range, int | None]]:
    """Split rows, in which view follows view, into numbers of samples and their view."""
    start = rows.start
    while start < rows.stop:
        view = start // count
        stop = min(rows.stop, (view + 1) * count)
        yield range(start - view * count, stop - view * count), None if views is None else view
        start = stop


def _stored(value: Tensor, column: Column) -> Tensor:
    value = value.detach().cpu()
    return value.to(getattr(torch, column.dtype))
