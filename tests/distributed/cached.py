"""Scenarios: ranks that train on one cache of features."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transfer.caches import Transfer, cache, fit, loader, pictures

from distributed.training import Seat
from lightning_diag.transfer.keys import Digest


def _train(seat: Seat, *callbacks: Any, **options: Any) -> Transfer:
    warnings.filterwarnings("ignore", r"Found .* module\(s\) in eval mode at the start")
    module = Transfer()
    module.head[1] = nn.Identity()  # batch norm has statistics of its own on each rank
    return fit(  # type: ignore[no-any-return]
        *callbacks,
        module=module,
        devices=seat.ranks,
        strategy="ddp" if seat.ranks > 1 else "auto",
        default_root_dir=seat.folder,
        **options,
    )


def fingerprint(module: nn.Module) -> str:
    """Return a hash of all weights and buffers, bit for bit."""
    return Digest().add(dict(module.state_dict())).hex()


def together(seat: Seat) -> dict[str, Any]:
    """Train without a cache, with one that is filled on the way, and with that again."""
    bare = _train(seat)
    callback = cache(seat.folder / "features", shard_bytes=2048)
    first = _train(seat, callback)
    inodes = sorted(path.stat().st_ino for path in seat.folder.glob("features/*/*.npy"))
    torch.distributed.barrier()
    second = _train(seat, cache(seat.folder / "features", shard_bytes=2048))
    return {
        "weights": [fingerprint(each) for each in (bare, first, second)],
        "order": [bare.order, first.order, second.order],
        "kinds": sorted(set(first.kinds)),
        "entries": len(list(seat.folder.glob("features/*/entry.json"))),
        "rewritten": inodes
        != sorted(path.stat().st_ino for path in seat.folder.glob("features/*/*.npy")),
        "cut": callback.exact,
    }


def uneven(seat: Seat) -> dict[str, Any]:
    """Give ranks data of unlike lengths: 44 pictures, 22 for each rank, in batches of 8."""
    data = loader(pictures(45))
    other = loader(pictures(45))
    return {
        "weights": [
            fingerprint(_train(seat, data=data)),
            fingerprint(_train(seat, cache(seat.folder / "features"), data=other)),
        ]
    }


TOGETHER: list[Callable[[Seat], Any]] = [together, uneven]
ALONE: list[Callable[[Seat], Any]] = []
