"""`MissingGradient`: trained parameters that no gradient reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import (
    forward_order,
    has_several_optimizers,
    is_stuck,
    listing,
    parameters,
    read_loss,
)
from lightning_diag.siblings import untrained_copies


@dataclass(frozen=True)
class MissingGradient(Rule):
    """Trained parameters whose gradient is None, or exactly zero for a whole layer.

    What it sees:
        Parameters whose gradient was None at their optimizer's step, and layers all of whose
        gradients were exactly zero, in each of the newest `records` watched steps of that
        optimizer. Where the loss stands still, `cut_records` are enough for zeros in the first
        layers of the forward pass, none left out. Frozen parameters and players that were toggled
        off take no step and do not count; nor do rows of an embedding that a batch did not use,
        since other rows have gradients; nor a loss that has reached zero. `bad` while the loss
        stands still; a note where all of it is a whole branch of which another one is a trained
        copy, as the moving averages of BYOL and mean teachers are.

    Why it matters:
        The parameters never learn, and nothing says so: weight decay may even shrink them.

    What to do:
        None: look for `.detach()`, `.data`, `torch.no_grad()`, argmax or rounding between the
        layer and the loss, and for layers that `forward` does not call. Exactly zero: look for
        dead ReLUs behind the layer, or underflow in half precision. If it is meant to be frozen,
        say so with `requires_grad_(False)`.

    References:
        PyTorch documentation, Autograd mechanics.
    """

    code: ClassVar[str] = "missing-gradient"
    needs: ClassVar[tuple[str, ...]] = ("gradient/missing",)
    uses: ClassVar[tuple[str, ...]] = ("gradient/layer_norm", "loss/train")

    records: int = 16
    """Watched steps in a row without a gradient, at least 1. Our choice: a block that is dropped
    at random half of the time is left out that often once in 65,000 times, and adapters that start
    at zero get their gradient by the second step."""
    cut_records: int = 8
    """The same where all that lies before a layer is cut off, at least 1. Our choice: blocks that
    are dropped at random leave those before them a way around, so chance has no part in it."""
    settled: float = 1e-3
    """Share of the first loss at or below which zero gradients are no finding, 0 to 1. Our
    choice: a hinge loss that every sample fulfils is zero, and so is its gradient."""

    def __post_init__(self) -> None:
        self._require("records", "cut_records", least=1, unit="watched step")
        self._require("settled", least=0.0, most=1.0)

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        records = min(self.records, self.cut_records)
        if len(history) < records:
            return self.not_observed(f"fewer than {records} steps were watched")
        without = self._always(history, "gradient/missing", 1.0, self.records)
        known = parameters(history)
        cut = dict.fromkeys(known[name]["layer"] for name in without if name in known)
        zero = self._always(history, "gradient/layer_norm", 0.0, self.records)
        if without or zero:
            records = self.records
        elif is_stuck(history, 0.1, 16):
            zero = _cut_off(
                history, self._always(history, "gradient/layer_norm", 0.0, self.cut_records)
            )
        zero = [place for place in zero if place not in cut]
        if zero and self._is_settled(history):
            zero = []
        places = [*without, *zero]
        if not places:
            return []
        stuck = is_stuck(history, 0.1, 16)
        first = history.window("gradient/missing", records)[0][0]
        last = history.steps[-1]
        parts = []
        if without:
            parts.append(f"no gradient at all reaches {listing(without)}")
        if zero:
            parts.append(f"every gradient of {listing(zero)} is exactly zero")
        text = "; ".join(parts)
        shapes = {name: known[name]["shape"] for name in known if known[name]["trainable"]}
        is_copy = not zero and untrained_copies(without, shapes).issuperset(without)
        return [
            Finding(
                code=self.code,
                severity="note" if is_copy else "bad" if stuck else "suspect",
                message=(
                    f"{text[0].upper()}{text[1:]}, in each of the {records} watched steps "
                    f"from {first:,} to {last:,} (layers: {len(cut) + len(zero)})."
                    + (" The loss stands still." if stuck else "")
                ),
                remedy=_remedy(is_none=bool(without), is_zero=bool(zero)),
                places=tuple(places),
                steps=(first, last),
                evidence=Evidence(float(len(places)), 0.0, last - first + 1, records),
            )
        ]

    def _always(self, history: History, metric: str, value: float, records: int) -> list[str]:
        """Return the places that had this value in each of their newest `records` records."""
        places = [place for place, newest in history.last(metric).items() if newest == value]
        if not places:
            return []
        window = history.window(metric, records)
        found = []
        for place in places:
            values = [seen[place] for _, seen in window if place in seen]
            if has_several_optimizers(history):
                values = history.series(metric, place).values[-records:]
            if len(values) >= records and all(v == value for v in values):
                found.append(place)
        return found

    def _is_settled(self, history: History) -> bool:
        loss = read_loss(history)
        return loss is not None and loss.now <= self.settled * loss.start


def _cut_off(history: History, zero: list[str]) -> list[str]:
    """Return the layers without a gradient if those are the first ones of the forward pass."""
    order = forward_order(history)
    newest = history.last("gradient/layer_norm")
    layers = sorted((layer for layer in newest if layer in order), key=order.__getitem__)
    known = [layer for layer in zero if layer in order]
    return zero if known and set(layers[: len(known)]) == set(known) else []


def _remedy(*, is_none: bool, is_zero: bool) -> str:
    texts = []
    if is_none:
        texts.append(
            "Look for `.detach()`, `torch.no_grad` or argmax between the layer and the loss, and "
            "for layers that `forward` does not call; freeze on purpose with "
            "`requires_grad_(False)`."
        )
    if is_zero:
        texts.append(
            "For exact zeros look for dead ReLUs behind the layer, and for underflow in half "
            "precision."
        )
    return " ".join(texts)
