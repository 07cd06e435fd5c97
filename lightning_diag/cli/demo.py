"""``lightning-diag demo``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import tempfile
from pathlib import Path

from lightning_diag.cli.errors import UsageError


def run(options: argparse.Namespace) -> int:
    """Run the demo in a folder, a temporary one unless it is named."""
    if importlib.util.find_spec("sklearn") is None:
        raise UsageError("The demo needs scikit-learn: run `pip install 'lightning-diag[demo]'`.")
    folder: Path = options.out or Path(tempfile.mkdtemp(prefix="lightning-diag-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    # Only here: the other commands need no torch.
    importlib.import_module("lightning_diag.demo").run(folder, seed=options.seed)
    return 0
