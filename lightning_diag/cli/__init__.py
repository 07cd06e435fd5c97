"""The command line: ``lightning-diag``, and ``python -m lightning_diag``."""

from lightning_diag.cli.main import main

__all__ = ["main"]
