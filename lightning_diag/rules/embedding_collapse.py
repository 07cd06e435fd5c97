"""`EmbeddingCollapse`: vectors that all point the same way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.calls import looks
from lightning_diag.rules.reading import is_stuck, listing

_METRIC = frozenset(
    {"triplet_margin_loss", "triplet_margin_with_distance_loss", "cosine_embedding_loss"}
)
"""Losses that compare embeddings of samples with each other."""
_ROUNDED = 1e-6
"""What float32 leaves of a cosine of 1."""


@dataclass(frozen=True)
class EmbeddingCollapse(Rule):
    """Embeddings that have become, or always were, nearly the same vector.

    What it sees:
        The mean cosine between two rows of an embedding, at the newest look; and, where the
        loss compares embeddings of samples, the spread of what it is given over the samples of a
        step, from step `patience` on. Trained vocabularies lean to one side, with a mean cosine of
        0.2 to 0.7; `cosine` is far above that. From then on also the mean cosine between two
        samples of what `torch.nn.functional.normalize` returns, for losses and miners of any
        library: at least `direction` at `records` looks, narrower by `narrowing` than at first, and
        not going apart again. `bad` if the loss also stands still.

    Why it matters:
        What all vectors share tells nothing, and what tells them apart drowns in it. Contrastive
        and triplet losses with hard negatives collapse so: equal vectors cost just the margin, and
        hardly any gradient leads away from there (H7).

    What to do:
        Draw the vectors around zero; for metric losses use semi-hard negatives, larger batches or
        a smaller learning rate at first, and normalise the vectors.

    References:
        Schroff et al., FaceNet, CVPR 2015, section 3.2, on collapse by hard negatives.
        Gao et al., Representation degeneration problem in training natural language generation
        models, ICLR 2019, arXiv:1907.12009.
    """

    code: ClassVar[str] = "embedding-collapse"
    uses: ClassVar[tuple[str, ...]] = (
        "embedding/mean_cosine",
        "output/mean_cosine",
        "output/sample_spread",
        "loss/train",
    )

    cosine: float = 0.9
    """Mean cosine from which on vectors are the same, 0 to 1. Our choice: well above what trained
    vocabularies show, 0.7 (neural-observatory warns there), and positive random ones, 0.75."""
    spread: float = 0.01
    """Spread over samples up to which outputs are the same, 0 to 1. Our choice: a hundredth of
    their overall deviation."""
    direction: float = 0.95
    """Mean cosine between samples from which on they point the same way, 0 to 1. Our choice: of
    healthy networks on metric losses few stayed above 0.9, and hard negatives led to 0.98."""
    narrowing: float = 0.5
    """Share of 1 less that cosine that must be left since the first look, above 0 to 1. Our choice:
    networks that only start slowly stay as wide as they began."""
    opening: float = 1.25
    """Growth of 1 less that cosine, over the newest looks, that is going apart, at least 1. Our
    choice: collapsed ones fall or waver, those that go apart double."""
    records: int = 4
    """Newest watched steps at which outputs must agree, at least 1. Our choice: a batch may hold
    few samples; rows of an embedding are looked at as a whole, so one look is enough."""
    patience: int = 60
    """Steps before outputs that are the same count, at least 0. Our choice: those of deep networks
    as torch draws them start so, and healthy ones went apart within three dozen steps."""

    def __post_init__(self) -> None:
        self._require("cosine", "spread", "direction", "narrowing", least=0.0, most=1.0)
        self._require("opening", least=1.0)
        self._require("records", least=1, unit="watched step")
        self._require("patience", least=0, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        losses = {
            place
            for place, about in history.meta.get("losses", {}).items()
            if about.get("function") in _METRIC
        }
        tables = history.last("embedding/mean_cosine")
        outputs = {
            place: value
            for place, value in history.last("output/sample_spread").items()
            if place in losses
        }
        directions = history.last("output/mean_cosine")
        if not tables and not outputs and not directions:
            return self.not_observed("no embedding, and no loss that compares samples, was seen")
        alike = [name for name, value in tables.items() if value >= self.cosine]
        flat = [
            place
            for place, value in outputs.items()
            if history.steps[-1] >= self.patience
            and value <= self.spread
            and max(self._newest(history, place)) <= self.spread
        ]
        narrow = [
            place
            for place, value in directions.items()
            if history.steps[-1] >= self.patience
            and value >= self.direction
            and self._is_narrow(history, place)
        ]
        if not alike and not flat and not narrow:
            return []
        values = {**tables, **outputs, **directions}
        return [self._found(history, values, alike=alike, flat=flat, narrow=narrow)]

    def _is_narrow(self, history: History, place: str) -> bool:
        """Return whether samples pointed the same way at the newest looks, and do not go apart."""
        seen = [value for _, value in looks(history, "output/mean_cosine", place, self.records)]
        if len(seen) < self.records or min(seen) < self.direction:
            return False
        first = history.series("output/mean_cosine", place).values[0]
        limit = min(self.opening * (1 - seen[0]), self.narrowing * (1 - first))
        return 1 - seen[-1] <= limit + _ROUNDED

    def _newest(self, history: History, place: str) -> list[float]:
        """Return the newest spreads; NaN, which nothing agrees with, while there are too few."""
        window = history.window("output/sample_spread", self.records)
        values = [seen[place] for _, seen in window if place in seen]
        return values if len(values) >= self.records else [math.nan]

    def _found(
        self,
        history: History,
        values: dict[str, float],
        *,
        alike: list[str],
        flat: list[str],
        narrow: list[str],
    ) -> Finding:
        stuck = is_stuck(history, 0.1, 16)
        parts = []
        if alike:
            parts.append(
                f"two rows of {listing(alike)} have a cosine of {values[alike[0]]:.3f} in the mean "
                f"at the newest look (threshold {self.cosine:g})"
            )
        if flat:
            parts.append(
                f"what {listing(flat)} is given differs between samples by "
                f"{values[flat[0]]:.2%} of its deviation at each of {self.records} watched steps "
                f"(threshold {self.spread:.0%})"
            )
        if narrow:
            parts.append(
                f"samples at {listing(narrow)} all point the same way: two of them have a cosine "
                f"of {values[narrow[0]]:.3f} in the mean (threshold {self.direction:g}, in each of "
                f"{self.records} looks), and they do not go apart"
            )
        text = "; ".join(parts)
        steps = history.steps
        place, threshold = next(
            (places[0], threshold)
            for places, threshold in (
                (alike, self.cosine),
                (flat, self.spread),
                (narrow, self.direction),
            )
            if places
        )
        return Finding(
            code=self.code,
            severity="bad" if stuck else "suspect",
            message=(
                f"{text[0].upper()}{text[1:]}." + (" The loss stands still." if stuck else "")
            ),
            remedy=(
                "Draw the rows around zero with `torch.nn.init.normal_`; with metric losses, use "
                "semi-hard negatives and `torch.nn.functional.normalize`."
            ),
            places=(*alike, *flat, *narrow),
            steps=(steps[0], steps[-1]),
            evidence=Evidence(values[place], threshold, 1, 1 if alike else self.records),
        )
