"""Which layers are meant: names, globs, regular expressions, counts of layers, functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_diag._compat import MisconfigurationException
from lightning_diag.transfer.stages import Stage, find_stages, plain

Selection: TypeAlias = str | Callable[[str], bool]
"""A text as `units_of` has them, or a function of a parameter's name."""

_COUNT = re.compile(r"(all but )?(?:the )?(first|last)(?: (\d+))?$")
_REGEX = "re:"
_ALL = ("*", "all")


@dataclass(frozen=True, eq=False)
class Unit:
    """Layers that are frozen and thawed together, and have parameter groups of their own."""

    name: str
    parameters: dict[str, nn.Parameter]
    """By full name; a tied one under its first."""
    norms: list[nn.Module]
    """Norms without parameters, whose running statistics belong to this unit."""

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(each.numel() for each in self.parameters.values())

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in it."""
        return not (self.parameters or self.norms)


class Finder:
    """Finds layers in a module, each of them once.

    Raises:
        MisconfigurationException: From `take`, if nothing is found that was not taken before.
    """

    def __init__(self, module: nn.Module, option: str) -> None:
        self._option = option
        self._stages = find_stages(module)
        self._modules = [plain(name) for name, _ in module.named_modules() if name]
        named = module.named_parameters(remove_duplicate=False)
        self._parameters = {plain(name): parameter for name, parameter in named}
        self._norms = {
            plain(name): each
            for name, each in module.named_modules()
            if isinstance(each, _NormBase) and not any(True for _ in each.parameters())
        }
        buffers = [f"{name}.running_mean" for name in self._norms]
        self._all = [*self._parameters, *self._norms, *buffers]
        self._taken: set[int] = set()
        self._names: list[str] = []

    @property
    def stages(self) -> list[Stage]:
        """Those of the module, from its input to its output."""
        return self._stages

    def take(self, selection: Selection, name: str | None = None) -> Unit:
        """Return the layers that a selection means, less those that were taken before."""
        inside = self._inside(selection)
        if not any(inside(name) for name in self._all):
            raise MisconfigurationException(self._miss(selection))
        unit = self._unit(name or title(selection), inside)
        if unit.is_empty:
            raise MisconfigurationException(
                f"`{self._option}` has {title(selection)!r}, and an entry before it has all of "
                "its layers: leave it out, or name the entry with fewer layers first."
            )
        return unit

    def has(self, selection: Selection) -> bool:
        """Say whether a selection means layers that nobody took."""
        inside = self._inside(selection)
        return any(inside(n) for n, p in self._parameters.items() if id(p) not in self._taken)

    def take_others(self, name: str, but: Container[int], norms: Container[nn.Module]) -> Unit:
        """Take all but some parameters, by id, and what norms without parameters are given."""
        mine = {n for n, p in self._parameters.items() if id(p) not in but}
        mine |= {n for n, each in self._norms.items() if each in norms}
        return self._unit(name, mine.__contains__)

    def rest(self, name: str) -> Unit:
        """Return what nobody took, which may be nothing."""
        return self._unit(name, lambda _: True)

    def _unit(self, name: str, inside: Callable[[str], bool]) -> Unit:
        parameters: dict[str, nn.Parameter] = {}
        for full, parameter in self._parameters.items():
            if inside(full) and id(parameter) not in self._taken:
                self._taken.add(id(parameter))
                parameters[full] = parameter
        norms = [n for n in self._norms if inside(n) or inside(f"{n}.running_mean")]
        found: list[nn.Module] = [self._norms.pop(n) for n in norms]
        unique, i = name, 2
        while unique in self._names:
            unique, i = f"{name} ({i})", i + 1
        self._names.append(unique)
        return Unit(unique, parameters, found)

    def _inside(self, selection: Selection) -> Callable[[str], bool]:
        """Return what says of a parameter's name whether it is meant."""
        if not isinstance(selection, str):
            return selection
        if selection in _ALL:
            return lambda _: True
        if selection.startswith(_REGEX):
            pattern = re.compile(selection.removeprefix(_REGEX))
            return below(n for n in self._known() if pattern.search(n))
        found = [n for n in self._known() if fnmatchcase(n, selection)]
        # `layer4` means that of the network within the module, too.
        found = found or [n for n in self._known() if fnmatchcase(n, f"*.{selection}")]
        if found:
            return below(found)
        stages = _counted(selection, self._stages) or _by_role(selection, self._stages)
        return below(n for stage in stages for n in stage.members)

    def _known(self) -> list[str]:
        return [*self._modules, *self._parameters]

    def _miss(self, selection: Selection) -> str:
        called = title(selection)
        names = {part for full in self._modules for part in (full, full.rpartition(".")[2])}
        near = get_close_matches(called.removeprefix(_REGEX), sorted(names), 4, 0.5)
        stages = [stage.name for stage in self._stages]
        shown = [*stages[:12], *(["..."] if len(stages) > 12 else [])]
        guess = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        return (
            f"`{self._option}` has {called!r}, which fits no layer of this model: {guess}"
            f"Its layers are {', '.join(shown) or 'none with parameters'}."
        )


def below(names: Iterable[str]) -> Callable[[str], bool]:
    """Return whether a name is one of these, or of something within."""
    known = set(names)

    def inside(name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:i]) in known for i in range(len(parts), 0, -1))

    return inside


def _counted(selection: str, stages: Sequence[Stage]) -> Sequence[Stage]:
    match = _COUNT.match(selection)
    if match is None:
        return ()
    inverted, end, count = match[1], match[2], int(match[3] or 1)
    if end == "first":
        return stages[count:] if inverted else stages[:count]
    split = max(0, len(stages) - count)
    return stages[:split] if inverted else stages[split:]


def _by_role(selection: str, stages: Sequence[Stage]) -> Sequence[Stage]:
    """Return what every network has, whatever its modules are called."""
    return {"head": stages[-1:], "backbone": stages[:-1], "stem": stages[:1]}.get(selection, ())


def title(selection: Selection) -> str:
    """Return what a selection is called, the same in every process."""
    if isinstance(selection, str):
        return selection
    return getattr(selection, "__name__", type(selection).__name__).strip("<>")


def check(option: str, selection: object) -> None:
    """Refuse what cannot be a selection, before there is a module.

    Raises:
        TypeError: If it is neither a text nor a function.
        ValueError: If it is empty, or a regular expression that is none.
    """
    if callable(selection):
        return
    if not isinstance(selection, str):
        raise TypeError(
            f"`{option}` must hold names, patterns or functions, got {selection!r}: write "
            "'head', 'encoder.*' or 're:layer[34]', say."
        )
    if not selection:
        raise ValueError(f"`{option}` must hold names of layers, got ''.")
    if selection.startswith(_REGEX):
        try:
            re.compile(selection.removeprefix(_REGEX))
        except re.error as error:
            message = f"`{option}` has {selection!r}, which is no regular expression: {error}."
            raise ValueError(message) from None
