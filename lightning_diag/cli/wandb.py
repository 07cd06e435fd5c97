"""``lightning-diag wandb workspace``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from lightning_diag.cli.errors import UsageError


def run(options: argparse.Namespace) -> int:
    """Save the workspace of a project, or write what would be sent."""
    # By name: it belongs to an extra, and no other command waits for it.
    loggers = importlib.import_module("lightning_diag.loggers.workspace")
    send = False if options.dry_run or options.out is not None else None
    try:
        sent = loggers.workspace(options.entity, options.project, send=send)
    except (ImportError, ValueError) as error:
        raise UsageError(str(error)) from None
    except Exception as error:
        # Whatever the client raises: no network, no key, no such project, an older server.
        raise UsageError(f"W&B did not save it: {type(error).__name__}: {error}") from error
    if sent.url is not None:
        print(sent.url)  # noqa: T201
        if sent.chart:
            print(f"lightning-diag: {sent.chart}.", file=sys.stderr)  # noqa: T201
        return 0
    spec = json.dumps(sent.spec, indent=2) + "\n"
    if options.out is None:
        print(spec, end="")  # noqa: T201
    else:
        options.out.write_text(spec, encoding="utf-8")
    return 0
