"""`DecayedNormOrBias`: weight decay on parameters that it does little good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check, Level
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import listing


@dataclass(frozen=True)
class DecayedNormOrBias(Check):
    """Weight decay on the gains of norms and on biases.

    What it sees:
        Parameters of one dimension or none in groups with a weight decay above `decay`: gains and
        biases. A note: many recipes decay all there is, and reach the same.

    Why it matters:
        Decay keeps weights small so that functions stay simple; gains and biases are few, and
        pulled towards 0 they only disturb the scale of their layer. Recipes for transformers, and
        those for large batches of pictures, leave them out.

    What to do:
        Give two groups to the optimizer: parameters of two dimensions or more with weight decay,
        the others with `weight_decay=0`.

    References:
        He et al., Bag of tricks for image classification, 2019, arXiv:1812.01187, section 3.1.
        Loshchilov and Hutter, Decoupled weight decay regularization, 2019, arXiv:1711.05101.
    """

    code: ClassVar[str] = "decayed-norm-or-bias"
    level: ClassVar[Level] = "full"
    family: ClassVar[str] = "parameters"
    needs: ClassVar[tuple[str, ...]] = ("optimizers",)

    decay: float = 0.01
    """Weight decay above which it counts, 0 or more. Our choice: 0.01 is what AdamW has if it is
    told nothing, and moves a gain by a thousandth in 100 steps at a learning rate of 1e-3."""

    def __post_init__(self) -> None:
        self._require("decay", least=0.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        held = [each for each in subject.parameters.values() if each.trainable and each.groups]
        thin = [each for each in held if len(each.shape) == 1]
        decayed = [each for each in thin if each.weight_decay > self.decay]
        if not decayed:
            return []
        most = max(each.weight_decay for each in decayed)
        names = [each.name for each in decayed]
        return self.found(
            "note",
            f"{len(decayed)} of {len(thin)} gains and biases have weight decay, up to {most:g}: "
            f"{listing(names)}.",
            "Give the optimizer two groups in `configure_optimizers`: parameters of one dimension "
            "without weight decay, the others with it.",
            value=most,
            threshold=self.decay,
            places=names,
            window=len(thin),
        )
