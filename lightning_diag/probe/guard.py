"""Switches an observer off when it raises, instead of ending the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from lightning_diag.warning import warn

T = TypeVar("T")
P = ParamSpec("P")


class Guard:
    """Runs actions on behalf of owners; an owner whose action raised is not run again.

    Example:
        >>> import warnings
        >>> guard, owner = Guard(), object()
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     guard.run(owner, lambda: 1 / 0)
        >>> guard.run(owner, lambda: 7) is None, guard.run("other", lambda: 7)
        (True, 7)
    """

    def __init__(self) -> None:
        self._off: dict[int, object] = {}

    def run(
        self, owner: object, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """Return what `action` returns, None if it raises or its owner is switched off."""
        if id(owner) in self._off:
            return None
        try:
            return action(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # whatever it is, the run goes on
            what = f"it raised {type(error).__name__}: {error}"
            self.switch_off(owner, f"{what}; please report this as a bug of lightning_diag")
            return None

    def switch_off(self, owner: object, reason: str) -> None:
        """Switch `owner` off with one warning that names it."""
        self._off[id(owner)] = owner
        warn(
            f"{type(owner).__name__} is switched off for the rest of this fit, and training goes "
            f"on: {reason}."
        )

    def silence(self, owner: object) -> None:
        """Switch `owner` off without a word: another rank has warned."""
        self._off[id(owner)] = owner

    def is_off(self, owner: object) -> bool:
        """Whether `owner` has been switched off."""
        return id(owner) in self._off
