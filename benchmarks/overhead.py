"""Measure what watching costs: seconds per step over those of a bare Trainer.

Run it as ``python benchmarks/overhead.py``; ``--help`` lists the options. Each variant trains in a
process of its own, all of them on the same weights and data. They take turns, a few steps each, in
random order, until each has done a block of 50 steps in every round. What the rest of the machine
does in the meantime hits all variants alike, and each position in the block keeps its shortest time
over all rounds, so that 1 % can be told from nothing. "bare Trainer again" shows what is left of
the noise: it must read 1.00.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch
from rounds import Plan, measure
from tables import Table, row
from variants import VARIANTS
from workloads import WORKLOADS


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure what watching costs.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=tuple(WORKLOADS), help="default: that of the device")
    parser.add_argument("--threads", type=int, default=2, help="of each training, on a CPU")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the process's processor time, for a busy machine; with one thread",
    )
    parser.add_argument("--rounds", type=int, default=5, help="blocks of 50 steps per launch")
    parser.add_argument("--launches", type=int, default=4, help="times that all is started anew")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="begin no round after this, per launch"
    )
    parser.add_argument("--warm-up", type=float, default=1.0, help="factor on the warm-up's steps")
    parser.add_argument("--workloads", nargs="+", choices=("mlp", "resnet", "transformer"))
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS))
    parser.add_argument("--json", type=Path, help="file to write all numbers to")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to")
    parser.add_argument("--keep", type=Path, help="folder for what the trainings write")
    return parser.parse_args(arguments)


def with_references(names: list[str]) -> list[str]:
    """Add the variants that the chosen ones are compared with, in the table's order.

    Example:
        >>> with_references(["wandb-50"])
        ['bare', 'wandb', 'wandb-50']
    """
    chosen = {"bare", *names}
    chosen |= {VARIANTS[name].compared_with for name in chosen}
    return [name for name in VARIANTS if name in chosen]


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Say what the figures were taken on."""
    cuda = options.device == "cuda"
    return {
        "processors": os.cpu_count(),
        "architecture": platform.machine(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": options.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }


def describe(said: dict[str, Any]) -> str:
    """Return the lines above the tables."""
    facts = said["machine"]
    processors = f"{facts['processors']} {facts['architecture']} processors"
    where = f"{facts['threads']} threads" if facts["device"] == "cpu" else facts["device"]
    return (
        f"`{said['command']}`\n\n{processors}, {where}; Python {facts['python']}, torch "
        f"{facts['torch']}, Lightning {facts['lightning']}.\n"
    )


def run(options: argparse.Namespace, folder: Path, said: dict[str, Any]) -> None:
    """Measure all workloads; print and write each table as soon as it is there."""
    size = options.size or options.device
    plan = Plan(
        size,
        options.device,
        options.threads,
        options.rounds,
        options.launches,
        options.clock,
        options.seconds,
        options.warm_up,
    )
    names = with_references(options.variants or list(VARIANTS))
    tables: dict[str, Table] = {}
    for name in options.workloads or list(WORKLOADS[size]):
        results = measure(plan, name, names, folder)
        rows = [row(variant, results, per_step=options.device == "cpu") for variant in names]
        rounds = len(results["bare"].blocks)
        tables[name] = Table(WORKLOADS[size][name].title, rounds, rows)
        print(tables[name].text(), flush=True)
        write(options, said, tables)


def write(options: argparse.Namespace, said: dict[str, Any], tables: dict[str, Table]) -> None:
    """Write the files that were asked for."""
    if options.markdown:
        bodies = [table.markdown() for table in tables.values()]
        options.markdown.write_text("\n".join([describe(said), *bodies]), encoding="utf-8")
    if options.json:
        values = {name: asdict(table) for name, table in tables.items()}
        whole = {**said, "workloads": values}
        options.json.write_text(json.dumps(whole, indent=1), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Measure."""
    options = parse(arguments)
    command = shlex.join(["python", "benchmarks/overhead.py", *arguments])
    said = {"command": command, "machine": machine(options)}
    print(describe(said))
    with tempfile.TemporaryDirectory() as scratch:
        run(options, options.keep or Path(scratch), said)


if __name__ == "__main__":
    main(sys.argv[1:])
