"""``lightning-diag figures``."""

from __future__ import annotations

import argparse
import os

from lightning_diag.cli.errors import UsageError
from lightning_diag.cli.runs import read
from lightning_diag.figures import save_figures


def run(options: argparse.Namespace) -> int:
    """Draw a stored run and print the files."""
    _, history = read(options.run, least=1)
    try:
        paths = save_figures(history, options.out, kind=options.format)
    except ImportError as error:
        raise UsageError(str(error)) from error
    if not paths:
        raise UsageError(f"There is nothing to draw yet in {str(options.run)!r}.")
    for path in paths:
        print(os.path.relpath(path))  # noqa: T201
    return 0
