"""The moment in which a module makes its optimizers, and callbacks that have a part in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

_NAME = "configure_optimizers"
Join = Callable[[Callable[[], Any]], Any]
"""Is given the module's own `configure_optimizers`, and returns what that returned."""


class Configuring:
    """Stands before `configure_optimizers` of one module, for all callbacks of ours."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._own = getattr(module, _NAME)
        self._was_its_own = _NAME in vars(module)
        self._joined: dict[int, tuple[Any, Join]] = {}

        def configure_optimizers() -> Any:
            return self._call()

        configure_optimizers.moment = self  # type: ignore[attr-defined]
        setattr(module, _NAME, configure_optimizers)

    @classmethod
    def of(cls, module: nn.Module) -> Configuring:
        """Return the one of a module, made if there is none."""
        found = getattr(vars(module).get(_NAME), "moment", None)
        return found if isinstance(found, cls) else cls(module)

    def join(self, user: Any, join: Join) -> None:
        """Have a callback called in that moment; what joined before is called within."""
        self._joined[id(user)] = (user, join)

    def leave(self, user: Any) -> None:
        """Take that back; the last one leaves no trace."""
        self._joined.pop(id(user), None)
        if not self._joined and getattr(vars(self._module).get(_NAME), "moment", None) is self:
            delattr(self._module, _NAME)
            if self._was_its_own:
                setattr(self._module, _NAME, self._own)

    def _call(self) -> Any:
        call = self._own
        for _, join in self._joined.values():
            call = partial(join, call)
        return call()
