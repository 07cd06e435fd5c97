"""What is on disk is whole or not there, and no more than may be (P44)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from distributed.launch import environment
from torch.utils.data import TensorDataset

from lightning_diag.transfer.features import cache_features
from lightning_diag.transfer.store import CacheRefusedError, Column, Entry, Layout, Store
from transfer.caches import pictures
from transfer.test_cache_keys import backbone

COLUMN = {"features/": Column("float32", (4,))}


def layout(rows: int = 10, per_shard: int = 4) -> Layout:
    return Layout(COLUMN, rows, per_shard, {})


def rows_of(shard: range, offset: float = 0.0) -> dict[str, Any]:
    values = np.asarray([[i + offset] * 4 for i in shard], dtype=np.float32)
    return {"features/": values}


def filled(store: Store, key: str, rows: int = 10) -> Entry:
    entry, _ = store.open(key, layout(rows))
    for shard in range(entry.layout.shards):
        with entry.claim(shard, wait=True) as ours:
            assert ours
            entry.write(shard, rows_of(entry.layout.rows_of(shard)), 0.5)
    return entry


def test_rows_come_in_the_order_that_they_are_asked_for(tmp_path: Path) -> None:
    entry = filled(Store(tmp_path), "a")
    found = entry.read(np.asarray([9, 0, 4, 4]))["features/"]
    assert found[:, 0].tolist() == [9, 0, 4, 4]
    assert entry.read(np.asarray([5, 6]))["features/"][:, 3].tolist() == [5, 6]
    assert entry.seconds() == 1.5
    found[:] = 0  # a copy
    assert entry.read(np.asarray([9]))["features/"][0, 0] == 9
    with pytest.raises(IndexError, match="rows must be from 0 to 9"):
        entry.read(np.asarray([10]))


@pytest.mark.parametrize("harm", ["cut", "bit", "gone", "no manifest", "torn manifest"])
def test_a_damaged_shard_is_not_whole(tmp_path: Path, harm: str) -> None:
    entry = filled(Store(tmp_path), "a")
    file, manifest = entry.folder / "00001.0.npy", entry.folder / "00001.json"
    data = file.read_bytes()
    if harm == "cut":
        file.write_bytes(data[:-1])
    elif harm == "bit":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "gone":
        file.unlink()
    elif harm == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:20])
    assert [entry.is_whole(shard) for shard in range(3)] == [True, False, True]


def test_rows_of_another_shape_or_type_are_refused(tmp_path: Path) -> None:
    entry, _ = Store(tmp_path).open("a", layout())
    for wrong in (np.zeros((4, 3), np.float32), np.zeros((4, 4)), np.zeros((3, 4), np.float32)):
        with pytest.raises(CacheRefusedError, match="one shape and type"):
            entry.write(0, {"features/": wrong}, 0.0)
        assert not entry.is_whole(0)


def test_one_writer_has_a_shard_and_others_wait_for_it(tmp_path: Path) -> None:
    entry, _ = Store(tmp_path).open("a", layout())
    order: list[str] = []

    def other() -> None:
        with entry.claim(0, wait=True) as ours:
            order.append(f"second {ours}")

    with entry.claim(0, wait=False) as ours:
        assert ours
        with entry.claim(0, wait=False) as also_ours, entry.claim(1, wait=False) as another:
            assert (also_ours, another) == (False, True)
        thread = threading.Thread(target=other)
        thread.start()
        order.append("first")
    thread.join(30)
    assert order == ["first", "second True"]


def _keys(store: Store) -> list[str]:
    return sorted(store.sizes())


def _age(store: Store, *keys: str) -> None:
    """Say in which order entries were used last."""
    for i, key in enumerate(keys):
        os.utime(store.folder / key / "in-use", (1000 + i, 1000 + i))


def test_the_least_recently_used_entry_goes_first_and_whole(tmp_path: Path) -> None:
    store = Store(tmp_path, 3 * 160)
    for key in "abc":
        filled(store, key).close()
    _age(store, "b", "c", "a")
    filled(store, "d").close()
    assert _keys(store) == ["a", "c", "d"]
    assert not (tmp_path / "b").exists()
    assert not list(tmp_path.glob(".old-*"))
    filled(store, "e", 20).close()
    assert sum(store.sizes().values()) <= 3 * 160
    assert "e" in _keys(store)


def test_an_entry_in_use_is_never_deleted(tmp_path: Path) -> None:
    store = Store(tmp_path, 2 * 160)
    used = filled(store, "a")
    filled(store, "b").close()
    _age(store, "a", "b")
    filled(store, "c").close()
    assert _keys(store) == ["a", "c"]
    with pytest.raises(CacheRefusedError, match="entries that are in use take 160 of it"):
        store.open("d", layout(20))
    assert used.read(np.asarray([3]))["features/"][0, 0] == 3
    used.close()
    filled(store, "d", 20).close()
    assert _keys(store) == ["d"]


def test_more_than_there_may_be_deletes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, 200)
    filled(store, "a").close()
    with pytest.raises(CacheRefusedError, match="need 320 bytes, and `max_bytes` is 200"):
        store.open("b", layout(20))
    assert _keys(store) == ["a"]


def test_remains_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = filled(store, "a")
    (tmp_path / ".new-1").mkdir()
    (tmp_path / ".old-1").mkdir()
    torn = entry.folder / "00001.abc.tmp"
    torn.write_bytes(b"half")
    store.open("b", layout())
    with entry.claim(1, wait=True):
        assert not torn.exists()
    assert not list(tmp_path.glob(".*"))


FILL = """
import os, sys, time
print(os.getpid(), flush=True)
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from transfer.caches import pictures
from transfer.test_cache_keys import backbone
from lightning_diag.transfer import store
import warm
from lightning_diag.transfer.features import cache_features
torch.set_num_threads(1)
slow, written = float(sys.argv[3]), store._written
def slowly(path, write):
    def half(file):
        write(file)
        file.flush()
        print(path.name, flush=True)
        time.sleep(slow)
    return written(path, half)
