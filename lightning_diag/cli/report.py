"""``lightning-diag report``."""

from __future__ import annotations

import argparse
import os

from lightning_diag.cli.runs import read
from lightning_diag.report.console import summary
from lightning_diag.report.html import write_html


def run(options: argparse.Namespace) -> int:
    """Print the verdict on a stored run and write its page."""
    file, history = read(options.run, least=0)
    out = options.out
    if out is not None and out.is_dir():
        out /= "report.html"
    page = write_html(history, history.findings, out or file.with_name("report.html"))
    summary(history.findings, history, report=os.path.relpath(page))
    return 0
