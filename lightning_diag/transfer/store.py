"""Where cached features lie: a folder of entries, an entry of shards, each written at once or not.

A shard is one ``.npy`` file for each column and a ``.json`` with their checksums, which is renamed
to its name last: without it the shard is not there. Who writes a shard holds a lock that the system
takes back when the process ends, however it ends. So ranks and other processes share an entry
without talking to each other: each writes what nobody else is writing, then waits for the rest.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

try:
    import fcntl
except ImportError:  # not on Windows: what two processes write at once is the same, and is renamed
    fcntl = None  # type: ignore[assignment]

Array = npt.NDArray[Any]


class CacheRefusedError(RuntimeError):
    """Why features are not cached; training them live is always right."""


@dataclass(frozen=True)
class Column:
    """One value of each sample."""

    dtype: str
    """Of numpy; ``bfloat16``, which numpy lacks, lies in ``uint16``."""
    shape: tuple[int, ...]
    """Of one sample."""

    @property
    def stored(self) -> np.dtype[Any]:
        """What numpy sees."""
        return np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype)

    @property
    def bytes(self) -> int:
        """Of one sample."""
        return int(self.stored.itemsize * np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Layout:
    """What an entry holds."""

    columns: dict[str, Column]
    rows: int
    per_shard: int
    """Rows of each shard but the last."""
    about: dict[str, Any]
    """For people: what it was made from."""

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.rows // self.per_shard)

    @property
    def bytes(self) -> int:
        """On disk, without the headers."""
        return self.rows * sum(column.bytes for column in self.columns.values())

    def rows_of(self, shard: int) -> range:
        """Return the rows of a shard."""
        return range(shard * self.per_shard, min(self.rows, (shard + 1) * self.per_shard))

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Read what `asdict` wrote."""
        values = json.loads(text)
        columns = {
            name: Column(column["dtype"], tuple(column["shape"]))
            for name, column in values.pop("columns").items()
        }
        return cls(columns=columns, **values)


