"""Train a fresh random draw of sick and healthy runs, and say how often `Doctor` is right.

python -m tests.clinic --seed 7 --sick 300 --healthy 300 --jobs 3
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from . import failed, page, table
from .cases import Group, draw
from .examine import examine, examine_place, plain, prepare_process

Place = tuple[Group, int]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m tests.clinic", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default 1)")
    parser.add_argument("--sick", type=int, default=300, help="sick runs (default 300)")
    parser.add_argument("--healthy", type=int, default=300, help="healthy runs (default 300)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--only", default="", help="one code, one sickness or one healthy kind")
    parser.add_argument("--baselines", action="store_true", help="run the published rules too")
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    parser.add_argument("--failures", type=Path, help="write all runs judged wrongly, by rule")
    parser.add_argument("--page", type=Path, help="put the results into this page's Results")
    parser.add_argument("--out", type=Path, help="results as they come; what it holds is not rerun")
    parser.add_argument("--replay", help="one run, as the list of failures names it")
    return parser.parse_args(given)


def replay(name: str, only: str) -> None:
    """Train one run again, and print everything about it."""
    seed, group, index, attempt = name.split("/")
    prepare_process()
    folder = tempfile.mkdtemp(prefix="clinic-")
    place: Any = group
    result = examine(draw(int(seed), place, int(index), int(attempt), only), folder)
    print(json.dumps(plain(result), indent=1))
    print("The run's history:", folder)


def results_of(options: argparse.Namespace) -> list[table.Result]:
    """Examine all places of the table that are not in the file yet."""
    known: list[table.Result] = []
    out: Path = options.out or Path(tempfile.mkdtemp(prefix="clinic-")) / "results.jsonl"
    if out.exists():
        known = [json.loads(line) for line in out.read_text().splitlines() if line]
    done = {(r["group"], r["index"]) for r in known if r["seed"] == options.seed}
    groups: list[tuple[Group, int]] = [("sick", options.sick), ("healthy", options.healthy)]
    places = [(g, i) for g, n in groups for i in range(n) if (g, i) not in done]
    print(f"{len(places)} runs to go; results come into {out}", file=sys.stderr)
    with out.open("a") as file:
        for tried in _examined(options, places):
            for result in tried:
                known.append({**plain(result), "seed": options.seed})
                file.write(json.dumps(known[-1]) + "\n")
            file.flush()
    return known


def _examined(options: argparse.Namespace, places: list[Place]) -> Any:
    """Yield the results of each place as they come."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context, began = multiprocessing.get_context("spawn"), time.perf_counter()
    with ProcessPoolExecutor(options.jobs, context) as pool:
        tasks: list[Future[Any]] = [
            pool.submit(
                examine_place,
                options.seed,
                group,
                index,
                options.only,
                baselines=options.baselines,
            )
            for group, index in places
        ]
        for i, task in enumerate(as_completed(tasks), 1):
            yield task.result()
            if i % 25 == 0 or i == len(tasks):
                passed = time.perf_counter() - began
                print(f"{i}/{len(tasks)} after {passed:.0f} s", file=sys.stderr, flush=True)


def main(given: list[str] | None = None) -> None:
    """Run the command line."""
    options = arguments(given)
    if options.replay:
        replay(options.replay, options.only)
        return
    results = sorted(results_of(options), key=lambda r: (r["group"], r["index"]))
    lines = table.report(results)
    print("\n".join([*lines, "", *failed.failures(results)]))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    if options.failures:
        options.failures.write_text("\n".join(failed.by_rule(results)) + "\n")
    if options.page:
        options.page.write_text(page.renewed(options.page.read_text(), results, options.seed))


if __name__ == "__main__":
    main()
