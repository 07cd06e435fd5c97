"""``lightning-diag compare``."""

from __future__ import annotations

import argparse

from lightning_diag.cli.errors import UsageError
from lightning_diag.cli.runs import names, read
from lightning_diag.report.compare import Run, compare, show, write_page


def run(options: argparse.Namespace) -> int:
    """Print what differs between runs, and write the page if it was asked for."""
    found = [read(path) for path in (options.run, *options.others)]
    files = [file.resolve() for file, _ in found]
    if len(set(files)) < len(files):
        raise UsageError("`compare` needs different runs, and one of these was named twice.")
    runs = [
        Run(name, history, tuple(history.findings))
        for name, (_, history) in zip(names(files), found, strict=True)
    ]
    differences = compare(runs)
    page = None
    if options.out is not None:
        out = options.out / "compare.html" if options.out.is_dir() else options.out
        page = write_page(differences, out)
    show(differences, page=page)
    return 0
