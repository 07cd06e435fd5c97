"""The worst samples of the newest looks at training, by list and loss call (W13)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lightning_diag.measure.examples import Example, Look, examples, worst

Key = tuple[str, str]
"""A list, and the loss call that its samples were seen at."""
Found = tuple[int, list[Example]]
"""Samples that were looked at, and the worst of them."""


class _Step(NamedTuple):
    """What was found at one step."""

    step: int
    key: Key
    samples: int
    examples: list[Example]


class Recent:
    """Keeps what was found at the newest looks, and shows what is of the newest half of the run.

    Args:
        looks: Looks that are kept, for each list and loss call.
        most: Samples that are shown of each.
    """

    def __init__(self, looks: int, most: int) -> None:
        self._looks, self._most = looks, most
        self._steps: dict[Key, deque[_Step]] = {}

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(
        self,
        looks: Sequence[Look],
        facts: Mapping[str, Any],
        index_of: Callable[[Example], int | None],
    ) -> None:
        """Take down what was found at one step.

        Args:
            looks: All of them; their numbers must have reached the host.
            facts: What else is known, ``step`` among it.
            index_of: Returns the position of a sample in the data set.
        """
        for key in dict.fromkeys((seen.kind, seen.place) for seen in looks):
            of_key = [seen for seen in looks if (seen.kind, seen.place) == key]
            found = examples(of_key, facts)
            for one in found:
                one["index"] = index_of(one)
            steps = self._steps.setdefault(key, deque(maxlen=self._looks))
            steps.append(_Step(facts["step"], key, sum(seen.seen for seen in of_key), found))

    def worst(self, newest: int) -> dict[Key, Found]:
        """Return samples looked at and the worst of them; `newest` is the step of the last look."""
        recent = {
            key: [one for one in steps if 2 * one.step >= newest]
            for key, steps in self._steps.items()
        }
        return {
            key: (
                sum(one.samples for one in steps),
                worst([e for one in steps for e in one.examples], self._most, key[0]),
            )
            for key, steps in recent.items()
            if steps
        }
