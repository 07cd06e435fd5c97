"""`UnnormalisedInput`: a network that is given data of the wrong size, far from zero, or NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from lightning_diag.checks.base import Check
from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.given import Given, seen_inputs
from lightning_diag.checks.items import items
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.measure.base import Columns
from lightning_diag.measure.input import feature_columns, feature_numbers
from lightning_diag.wording import shown


class Size(NamedTuple):
    """What some samples of an input look like; NaN and infinite values are left out."""

    samples: int
    bad: int
    """NaN and infinite values."""
    mean: float
    std: float
    largest: float
    """Largest absolute value."""
    offset: float
    """RMS over features of the mean in standard deviations; 0 where nothing varies."""
    ratio: float
    """Largest over median standard deviation of features; 1 where nothing varies."""
    is_constant: bool
    """Whether all samples are the same."""


def size_of(calls: Sequence[Given]) -> Size:
    """Measure what a layer was given, over all of its calls.

    Example:
        >>> x = torch.tensor([[1.0, 100.0], [3.0, 104.0]])
        >>> size_of([Given("", "linear", x, 1, None)]).mean
        52.0
    """
    columns = [feature_columns(call.x, call.feature_dim) for call in calls]
    joined = columns[0]
    for each in columns[1:]:
        if each.widths == joined.widths:
            joined = Columns(joined.sums + each.sums, torch.maximum(joined.maxima, each.maxima))
    sums, maxima = joined.sums[0].cpu(), joined.maxima[0].cpu()
    numbers = feature_numbers(sums, maxima)
    counts, totals, squares = sums[1:].view(3, -1).sum(1).tolist()
    mean = totals / counts if counts else 0.0
    std = math.sqrt(max(0.0, squares / counts - mean * mean)) if counts else 0.0
    return Size(
        samples=int(sums[0]),
        bad=sum(int((~torch.isfinite(call.x)).sum()) for call in calls),
        mean=mean,
        std=std,
        largest=numbers.get("max", 0.0),
        offset=numbers.get("offset", 0.0),
        ratio=numbers.get("scale_ratio", 1.0),
        is_constant=numbers.get("constant_fraction", 0.0) >= 1,
    )


class _Trouble(NamedTuple):
    text: str
    value: float
    threshold: float
    is_scale: bool = True


@dataclass(frozen=True)
class UnnormalisedInput(Check):
    """The first layer is given values far from mean 0 and standard deviation 1.

    What it sees:
        What enters the first layers of a copy, for 64 samples from all over the training data:
        NaN and infinite values, samples that are all the same, a root mean square of at least
        `size`, a mean of `offset` standard deviations or more, features whose scales differ
        (`ratio` between the largest and the median), values all `tiny`. Features of zeros and ones
        alone are left out of offsets and ratios. But for NaN and sameness silent where a norm
        follows the layer, which undoes it, and where the layer is frozen, and so made for it.

    Why it matters:
        Large inputs make large gradients and saturate what follows; an offset shared by all samples
        makes the loss a narrow valley; of features in different units only the largest is learned.
        One NaN makes every weight NaN in one step.

    What to do:
        Subtract the mean of the training split from each feature, and divide by its standard
        deviation; use the same two numbers in validation. Pixels are divided by 255 first. That
        these numbers come from the training split alone cannot be seen here.

    References:
        LeCun et al., Efficient BackProp, 1998, section 4.3 (C7).
    """

    code: ClassVar[str] = "unnormalised-input"
    family: ClassVar[str] = "inputs"
    needs: ClassVar[tuple[str, ...]] = ("batch", "copy")

    size: float = 10.0
    """Root mean square from which on an input is large, above 0. Our choice, as in
    `lightning_diag.rules`: between digits of 0 to 16 (8) and pixels of 0 to 255 (110)."""
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
    """Samples that a verdict but that on NaN needs, at least 1. Our choice: a mean is known to a
    fifth of a standard deviation then."""

    def __post_init__(self) -> None:
        self._require("offset", "tiny", least=0.0)
        self._require("size", least=1e-30)
        self._require("ratio", least=1.0)
        self._require("samples", least=1, unit="sample")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        seen = seen_inputs(subject)
        places = dict.fromkeys(call.place for calls in seen.calls for call in calls)
        if not places:
            return self.not_observed(seen.failed or "no layer was given data that are numbers")
        few = 0
        broken = self._broken(subject, [call for calls in seen.calls for call in calls])
        if broken:
            return broken
        for place in places:
            calls = [call for batch in seen.calls for call in batch if call.place == place]
            size = size_of(calls)
            trouble = self._trouble(size, is_spread=seen.is_spread)
            is_exempt = calls[0].is_normed or calls[0].is_frozen
            if trouble is None or (trouble.is_scale and is_exempt):
                few += size.samples < self.samples
                continue
            return self.found(
                "bad" if not trouble.is_scale else "suspect",
                f"At `{place}` {trouble.text}, over {size.samples:,} samples. Mean and standard "
                f"deviation are {shown(size.mean)} and {shown(size.std)}.",
                "Subtract from each feature its mean over the training split, and divide by its "
                "standard deviation; find NaN with `torch.isfinite`, and fill in what is missing.",
                value=trouble.value,
                threshold=trouble.threshold,
                places=(place,),
                window=max(1, size.samples),
            )
        if few == len(places):
            return self.not_observed(f"fewer than {self.samples} samples were seen")
        return []

    def _broken(self, subject: Subject, calls: Sequence[Given]) -> list[Finding]:
        """Look for NaN among more samples than those that were run."""
        try:
            spans = items(subject, "train").spans
        except Unavailable:
            return []
        for call in calls:
            span = spans.get(call.leaf)
            if span is not None and span.broken:
                return self.found(
                    "bad",
                    f"At `{call.place}` {span.broken:,} of {span.samples:,} samples that enter it "
                    f"hold NaN or infinite values (tensor {call.leaf!r} of the batch).",
                    "Find the samples with `torch.isfinite`; leave them out, or fill in what is "
                    "missing.",
                    value=span.broken,
                    threshold=0,
                    places=(call.place,),
                    window=span.samples,
                )
        return []

    def _trouble(self, size: Size, *, is_spread: bool) -> _Trouble | None:
        if size.bad:
            text = f"{size.bad:,} of the values that enter it are NaN or infinite"
            return _Trouble(text, size.bad, 0.0, is_scale=False)
        if size.samples < self.samples:
            return None
        if size.is_constant:
            return _Trouble("every sample that enters it is the same", 1.0, 1.0, is_scale=False)
        return self._scale(size, is_spread=is_spread)

    def _scale(self, size: Size, *, is_spread: bool) -> _Trouble | None:
        """Return the worst of what may be wrong with sizes."""
        found = []
        if size.ratio >= self.ratio and size.largest >= self.size:
            text = f"the largest feature that enters it varies {shown(size.ratio)} times as much"
            found.append(
                (size.ratio / self.ratio, f"{text} as the median one", size.ratio, self.ratio)
            )
        # Samples in a row may be alike, and then vary less than all of them.
        is_far = is_spread and size.offset >= self.offset
        if is_far:
            text = f"its inputs are {shown(size.offset)} standard deviations away from zero"
            found.append((size.offset / self.offset, text, size.offset, self.offset))
        rms = math.hypot(0.0 if is_far else size.mean, size.std)
        if rms >= self.size:
            text = f"its inputs have a root mean square of {shown(rms)}"
            found.append((rms / self.size, text, rms, self.size))
        if 0 < size.largest <= self.tiny:
            text = f"the largest of its inputs is {shown(size.largest)}"
            found.append((self.tiny / size.largest, text, size.largest, self.tiny))
        if not found:
            return None
        _, text, value, threshold = max(found)
        return _Trouble(f"{text} (threshold {shown(threshold)})", value, threshold)
