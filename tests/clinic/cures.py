"""Draw runs whose learning rate is too high or too low, and treat them as the finding says.

python -m tests.clinic.cures --seed 7 --draws 20

The treatment knows nothing of the cause that was put in: a range test of the sick module suggests
a learning rate, and `WarmupLR` warms it up.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass

import torch

from lightning_diag import WarmupLR
from lightning_diag.lr.range_test import RangeTest, lr_range_test

from . import sick_rate  # noqa: F401  # it registers
from .cases import ATTEMPTS, Case, draw
from .examine import Patient, prepare_process
from .recipe import RATES, Recipe
from .train import Outcome, loaders, prepare, train

KINDS = ("too_high", "just_too_high", "too_low")
WARMUP = 0.1
"""Share of the training."""


@dataclass(frozen=True)
class Cure:
    """A sick run and what became of it."""

    case: Case
    found: dict[str, str]
    """Codes that were found in the sick run and had not passed, with their severity."""
    test: RangeTest
    sick: Outcome
    left: dict[str, str] | None = None
    """The same of the treated run; None where the range test suggests nothing."""
    treated: Outcome | None = None

    @property
    def was_found(self) -> bool:
        """Whether the finding was there."""
        return self.case.kind.code in self.found  # type: ignore[union-attr]

    @property
    def is_gone(self) -> bool:
        """Whether the finding is not there any more."""
        return self.left is not None and self.case.kind.code not in self.left  # type: ignore[union-attr]

    @property
    def learns(self) -> bool:
        """Whether the loss falls, and ends no higher than in the sick run."""
        run = self.treated
        return run is not None and run.gain() > 0.1 and not run.last > self.sick.last

    @property
    def is_clean(self) -> bool:
        """Whether nothing above a note is found in the treated run."""
        return self.left is not None and set(self.left.values()) <= {"note"}


def cure(kind: str, seed: int, index: int) -> Cure | None:
    """Draw runs until one is sick, treat it, and return both; None if none is."""
    for attempt in range(ATTEMPTS):
        case = draw(seed, "sick", index, attempt, kind)
        assert case.cured is not None
        found, sick = _watched(case.recipe)
        if case.kind.proof(sick, train(case.cured)):  # type: ignore[union-attr]
            continue
        test = _range_test(case.recipe)
        if test.lr is None:
            return Cure(case, found, test, sick)
        treated = case.recipe.but(rate=test.lr / RATES[case.recipe.optimizer])
        return Cure(case, found, test, sick, *_watched(treated, warms_up=True))
    return None


def _range_test(recipe: Recipe) -> RangeTest:
    learner, data = prepare(recipe)
    torch.manual_seed(recipe.seed + 1)
    return lr_range_test(learner, loaders(recipe, data)[0], accelerator="cpu")


def _watched(recipe: Recipe, *, warms_up: bool = False) -> tuple[dict[str, str], Outcome]:
    with tempfile.TemporaryDirectory(prefix="clinic-") as folder:
        patient = Patient(recipe.every, folder)
        run = train(recipe, [patient, *[WarmupLR(fraction=WARMUP)] * warms_up])
        return {f.code: f.severity for f in patient.diagnosis.active}, run


def told(each: Cure) -> str:
    """Return a line on a run that was not cured."""
    rate = "no suggestion" if each.test.lr is None else f"{each.test.lr:.3g}"
    return (
        f"{each.case.name} --only {each.case.kind.name}: {each.case.recipe}; lr "
        f"{each.case.recipe.lr:.3g} -> {rate} {each.test.reason}; found {each.found}, "
        f"left {each.left}"
    )


def main() -> None:
    """Draw, treat and count."""
    parser = argparse.ArgumentParser("python -m tests.clinic.cures", description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="of the draw (7)")
    parser.add_argument("--draws", type=int, default=20, help="of each kind (20)")
    options = parser.parse_args()
    prepare_process()
    print("| kind | sick | found | suggested | gone | loss falls | nothing above a note |")
    print("|---|---|---|---|---|---|---|")
    missed = []
    for kind in KINDS:
        drawn = [cure(kind, options.seed, i) for i in range(options.draws)]
        sick = [each for each in drawn if each is not None]
        found = [each for each in sick if each.was_found]
        counts = [
            sum(each.test.lr is not None for each in found),
            sum(each.is_gone for each in found),
            sum(each.learns for each in found),
            sum(each.is_clean for each in found),
        ]
        cells = [kind, str(len(sick)), str(len(found)), *map(str, counts)]
        print(f"| {' | '.join(cells)} |", flush=True)
        missed += [each for each in sick if not (each.is_gone and each.learns and each.is_clean)]
    for each in missed:
        print(told(each))


if __name__ == "__main__":
    main()
