"""Scenarios: what an epoch holds that is drawn by losses, on two ranks and on one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from hard.fixed import Diary, Known, numbered
from pytorch_lightning.callbacks import ModelCheckpoint
from runs import Classifier, trainer

from distributed.training import Seat
from lightning_diag import OHEMSampling

SAMPLES = {"even": 32, "odd": 31}
KINDS: dict[str, dict[str, Any]] = {"with": {}, "without": {"replacement": False, "size": 0.5}}
"""Options by whether samples are put back."""
CASES = ["even-replaced-with", "even-own-without", "odd-own-with", "odd-replaced-without"]
"""Samples, whether Lightning is asked to replace the sampler, and kind."""
BATCH = 8
"""Over all ranks."""


def _fit(seat: Seat, samples: int, *callbacks: Any, resume: Any = None, **options: Any) -> Diary:
    warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used")
    torch.manual_seed(seat.rank)  # what ranks draw must not hang on their random states
    diary = Diary()
    settings: dict[str, Any] = {
        "devices": seat.ranks,
        "strategy": "ddp" if seat.ranks > 1 else "auto",
        "default_root_dir": seat.folder,
        "max_epochs": 4,
    }
    loader = numbered(samples, batch_size=BATCH // seat.ranks, drop_last=True)
    module = Classifier(Known(), lambda p: torch.optim.SGD(p, lr=0.0))
    trainer(diary, *callbacks, **{**settings, **options}).fit(module, loader, ckpt_path=resume)
    return diary


def _sampling(**options: Any) -> OHEMSampling:
    return OHEMSampling(hardest=0.25, mixed_epochs=1, **options)


def drawn(seat: Seat) -> dict[str, Any]:
    """Train with Lightning's own sampler asked for and not, with and without replacement."""
    found = {}
    for case in CASES:
        samples, replaced, kind = case.split("-")
        sampling = _sampling(**KINDS[kind])
        is_replaced = replaced == "replaced"
        diary = _fit(seat, SAMPLES[samples], sampling, use_distributed_sampler=is_replaced)
        found[case] = {
            "epochs": list(diary.epochs.values()),
            "samplers": sorted({type(sampler).__name__ for sampler in diary.samplers}),
            "losses": sampling.state_dict()["losses"].nan_to_num(nan=-1.0).tolist(),
        }
    return found


def resumed(seat: Seat) -> dict[str, Any]:
    """Go on in the middle of an epoch, at its last step and between epochs."""
    steps = ModelCheckpoint(seat.folder / "at", "{step}", every_n_train_steps=1, save_top_k=-1)
    sampling = _sampling()
    whole = _fit(seat, 32, sampling, steps, enable_checkpointing=True)
    found: dict[str, Any] = {"whole": whole.batches, "losses": _table(sampling)}
    for step in (6, 8, 9):
        again = _sampling()
        diary = _fit(seat, 32, again, resume=seat.folder / "at" / f"step={step}.ckpt")
        found[str(step)] = {"batches": diary.batches, "losses": _table(again)}
    return found


def _table(sampling: OHEMSampling) -> list[Any]:
    state = sampling.state_dict()
    return [state["losses"].tolist(), state["seen_at"].tolist()]


TOGETHER: list[Callable[[Seat], Any]] = [drawn, resumed]
ALONE: list[Callable[[Seat], Any]] = [drawn]
