"""`FrozenButChanging`: what was frozen, and moves nevertheless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import listing, parameters


@dataclass(frozen=True)
class FrozenButChanging(Rule):
    """Frozen parameters that an optimizer still moves, and statistics of frozen norms that move on.

    What it sees:
        Parameters with `requires_grad=False` that an optimizer changed in its step, by a gradient
        that was left from before; and norms whose parameters and surroundings are frozen, but
        whose running mean is not what it was. Parameters that change outside of optimizers, as
        those of averaged teachers do, are meant to.

    Why it matters:
        The features that were to be kept drift away, and what is trained on them in training mode
        does not fit what it gets in evaluation (P3).

    What to do:
        Freeze before `configure_optimizers`, set the gradients to None and leave frozen parameters
        out of the optimizer; put frozen modules in evaluation mode, also after each validation.

    References:
        PyTorch documentation, Autograd mechanics, on requires_grad and eval mode.
    """

    code: ClassVar[str] = "frozen-but-changing"
    uses: ClassVar[tuple[str, ...]] = ("setup/frozen_changed",)

    least: int = 1
    """Parameters and modules that changed from which on it counts, at least 1: what is frozen must
    not move at all (our choice)."""

    def __post_init__(self) -> None:
        self._require("least", least=1, unit="place")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        newest = history.last("setup/frozen_changed")
        if not newest:
            return self.not_observed("nothing that is frozen was seen, in no optimizer and no norm")
        places = [place for place, changed in newest.items() if place and changed > 0]
        if len(places) < self.least:
            return []
        known = parameters(history)
        moved = [place for place in places if place in known]
        norms = [place for place in places if place not in known]
        parts, cures = [], []
        if moved:
            parts.append(f"the optimizer changes {listing(moved)} though frozen")
            cures.append(
                "Leave frozen parameters out of the optimizer, or clear their gradients with "
                "`zero_grad(set_to_none=True)`."
            )
        if norms:
            parts.append(f"the running statistics of {listing(norms)} move though all is frozen")
            cures.append("Call `.eval()` on frozen modules in `on_train_epoch_start`.")
        text = "; ".join(parts)
        begun, last = _since(history), history.steps[-1]
        return [
            Finding(
                code=self.code,
                severity="suspect",
                message=(
                    f"{text[0].upper()}{text[1:]} ({len(places)} in all, since step {begun:,})."
                ),
                remedy=" ".join(cures),
                places=tuple(places),
                steps=(begun, last),
                evidence=Evidence(float(len(places)), 0.0, last - begun + 1, 1),
            )
        ]


def _since(history: History) -> int:
    """Return the first watched step of those kept at which something frozen had changed."""
    series = history.series("setup/frozen_changed")
    pairs = zip(series.steps, series.values, strict=True)
    return next((step for step, value in pairs if value > 0), history.steps[-1])
