"""Examine one case: train it with the Doctor, train its twin, and compare with the truth."""

from __future__ import annotations

import io
import os
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich
import torch

from lightning_diag.doctor import Doctor
from lightning_diag.finding import Finding
from lightning_diag.record import Record

from . import baselines as published
from . import (  # noqa: F401  # they register
    healthy,
    healthy_more,
    sick_data,
    sick_fit,
    sick_rate,
    sick_signal,
)
from .cases import ATTEMPTS, Case, Group, Health, Sickness, draw
from .confirm import confirmed
from .proofs import symptoms
from .train import Outcome, quiet, train


class Patient(Doctor):
    """A Doctor that remembers when each finding came first, and as what."""

    def __init__(self, every: int, folder: str) -> None:
        # Time must not decide what is watched: a replay sees the same steps on any machine.
        super().__init__(every, max_overhead=1e9, startup_seconds=1e9, dirpath=folder)
        self.since: dict[str, int] = {}

    def on_record(self, record: Record) -> None:
        super().on_record(record)
        for finding in self.findings:
            self.since.setdefault(finding.code, record.step)


def verdict(findings: Sequence[Finding]) -> str:
    """Return the code of the most upstream finding, above `note` if there is one."""
    roots = [f for f in findings if f.caused_by is None]
    serious = [f for f in roots if f.severity != "note"]
    return next((f.code for f in [*serious, *roots, *findings]), "")


def examine(case: Case, keep: str | None = None) -> dict[str, Any]:
    """Train a case; return what was found and what is true, in plain values."""
    folder = keep or tempfile.mkdtemp(prefix="clinic-")
    patient = Patient(case.recipe.every, folder)
    run = train(case.recipe, [patient])
    truth: dict[str, Any]
    if isinstance(case.kind, Health):
        why = case.kind.bar(run)
        truth = {"code": "", "equals": [], "brings": []}
    else:
        assert case.cured is not None
        why = case.kind.proof(run, train(case.cured))
        truth = {} if why else _truth(case.kind, run, patient)
        truth = {"code": case.kind.code, "equals": [], "brings": [], **truth}
    return {
        "name": case.name,
        "group": case.group,
        "kind": case.kind.name,
        "recipe": str(case.recipe),
        "dropped": why,
        **truth,
        "verdict": verdict(patient.findings),
        "findings": [_told(f, patient) for f in patient.findings],
        "not_observed": {n.code: n.reason for n in patient.diagnosis.not_observed},
        "loss": [run.first, run.last],
        "score": [run.end.score, run.end.held_score],
        "seconds": run.seconds,
    }


def _truth(kind: Sickness, run: Outcome, patient: Patient) -> dict[str, Any]:
    """Return what is true of a sick run: declared, measured, or confirmed by its advice."""
    known = {kind.code} | kind.equals | kind.brings | symptoms(run)
    said = {f.code for f in patient.findings if f.severity != "note"}
    tried = confirmed(run, said - known)
    return {
        "equals": sorted(kind.equals),
        "brings": sorted((known | tried) - kind.equals - {kind.code}),
        "confirmed": sorted(tried),
    }


def _told(finding: Finding, patient: Patient) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity,
        "since": patient.since.get(finding.code, -1),
        "caused_by": finding.caused_by,
        "message": finding.message,
        "active": finding in patient.diagnosis.active,
    }


def examine_place(
    seed: int,
    group: Group,
    index: int,
    only: str = "",
    *,
    baselines: bool = False,
) -> list[dict[str, Any]]:
    """Examine draws for one place of the table until one counts; return all of them."""
    prepare_process()
    tried: list[dict[str, Any]] = []
    for attempt in range(ATTEMPTS):
        case = draw(seed, group, index, attempt, only)
        try:
            result = examine(case)
            if baselines and not result["dropped"]:
                result["baselines"] = published.judge(case.recipe)
        except Exception:  # noqa: BLE001  # one broken run must not end the others
            result = {
                "name": case.name, "group": group, "kind": case.kind.name,
                "recipe": str(case.recipe), "dropped": "", "error": traceback.format_exc(),
            }  # fmt: skip
        tried.append({**result, "only": only, "index": index})
        if not result["dropped"]:
            break
    return tried


def prepare_process() -> None:
    """One thread, and nothing printed but the table."""
    torch.set_num_threads(1)
    quiet()
    rich.reconfigure(file=io.StringIO())


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, (Path, os.PathLike)) else value