class Entry:
    """One entry, kept from eviction until it is closed."""

    def __init__(self, folder: Path, layout: Layout, in_use: int) -> None:
        self.folder, self.layout = folder, layout
        self._let_go = weakref.finalize(self, os.close, in_use)
        self._open: dict[int, dict[str, Array]] = {}

    def is_whole(self, shard: int) -> bool:
        """Whether a shard is there and its files are those that were written."""
        try:
            manifest = json.loads(self._manifest(shard).read_text(encoding="utf-8"))
            return set(manifest["files"]) == {
                path.name for path in self._files(shard).values()
            } and all(
                _checksum(self.folder / name) == known for name, known in manifest["files"].items()
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def seconds(self) -> float:
        """Return how long it took to compute all shards, loading of the samples included."""
        paths = [self._manifest(shard) for shard in range(self.layout.shards)]
        texts = [path.read_text(encoding="utf-8") for path in paths]
        return sum(float(json.loads(text)["seconds"]) for text in texts)

    @contextlib.contextmanager
    def claim(self, shard: int, *, wait: bool) -> Iterator[bool]:
        """Be the one who writes a shard; yields whether this process is."""
        with (self.folder / f"{shard:05d}.lock").open("a") as lock:
            if not _lock(lock, exclusive=True, wait=wait):
                yield False
                return
            for torn in self.folder.glob(f"{shard:05d}.*.tmp"):
                torn.unlink(missing_ok=True)
            yield True

    def write(self, shard: int, columns: Mapping[str, Array], seconds: float) -> None:
        """Write a shard: whole, or not at all."""
        known = {}
        for name, path in self._files(shard).items():
            column = self.layout.columns[name]
            rows = np.ascontiguousarray(columns[name])
            expected = (len(self.layout.rows_of(shard)), *column.shape)
            if rows.shape != expected or rows.dtype != column.stored:
                raise CacheRefusedError(
                    f"{name!r} is {rows.dtype} {rows.shape} in shard {shard}, and {column.stored} "
                    f"{expected} was expected: each sample must give values of one shape and type."
                )
            known[path.name] = _written(path, functools.partial(_save, rows))
        text = json.dumps({"files": known, "seconds": seconds})
        _written(self._manifest(shard), lambda file: file.write(text.encode()))

    def read(self, rows: npt.NDArray[np.int64]) -> dict[str, Array]:
        """Return a copy of some rows of each column, in that order."""
        layout = self.layout
        if len(rows) and not (rows.min() >= 0 and rows.max() < layout.rows):
            raise IndexError(f"rows must be from 0 to {layout.rows - 1}, got {rows.tolist()}")
        shards, inside = np.divmod(rows, layout.per_shard)
        needed = np.unique(shards)
        if len(needed) == 1:
            return {name: array[inside] for name, array in self._mapped(int(needed[0])).items()}
        found = {
            name: np.empty((len(rows), *column.shape), column.stored)
            for name, column in layout.columns.items()
        }
        for shard in needed:
            mask = shards == shard
            for name, array in self._mapped(int(shard)).items():
                found[name][mask] = array[inside[mask]]
        return found

    def close(self) -> None:
        """Let others evict it."""
        self._open = {}
        self._let_go()

    def _mapped(self, shard: int) -> dict[str, Array]:
        if shard not in self._open:
            self._open[shard] = {
                name: np.load(path, mmap_mode="r") for name, path in self._files(shard).items()
            }
        return self._open[shard]

    def _files(self, shard: int) -> dict[str, Path]:
        names = self.layout.columns
        return {name: self.folder / f"{shard:05d}.{i}.npy" for i, name in enumerate(names)}

    def _manifest(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.json"


class Store:
    """A folder of entries.

    Args:
        folder: Made if it is not there.
        max_bytes: Of all entries together; None for no limit.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes

    def open(self, key: str, layout: Layout) -> tuple[Entry, bool]:
        """Return the entry of a key, made if it is not there, and whether it was.

        Raises:
            CacheRefusedError: If it does not fit, even with all evicted that nobody uses.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:
            _lock(lock, exclusive=True, wait=True)
            for dead in (*self.folder.glob(".new-*"), *self.folder.glob(".old-*")):
                shutil.rmtree(dead, ignore_errors=True)
            place = self.folder / key
            was_there = (place / "entry.json").exists()
            if not was_there:
                self._make_room(layout.bytes)
                self._make(place, layout)
            in_use = os.open(place / "in-use", os.O_RDWR)
            _lock(in_use, exclusive=False, wait=True)
            os.utime(place / "in-use")
            known = Layout.parse((place / "entry.json").read_text(encoding="utf-8"))
            return Entry(place, known, in_use), was_there

    def _make(self, place: Path, layout: Layout) -> None:
        new = self.folder / f".new-{uuid.uuid4().hex}"
        new.mkdir()
        (new / "entry.json").write_text(json.dumps(asdict(layout), indent=1), encoding="utf-8")
        (new / "in-use").touch()
        new.replace(place)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each entry, when it is full, by key."""
        return {
            path.parent.name: Layout.parse(path.read_text(encoding="utf-8")).bytes
            for path in sorted(self.folder.glob("*/entry.json"))
            if not path.parent.name.startswith(".")
        }

    def _make_room(self, needed: int) -> None:
        if self.max_bytes is None:
            return
        sizes = self.sizes()
        by_age = sorted(sizes, key=lambda key: (self.folder / key / "in-use").stat().st_mtime_ns)
        for key in by_age:
            if needed > self.max_bytes or sum(sizes.values()) + needed <= self.max_bytes:
                break
            if self._evict(key):
                del sizes[key]
        if sum(sizes.values()) + needed > self.max_bytes:
            raise CacheRefusedError(
                f"The features need {needed:,} bytes, `max_bytes` is {self.max_bytes:,}, and "
                f"entries that are in use take {sum(sizes.values()):,} of it: give more, or store "
                "them with dtype='bfloat16'."
                if needed <= self.max_bytes
                else f"The features need {needed:,} bytes, and `max_bytes` is "
                f"{self.max_bytes:,}: give more, or store them with dtype='bfloat16'."
            )

    def _evict(self, key: str) -> bool:
        """Delete an entry that nobody uses; return whether it was."""
        place = self.folder / key
        with (place / "in-use").open("a") as in_use:
            if not _lock(in_use, exclusive=True, wait=False):
                return False
            old = self.folder / f".old-{uuid.uuid4().hex}"
            place.replace(old)
        shutil.rmtree(old, ignore_errors=True)
        return True


def _lock(file: IO[str] | int, *, exclusive: bool, wait: bool) -> bool:
    """Lock an open file until it is closed; return whether that was possible."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(
            file,
            (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB),
        )
    except BlockingIOError:
        return False
    return True


def _save(rows: Array, file: Any) -> None:
    np.save(file, rows)


def _written(path: Path, write: Callable[[Any], object]) -> str:
    """Write a file under another name, then rename it; return its checksum."""
    torn = path.with_name(f"{path.name.partition('.')[0]}.{uuid.uuid4().hex}.tmp")
    with torn.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    checksum = _checksum(torn)
    torn.replace(path)
    return checksum


def _checksum(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
