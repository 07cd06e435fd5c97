"""`main`: reads the words, calls the command, and turns what went wrong into a sentence."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightning_diag.cli.errors import UsageError, sentence
from lightning_diag.cli.parser import build
from lightning_diag.warning import DiagWarning

_PIPE, _INTERRUPTED = 141, 130
"""As a shell calls the ends by these signals: neither a verdict, nor a mistake of the user's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after the command's name; by default those of this process.

    Returns:
        0 when it was done, 1 when something was found that ``--fail-on`` names, 2 when it could
        not be done.
    """
    options = build().parse_args(arguments)
    # By name, so that `rules` does not wait for what only `demo` needs.
    command = importlib.import_module(f"lightning_diag.cli.{options.command}")
    try:
        with _plain_warnings():
            code: int = command.run(options)
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich turns the one into the other
        # Whoever reads has seen enough, as `head` does; the interpreter's last flush must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (UsageError, OSError, ValueError) as error:
        print(f"lightning-diag: {sentence(error)}", file=sys.stderr)  # noqa: T201
        return 2
    return code


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show this package's warnings as a line each, without a place in its source."""
    show = warnings.showwarning

    def plainly(message: Warning | str, category: type[Warning], *where: object) -> None:
        if issubclass(category, DiagWarning):
            print(f"lightning-diag: {message}", file=sys.stderr)  # noqa: T201
        else:
            show(message, category, *where)  # type: ignore[arg-type]

    with warnings.catch_warnings():
        warnings.simplefilter("always", DiagWarning)
        warnings.showwarning = plainly  # type: ignore[assignment]
        yield
