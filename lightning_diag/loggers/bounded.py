"""Things that ask a server, done in bounded time: a dead network must not hold a training up."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from lightning_diag.warning import warn


def within(seconds: float, action: Callable[[], object], *, what: str) -> bool:
    """Run an action, and go on without it when it takes too long.

    Args:
        seconds: How long to wait.
        action: What asks a server.
        what: What is missing in that case, for the warning.

    Returns:
        Whether it was done.

    Example:
        >>> within(5.0, lambda: None, what="nothing")
        True
    """
    errors: list[Exception] = []

    def run() -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  # raised again below, in the caller's thread
            errors.append(error)

    thread = Thread(target=run, name="lightning_diag", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if thread.is_alive():
        warn(f"The server did not answer within {seconds:g} s, so {what} may be missing there.")
    return not thread.is_alive()
