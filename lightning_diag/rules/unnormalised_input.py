"""`UnnormalisedInput`: a network that is given data of the wrong size, far from zero, or NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import (
    has_several_optimizers,
    is_stuck,
    parameters,
    read_loss,
    shown,
)

_METRICS = ("mean", "std", "max", "offset", "scale_ratio", "constant_fraction")

_ALL = 1.0 - 1e-9
"""Share of features that counts as all of them."""


class _Trouble(NamedTuple):
    """What is wrong with an input."""

    text: str
    value: float
    threshold: float
    remedy: str


@dataclass(frozen=True)
class UnnormalisedInput(Rule):
    """The first layer is given values far from mean 0 and standard deviation 1.

    What it sees:
        What enters the first layer of the network: its size (root mean square at least `size`),
        how far from zero it is (`offset` standard deviations), features whose scales differ
        (`ratio` between the largest and the median), values all tiny (at most `tiny`), NaN, and
        samples that are all the same. Features of zeros and ones alone are left out of offsets and
        ratios. Silent, but for NaN and sameness, where a norm layer follows, which undoes it, and
        where the layer is frozen, and so made for what it is given.

    Why it matters:
        Large inputs make large gradients and saturate what follows; an offset shared by all samples
        makes the loss a narrow valley, in which a learning rate is too high across and too low
        along; of features in different units only the largest is learned (C7).

    What to do:
        Subtract the mean of the training split from each feature, and divide by its standard
        deviation; use the same two numbers in validation.

    References:
        LeCun et al., Efficient BackProp, 1998, section 4.3.
    """

    code: ClassVar[str] = "unnormalised-input"
    needs: ClassVar[tuple[str, ...]] = ("input/nonfinite_count",)
    uses: ClassVar[tuple[str, ...]] = (*(f"input/{m}" for m in _METRICS), "loss/train")

    size: float = 10.0
    """Root mean square from which on an input is large, above 0. Our choice: between digits of 0 to
    16 (8) and pixels of 0 to 255 (110); TraceML's mean of 10 lies there too."""
    offset: float = 10.0
    """Mean in standard deviations from which on an input is far from zero, at least 0. Our choice:
    pixels of 0 to 1 have 2, the age of people 4, a year more than 100."""
    ratio: float = 100.0
    """Largest over median standard deviation of features from which on units are mixed, at least 1.
    Our choice: rare words against common ones make 30. The largest value must reach `size` too."""
    tiny: float = 0.01
    """Largest absolute value up to which an input is tiny, at least 0. Our choice: pixels that are
    divided by 255 twice stay below 0.004, the parts of a vector of length 1 do not."""
    samples: int = 32
    """Samples that a verdict needs, at least 1. Our choice: a mean is known to a fifth of a
    standard deviation then."""

    def __post_init__(self) -> None:
        self._require("offset", "tiny", least=0.0)
        self._require("size", least=1e-30)
        self._require("ratio", least=1.0)
        self._require("samples", least=1, unit="sample")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        counts = history.last("input/nonfinite_count")
        seen = history.last("input/samples")
        if not any(counts.values()) and max(seen.values(), default=0.0) < self.samples:
            return self.not_observed(f"fewer than {self.samples} samples were seen")
        numbers = {metric: history.last(f"input/{metric}") for metric in _METRICS}
        for place, bad in counts.items():
            here = {metric: values[place] for metric, values in numbers.items() if place in values}
            trouble = self._bad_values(bad)
            if trouble is None and seen.get(place, 0.0) >= self.samples:
                trouble = self._sameness(here) or self._scale(here)
                if trouble is not None and trouble.threshold != _ALL and _is_exempt(history, place):
                    continue
            if trouble is not None:
                return [self._finding(history, place, trouble, int(seen.get(place, 0.0)))]
        return []

    def _bad_values(self, count: float) -> _Trouble | None:
        if count <= 0:
            return None
        return _Trouble(
            f"{shown(count)} of the values that enter it are NaN or infinite",
            count,
            0.0,
            "Find the samples with `torch.isfinite`; leave them out, or fill in what is missing.",
        )

    def _sameness(self, here: dict[str, float]) -> _Trouble | None:
        share = here.get("constant_fraction", 0.0)
        if share < 1:
            return None
        return _Trouble(
            "every sample that enters it is the same",
            share,
            _ALL,
            "Look at a few samples of the data set: the loader gives the same one again and again.",
        )

    def _scale(self, here: dict[str, float]) -> _Trouble | None:
        """Return the worst of what may be wrong with sizes."""
        largest, offset = here.get("max", math.inf), here.get("offset", 0.0)
        ratio = here.get("scale_ratio", 1.0)
        found = []
        if ratio >= self.ratio and largest >= self.size:
            text = f"the largest feature that enters it varies {shown(ratio)} times as much as the"
            found.append((ratio / self.ratio, f"{text} median one", ratio, self.ratio))
        if offset >= self.offset:
            text = f"its inputs are {shown(offset)} standard deviations away from zero"
            found.append((offset / self.offset, text, offset, self.offset))
        mean = 0.0 if offset >= self.offset else here.get("mean", 0.0)  # said already
        rms = math.hypot(mean, here.get("std", 0.0))
        if rms >= self.size:
            text = f"its inputs have a root mean square of {shown(rms)}"
            found.append((rms / self.size, text, rms, self.size))
        if 0 < largest <= self.tiny:
            text = f"the largest of its inputs is {shown(largest)}"
            found.append((self.tiny / largest, text, largest, self.tiny))
        if not found:
            return None
        _, text, value, threshold = max(found)
        return _Trouble(
            f"{text} (threshold {shown(threshold)})",
            value,
            threshold,
            "Subtract from each feature its mean over the training split, and divide by its "
            "standard deviation; or begin with `torch.nn.BatchNorm1d`.",
        )

    def _finding(self, history: History, place: str, trouble: _Trouble, samples: int) -> Finding:
        first, last = history.steps[0], history.steps[-1]
        if trouble.threshold == 0:
            counts = history.series("input/nonfinite_count", place)
            first = next(step for step, count in zip(*counts, strict=True) if count)
        return Finding(
            code=self.code,
            severity=_severity(history, is_broken=trouble.threshold == 0),
            message=f"At `{place}` {trouble.text}, over {samples:,} samples up to step {last:,}.",
            remedy=trouble.remedy,
            places=(place,),
            steps=(first, last),
            evidence=Evidence(trouble.value, trouble.threshold, max(1, samples), 1),
        )


def _severity(history: History, *, is_broken: bool) -> Severity:
    """Return how bad it is, by what it has done to the loss."""
    if is_stuck(history, 0.1, 100):
        return "bad"
    loss = None if has_several_optimizers(history) else read_loss(history)
    if loss is not None and not math.isfinite(loss.now):
        return "bad"
    if loss is not None and loss.progress >= 0.5 and not is_broken:
        return "note"
    return "suspect"


def _is_exempt(history: History, place: str) -> bool:
    """Return whether a norm layer follows, or the layer was made for what it is given."""
    if history.last("input/normalised").get(place, 0.0) > 0:
        return True
    layer = place.rpartition("/")[0] or place
    return any(k["layer"] == layer and not k["trainable"] for k in parameters(history).values())