store._written = slowly
features = cache_features(backbone(), "", pictures(40), sys.argv[1], batch_size=4, shard_bytes=1)
print("done", features.was_there, features.key, flush=True)
"""


def fill(folder: Path, seconds: float, out: Path) -> warm.Command:
    """Fill a cache in another process, which stops for a while in the middle of each file."""
    words = ["-c", FILL, str(folder), str(Path(__file__).parent.parent), str(seconds)]
    return warm.Command(words, str(folder), environment(), str(out), str(out), strict=False)


@contextlib.contextmanager
def filling(folder: Path, seconds: float, files: int) -> Iterator[None]:
    """Run a block in the middle of a file that another process writes, and kill that at its end.

    Args:
        files: How many files it has begun by then.
    """
    out = folder / "out"
    with ThreadPoolExecutor(1) as pool:
        statuses = pool.submit(warm.run_all, [fill(folder, seconds, out)], 100.0)
        try:
            while len(lines := out.read_text().splitlines() if out.exists() else []) <= files:
                assert not statuses.done(), lines
                time.sleep(0.002)
            yield
        finally:
            if not statuses.done():
                os.killpg(int(out.read_text().split()[0]), signal.SIGKILL)
        assert statuses.result() == [-signal.SIGKILL]
    out.unlink()


@pytest.mark.multiprocess
@pytest.mark.timeout(120)
def test_a_killed_writer_leaves_no_torn_entry(tmp_path: Path) -> None:
    with filling(tmp_path, 0.05, files=8):  # in the middle of the third shard
        pass
    assert list(tmp_path.glob("*/*.tmp"))
    features = cache_features(backbone(), "", pictures(40), tmp_path, batch_size=4, shard_bytes=1)
    assert not features.was_there
    clean = cache_features(
        backbone(), "", pictures(40), tmp_path / "clean", batch_size=4, shard_bytes=1
    )
    assert features.key == clean.key
    for i in range(40):
        assert torch.equal(features[i][0], clean[i][0])
        assert features[i][1] == i
    whole = [path.name for path in tmp_path.glob("*/*.json") if path.name != "entry.json"]
    assert len(whole) == 10
    assert not list(tmp_path.glob("*/*.tmp"))


@pytest.mark.multiprocess
@pytest.mark.timeout(120)
def test_processes_share_the_work_and_each_file_is_written_once(tmp_path: Path) -> None:
    outs = [tmp_path / f"{i}.out" for i in range(3)]
    assert warm.run_all([fill(tmp_path, 0.02, out) for out in outs], 100.0) == [0, 0, 0]
    outputs = [out.read_text().split() for out in outs]
    assert len({output[-1] for output in outputs}) == 1
    written = [name for output in outputs for name in output if name.endswith((".npy", ".json"))]
    assert sorted(written) == sorted(set(written))
    assert len(written) == 30  # features, targets and manifest of ten shards


def test_a_damaged_shard_is_computed_anew(tmp_path: Path) -> None:
    def cached() -> Any:
        return cache_features(backbone(), "", pictures(16), tmp_path, batch_size=4, shard_bytes=1)

    known = [cached()[i][0] for i in range(16)]
    file = min(tmp_path.glob("*/00002.0.npy"))
    stamps = {path: path.stat().st_ino for path in tmp_path.glob("*/*.npy")}
    file.write_bytes(file.read_bytes()[:-4] + b"torn")
    again = cached()
    assert not again.was_there
    assert all(torch.equal(again[i][0], known[i]) for i in range(16))
    changed = {path.name for path, inode in stamps.items() if path.stat().st_ino != inode}
    assert changed == {"00002.0.npy", "00002.1.npy"}


def test_open_features_are_read_while_others_make_room(tmp_path: Path) -> None:
    """An entry that is in use outlives the wish for room; closed, it goes."""
    options: dict[str, Any] = {"batch_size": 4, "max_bytes": 1500}
    used = cache_features(backbone(), "", pictures(16), tmp_path, **options)
    other = TensorDataset(*(tensor[:16] for tensor in pictures(20, seed=9).tensors))
    with pytest.raises(CacheRefusedError, match="in use"):
        cache_features(backbone(), "", other, tmp_path, **options)
    assert used[3][1] == 3
    used.close()
    assert not cache_features(backbone(), "", other, tmp_path, **options).was_there
    assert len(list(tmp_path.glob("*/entry.json"))) == 1


def test_a_killed_process_lets_go_of_what_it_used(tmp_path: Path) -> None:
    with filling(tmp_path, 30.0, files=1):
        (key,) = _keys(Store(tmp_path))
        assert not Store(tmp_path)._evict(key)
    end = time.monotonic() + 30
    while not Store(tmp_path)._evict(key) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _keys(Store(tmp_path))
