"""`SharedLayer`: one layer that stands for several in a list of layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from lightning_diag.checks.base import Check
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.probe.places import named_modules
from lightning_diag.wording import listing


@dataclass(frozen=True)
class SharedLayer(Check):
    """One layer that is listed several times in a `ModuleList` or `Sequential`.

    What it sees:
        Lists of layers that hold the same layer, with parameters of its own, more than once, as
        `[layer] * 6` does. Weights that are tied between different layers, and layers that are
        called several times, are no finding.

    Why it matters:
        What looks like a deep network has the weights of one layer. It trains, and stays worse than
        it could be; some networks share layers on purpose.

    What to do:
        Make each layer anew: `[Layer() for _ in range(6)]`.

    References:
        PyTorch documentation, nn.ModuleList.
    """

    code: ClassVar[str] = "shared-layer"
    family: ClassVar[str] = "parameters"

    times: int = 2
    """Times that a list holds a layer from which on it counts, at least 2 (our choice: a list of
    different layers has no reason to)."""

    def __post_init__(self) -> None:
        self._require("times", least=2)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        most, places = 0, []
        for path, module in named_modules(subject.module):
            if isinstance(module, (nn.ModuleList, nn.Sequential)):
                layers = [layer for layer in module if next(layer.parameters(), None) is not None]
                times = max(Counter(map(id, layers)).values(), default=0)
                if times >= self.times:
                    places.append(path)
                    most = max(most, times)
        if not places:
            return []
        return self.found(
            "note",
            f"{listing(places)} {'holds' if len(places) == 1 else 'hold'} the same layer several "
            f"times, up to {most}: they have its weights only once.",
            "If that is not meant, make each layer of the `torch.nn.ModuleList` anew, and do not "
            "multiply a list.",
            value=most,
            threshold=self.times,
            places=places,
        )
