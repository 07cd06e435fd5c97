"""`Case`: one drawn run, what is wrong with it, and what would prove that."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .recipe import Recipe
from .train import Outcome

Proof = Callable[[Outcome, Outcome], str]
"""What a sick run and its cured twin show: empty if the harm is real, else why not."""
Bar = Callable[[Outcome], str]
"""Whether a run went well: empty, or why not."""
Group = Literal["sick", "healthy"]

ATTEMPTS = 6
"""Draws for one place in the table, before it stays empty."""


@dataclass(frozen=True)
class Sickness:
    """A way to spoil a run."""

    name: str
    code: str
    """The rule that should see it."""
    draw: Callable[[random.Random], tuple[Recipe, Recipe]]
    """Returns the sick recipe, and the same without its cause."""
    proof: Proof
    equals: frozenset[str]
    """Verdicts that say the same in other words, besides `code`."""
    brings: frozenset[str]
    """Findings that follow from it, and are true."""


@dataclass(frozen=True)
class Health:
    """A way to train well."""

    name: str
    draw: Callable[[random.Random], Recipe]
    bar: Bar


@dataclass(frozen=True)
class Case:
    """One run of a draw."""

    seed: int
    group: Group
    index: int
    attempt: int
    kind: Sickness | Health
    recipe: Recipe
    cured: Recipe | None
    """None for healthy runs."""

    @property
    def name(self) -> str:
        """What `--replay` takes."""
        return f"{self.seed}/{self.group}/{self.index}/{self.attempt}"


SICKNESSES: list[Sickness] = []
HEALTHS: list[Health] = []


def sickness(
    code: str,
    proof: Proof,
    *,
    equals: tuple[str, ...] = (),
    brings: tuple[str, ...] = (),
) -> Callable[
    [Callable[[random.Random], tuple[Recipe, Recipe]]],
    Callable[[random.Random], tuple[Recipe, Recipe]],
]:
    """Register a way to spoil a run."""

    def register(
        draw: Callable[[random.Random], tuple[Recipe, Recipe]],
    ) -> Callable[[random.Random], tuple[Recipe, Recipe]]:
        name = draw.__name__.strip("_")
        made = Sickness(name, code, draw, proof, frozenset(equals), frozenset(brings))
        SICKNESSES.append(made)
        return draw

    return register


def health(bar: Bar) -> Callable[[Callable[[random.Random], Recipe]], Callable[..., Recipe]]:
    """Register a way to train well."""

    def register(draw: Callable[[random.Random], Recipe]) -> Callable[..., Recipe]:
        HEALTHS.append(Health(draw.__name__.strip("_"), draw, bar))
        return draw

    return register


def codes() -> list[str]:
    """Return the codes that some sickness should bring forth, in order of registration."""
    return list(dict.fromkeys(sick.code for sick in SICKNESSES))


def draw(seed: int, group: Group, index: int, attempt: int = 0, only: str = "") -> Case:
    """Draw a run: the same arguments, the same run.

    Codes take turns, and so do the ways to train well, so that each has its share of any number.
    """
    rng = random.Random(f"{seed}/{group}/{index}/{attempt}/{only}")
    if group == "healthy":
        chosen = [h for h in HEALTHS if only in ("", h.name)]
        well = chosen[index % len(chosen)]
        return Case(seed, group, index, attempt, well, well.draw(rng), None)
    turns = [only] if only else codes()
    code = turns[index % len(turns)]
    ways = [s for s in SICKNESSES if code in (s.code, s.name)]
    sick = ways[(index // len(turns) + attempt) % len(ways)]
    recipe, cured = sick.draw(rng)
    return Case(seed, group, index, attempt, sick, recipe, cured)
