"""Scenarios: what steps are taken with, on two ranks and on one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lr.fits import SCHEDULES, Result, Ruler, data, run, trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from distributed.training import Seat
from lightning_diag import LinearScalingLR, WarmupLR

WARMUP = 4
START = 0.2
ACCUMULATIONS = (1, 4)
PAIRS = [(kind, accumulation) for kind in SCHEDULES for accumulation in ACCUMULATIONS]
ALTERNATING = [(kind, ACCUMULATIONS[i % 2]) for i, kind in enumerate(SCHEDULES)]
"""Each schedule, and each accumulation several times; `lr_steps_rest` has the other half."""
RESUMING = (
    "You're resuming from a checkpoint that ended before the epoch ended",
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
)
"""Warnings of Lightning's that a resume in the middle of an epoch gives rise to."""


def _train(seat: Seat, kind: str, callbacks: list[Any], **options: Any) -> Result:
    shared: dict[str, Any] = {
        "devices": seat.ranks,
        "strategy": "ddp" if seat.ranks > 1 else "auto",
        "use_distributed_sampler": False,
        "default_root_dir": seat.folder,
    }
    return run(kind, callbacks, **shared, **options)


def _shown(result: Result) -> dict[str, Any]:
    return {
        "used": result.used,
        "logged": result.logged,
        "resting": result.resting,
        "weight": result.weight,
    }


def matrix(seat: Seat) -> dict[str, Any]:
    """Train with each schedule: bare, with a warm-up, resumed half way up."""
    return trained(seat, ALTERNATING)


def trained(seat: Seat, pairs: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """Train with pairs of a schedule and an accumulation."""
    for message in RESUMING:
        warnings.filterwarnings("ignore", message)
    return {
        f"{kind}-{accumulation}": _one(seat, kind, accumulation) for kind, accumulation in pairs
    }


def _one(seat: Seat, kind: str, accumulation: int) -> dict[str, Any]:
    bare, bare_end = _saved(seat, kind, accumulation, [])
    warm, warm_end = _saved(seat, kind, accumulation, [WarmupLR(WARMUP, start_factor=START)])
    again = WarmupLR(WARMUP, start_factor=START)
    options: dict[str, Any] = {"accumulation": accumulation}
    return {
        "bare": _shown(bare),
        "warm": _shown(warm),
        "bare_resumed": _shown(_train(seat, kind, [], resume=bare_end, **options)),
        "resumed": _shown(_train(seat, kind, [again], resume=warm_end, **options)),
    }


def _saved(seat: Seat, kind: str, accumulation: int, callbacks: list[Any]) -> tuple[Result, Path]:
    folder = seat.folder / f"{kind}-{accumulation}-{len(callbacks)}"
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=WARMUP // 2, save_top_k=-1)
    result = _train(
        seat,
        kind,
        [*callbacks, saving],
        accumulation=accumulation,
        enable_checkpointing=True,
    )
    return result, folder / f"step={WARMUP // 2}.ckpt"


def scaled(seat: Seat) -> dict[str, Any]:
    """Scale the rate with the batch; a rank whose batches are larger is one of several."""
    found = {}
    for name, sizes in (("even", (2, 2)), ("uneven", (2, 6))):
        scaling = LinearScalingLR(2)
        module = Ruler("step")
        trainer(
            [scaling],
            max_epochs=3,
            devices=seat.ranks,
            strategy="ddp" if seat.ranks > 1 else "auto",
            use_distributed_sampler=False,
            accumulate_grad_batches=2,
        ).fit(module, data(4, sizes[seat.rank]))
        found[name] = {
            "batch": str(scaling.batch),
            "seen": module.logged_in_training,
            "weight": module.weight.item(),
        }
    return found


def unknown(seat: Seat) -> str:
    """Let one rank have data that does not say its batch size."""
    pairs = [[2 * i, 2 * i + 1] for i in range(4)]
    loader = data(4) if seat.rank == 0 else DataLoader(data(4).dataset, batch_sampler=pairs)
    try:
        trainer(
            [LinearScalingLR(2)],
            max_epochs=1,
            devices=seat.ranks,
            strategy="ddp",
            use_distributed_sampler=False,
        ).fit(Ruler(), loader)
    except Exception as error:  # noqa: BLE001  # which one it is is the point
        return f"{type(error).__name__}: {error}"
    return ""


TOGETHER: list[Callable[[Seat], Any]] = [matrix, scaled, unknown]
ALONE: list[Callable[[Seat], Any]] = [matrix, scaled]
