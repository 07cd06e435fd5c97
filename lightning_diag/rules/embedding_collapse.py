"""`EmbeddingCollapse`: vectors that all point the same way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import is_stuck, listing

_METRIC = frozenset(
    {"triplet_margin_loss", "triplet_margin_with_distance_loss", "cosine_embedding_loss"}
)
"""Losses that compare embeddings of samples with each other."""


@dataclass(frozen=True)
class EmbeddingCollapse(Rule):
    """Embeddings that have become, or always were, nearly the same vector.

    What it sees:
        The mean cosine between two rows of an embedding, at the newest look; and, where the
        loss compares embeddings of samples, the spread of what it is given over the samples of a
        step, from step `patience` on. Trained vocabularies lean to one side, with a mean cosine of
        0.2 to 0.7; `cosine` is far above that. `bad` if the loss also stands still.

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
        "output/sample_spread",
        "loss/train",
    )

    cosine: float = 0.9
    """Mean cosine from which on vectors are the same, 0 to 1. Our choice: well above what trained
    vocabularies show, 0.7 (neural-observatory warns there), and positive random ones, 0.75."""
    spread: float = 0.01
    """Spread over samples up to which outputs are the same, 0 to 1. Our choice: a hundredth of
    their overall deviation."""
    records: int = 4
    """Newest watched steps at which outputs must agree, at least 1. Our choice: a batch may hold
    few samples; rows of an embedding are looked at as a whole, so one look is enough."""
    patience: int = 60
    """Steps before outputs that are the same count, at least 0. Our choice: those of deep networks
    as torch draws them start so, and healthy ones went apart within three dozen steps."""

    def __post_init__(self) -> None:
        self._require("cosine", "spread", least=0.0, most=1.0)
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
        if not tables and not outputs:
            return self.not_observed("no embedding, and no loss that compares samples, was seen")
        alike = [name for name, value in tables.items() if value >= self.cosine]
        flat = [
            place
            for place, value in outputs.items()
            if history.steps[-1] >= self.patience
            and value <= self.spread
            and max(self._newest(history, place)) <= self.spread
        ]
        if not alike and not flat:
            return []
        return [self._found(history, alike, flat, {**tables, **outputs})]

    def _newest(self, history: History, place: str) -> list[float]:
        """Return the newest spreads; NaN, which nothing agrees with, while there are too few."""
        window = history.window("output/sample_spread", self.records)
        values = [seen[place] for _, seen in window if place in seen]
        return values if len(values) >= self.records else [math.nan]

    def _found(
        self, history: History, alike: list[str], flat: list[str], values: dict[str, float]
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
        text = "; ".join(parts)
        steps = history.steps
        value, threshold = (
            (values[alike[0]], self.cosine) if alike else (values[flat[0]], self.spread)
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
            places=(*alike, *flat),
            steps=(steps[0], steps[-1]),
            evidence=Evidence(value, threshold, 1, 1 if alike else self.records),
        )
