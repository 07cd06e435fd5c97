"""`Finding`: what a rule or check says, in words and numbers that a person can check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["bad", "suspect", "note"]

SEVERITIES: tuple[Severity, ...] = ("bad", "suspect", "note")
"""From the most to the least severe."""

Confidence = Literal["high", "medium", "low"]
"""How sure it is that one finding explains another."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a run just before a problem began.

    Example:
        >>> Event("gradient-spike", 40, "The gradient norm jumped from 1 to 50 at step 40.").step
        40
    """

    kind: str
    """`lr-rise`, `lr-fall`, `gradient-spike` or `loss-leap`."""
    step: int
    """When."""
    text: str
    """What, as a sentence."""


@dataclass(frozen=True)
class Evidence:
    """The numbers that a finding rests on.

    Example:
        >>> Evidence(value=0.4, threshold=0.25, window=5000, observations=12).observations
        12
    """

    value: float
    """The number that was judged."""
    threshold: float
    """What it was compared with."""
    window: int
    """How much of the run was looked at, in the unit that the message names (steps or samples)."""
    observations: int
    """How many watched steps the value rests on."""


@dataclass(frozen=True)
class Finding:
    """One problem of a run: what, where, since when, how we know, and what to do.

    Example:
        >>> finding = Finding(
        ...     code="dead-relu", severity="bad", message="40 % of the units never fire.",
        ...     remedy="Lower the learning rate.", places=("net.1/relu#0",), steps=(20, 80),
        ...     evidence=Evidence(0.4, 0.25, 5000, 12))
        >>> Finding.from_dict(finding.to_dict()) == finding
        True
    """

    code: str
    """The rule's public name, kebab-case."""
    severity: Severity
    """`bad`: training is broken; `suspect`: worth a look; `note`: good to know."""
    message: str
    """What is wrong, with its numbers."""
    remedy: str
    """What to do about it."""
    places: tuple[str, ...]
    """Where, most affected first; empty for the whole model."""
    steps: tuple[int, int]
    """First and last step at which it was seen."""
    evidence: Evidence
    """The numbers behind the message."""
    cause_of: tuple[str, ...] = ()
    """Codes of the findings that this one explains."""
    caused_by: str | None = None
    """Code of the finding that explains this one."""
    confidence: Confidence | None = None
    """How sure it is of `caused_by`; None without one."""
    because: tuple[str, ...] = ()
    """What speaks for `caused_by`, and what against it."""
    rivals: tuple[str, ...] = ()
    """Codes of findings that may as well be the cause."""
    experiment: str = ""
    """What to try in order to tell `caused_by` from its rivals."""
    before: tuple[Event, ...] = ()
    """What happened just before it began."""
    until: int | None = None
    """Last step at which it was seen, once it has passed; None while it lasts."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON stores them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """Build a finding from what `to_dict` returned, or from its JSON."""
        fields: dict[str, Any] = dict(values)
        fields["evidence"] = Evidence(**fields["evidence"])
        fields["places"] = tuple(fields["places"])
        first, last = fields["steps"]
        fields["steps"] = (first, last)
        for name in ("cause_of", "because", "rivals"):
            fields[name] = tuple(fields.get(name, ()))
        fields["before"] = tuple(Event(**event) for event in fields.get("before", ()))
        return cls(**fields)


@dataclass(frozen=True)
class NotObserved:
    """A rule or check that cannot judge, and why. It is neither a finding nor a clean bill.

    Example:
        >>> NotObserved("dead-relu", "no ReLU was seen").reason
        'no ReLU was seen'
    """

    code: str
    """Its public name."""
    reason: str
    """What is missing, as the end of a sentence."""
