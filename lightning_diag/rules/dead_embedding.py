"""`DeadEmbedding`: rows of an embedding that nothing ever asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import listing, parameters


@dataclass(frozen=True)
class DeadEmbedding(Rule):
    """Embeddings most of whose rows never get a gradient, though there are samples enough for all.

    What it sees:
        The share of an embedding's rows that training has moved in any step, watched or not, once
        an epoch is over; what weight decay alone shrinks has not moved. Only where the training set
        holds `samples` samples or more for each row, so that rare words of a large vocabulary do
        not count. A table all of whose used rows are used by every batch, as that of positions is,
        does not count either.

    Why it matters:
        Those inputs cannot be told apart: ids that are clipped, hashed or looked up wrongly fall
        together on a few rows, and a codebook that uses few of its codes holds little (H7).

    What to do:
        Compare the ids that reach the layer with those of the data; for codebooks, draw unused rows
        anew.

    References:
        PyTorch documentation, nn.Embedding.
        Dhariwal et al., Jukebox, 2020, arXiv:2005.00341, on codebook collapse.
    """

    code: ClassVar[str] = "dead-embedding"
    uses: ClassVar[tuple[str, ...]] = ("embedding/touched_fraction", "embedding/batch_fraction")

    fraction: float = 0.25
    """Share of moved rows up to which an embedding is dead, 0 to 1. Our choice: of a vocabulary
    that fits the data nearly all rows are used within an epoch."""
    samples: float = 2.0
    """Training samples for each row from which on rows should be used, 0 or more. Our choice: with
    several ids a sample, as usual, each row would be asked for ten times."""
    rows: int = 16
    """Rows from which on an embedding counts, at least 1. Our choice: small tables of types and
    flags often use one row."""

    def __post_init__(self) -> None:
        self._require("fraction", least=0.0, most=1.0)
        self._require("samples", least=0.0)
        self._require("rows", least=1, unit="row")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        touched = history.last("embedding/touched_fraction")
        if not touched:
            return self.not_observed("no trained embedding was seen for a whole epoch")
        known, total = parameters(history), history.meta.get("train_samples")
        if total is None:
            return self.not_observed("the size of the training set is not known")
        places = [
            name
            for name, share in touched.items()
            if 0 < share <= self.fraction
            and known[name]["shape"][0] >= self.rows
            and total >= self.samples * known[name]["shape"][0]
            and not _is_always_the_same(history, name, share)
        ]
        if not places:
            return []
        worst = min(places, key=touched.__getitem__)
        steps = history.steps
        return [
            Finding(
                code=self.code,
                severity="suspect",
                message=(
                    f"Of the {known[worst]['shape'][0]:,} rows of `{worst}` only "
                    f"{touched[worst]:.1%} ever got a gradient (threshold {self.fraction:.0%}), in "
                    f"{steps[-1] + 1:,} steps on {total:,} samples"
                    + (f"; the same holds for {listing(places[1:])}." if len(places) > 1 else ".")
                ),
                remedy=(
                    "Print the ids that reach `torch.nn.Embedding`: they may be clipped or mapped "
                    "to one; or make the table as small as the data."
                ),
                places=(worst, *(name for name in places if name != worst)),
                steps=(steps[0], steps[-1]),
                evidence=Evidence(
                    touched[worst], self.fraction, steps[-1] - steps[0] + 1, len(steps)
                ),
            )
        ]


def _is_always_the_same(history: History, name: str, share: float) -> bool:
    """Whether every batch asks for all the rows that are ever asked for."""
    used = history.series("embedding/batch_fraction", name).values
    return bool(used) and min(used) >= 0.999 * share
