"""`DeadRelu`: units that no sample switches on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History, Series
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import centre, is_stuck, listing, shown, typical_ratio

_REMEDY = (
    "Lower the learning rate, warm it up, or set `Trainer(gradient_clip_val=1.0)`; use "
    "`torch.nn.init.kaiming_normal_` with zero biases, or `torch.nn.LeakyReLU` or "
    "`torch.nn.GELU`."
)


@dataclass(frozen=True)
class DeadRelu(Rule):
    """ReLU units that were silent for every sample of a window of training data.

    What it sees:
        The share of dead units at each call of a ReLU, which rests on a window of samples, never on
        one batch: a unit that fires for one sample in a hundred is sparse, not dead. Where a loop
        calls the same layer again and again, a unit is dead only if it is at every call. A call
        counts from `fraction` on. One that puts out nothing but zeros in each of the newest
        `silent_records` watched steps is dead without waiting for the window. `bad` takes
        `bad_fraction` and a loss that has not halved: large language models that work have layers
        in which most units are dead. Below `bad_fraction` it is a note, unless the loss has not
        halved in `patience` steps either. The message says since when, and what happened then:
        large updates, a jump of the gradient, a change of the learning rate.

    Why it matters:
        No gradient reaches the weights of a dead unit, so it stays dead: the network is smaller
        than it looks, and a layer that is all dead cuts off all before it (W5).

    What to do:
        Lower the learning rate or warm it up, clip gradients, use He's initial weights and zero
        biases, or a leaky ReLU, GELU or SiLU.

    References:
        Lu et al., Dying ReLU and Initialization, 2019, arXiv:1903.06733.
        Voita et al., Neurons in Large Language Models: Dead, N-gram, Positional, 2023,
        arXiv:2309.04827.
    """

    code: ClassVar[str] = "dead-relu"
    needs: ClassVar[tuple[str, ...]] = ("dead_relu/window_samples",)
    uses: ClassVar[tuple[str, ...]] = (
        "activation/max",
        "dead_relu/fraction",
        "dead_relu/since_step",
        "gradient/total_norm",
        "loss/train",
        "lr/value",
        "update/norm",
        "update/ratio",
    )

    fraction: float = 0.25
    """Share of dead units at one call from which on it counts, 0 to 1. Our choice: healthy runs
    stayed below 9 %, published tools ask for 50 to 95 %."""
    bad_fraction: float = 0.4
    """The same for `bad`, at least `fraction` and at most 1: 40 % is what a learning rate that is
    too large can kill (W5, from the CS231n course notes)."""
    samples: int = 1000
    """Samples that the share must rest on, at least 1, or the whole training set if that is
    smaller. Our choice: a unit that fires for 1 % of the samples passes for dead over 1,000 of
    them once in 23,000 times."""
    silent_records: int = 8
    """Watched steps in which nothing at all comes through a call, at least 1. Our choice: a call
    with one unit that fires for 1 % of the samples is silent over eight batches of 32 once in
    13 times, one with a dozen such units never."""
    patience: int = 200
    """Steps in which the loss must have halved, or dead units are `bad`; at least 16. Our choice:
    few networks that work need more, and units that were silent from the start may yet revive."""

    def __post_init__(self) -> None:
        self._require("fraction", "bad_fraction", least=0.0, most=1.0)
        self._require_order("fraction", "bad_fraction")
        self._require("samples", least=1, unit="sample")
        self._require("silent_records", least=1, unit="watched step")
        self._require("patience", least=16, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        needed = min(self.samples, history.meta.get("train_samples") or self.samples)
        seen = history.last("dead_relu/window_samples")
        dead = {
            place: share
            for place, share in history.last("dead_relu/fraction").items()
            if seen.get(place, 0.0) >= needed
        }
        silent = self._silent(history, seen)
        if not dead and not silent:
            most = int(max(seen.values(), default=0.0))
            return self.not_observed(
                f"units must be silent for {needed:,} samples or more to be called dead, and "
                f"{most:,} were seen"
            )
        sites = history.meta.get("sites", {})
        passed = {place: 1.0 for place in silent if dead.get(place, 0.0) < self.bad_fraction}
        if passed:
            whole = without_loops({**dict.fromkeys(seen, 0.0), **passed}, sites)
            cut = [place for place in passed if whole.get(place) == 1.0]
            if cut:
                return [self._found_silent(history, cut)]
        dead = without_loops(dead, sites)
        places = [place for place, share in dead.items() if share >= self.fraction]
        places.sort(key=lambda place: -dead[place])
        return [self._found(history, dead, places)] if places else []

    def _silent(self, history: History, calls: Iterable[str]) -> list[str]:
        """Return the calls of a ReLU through which nothing has come in the newest records."""
        newest = history.last("activation/max")
        silent = [place for place in calls if newest.get(place) == 0.0]
        if not silent:
            return []
        window = history.window("activation/max", self.silent_records)
        if len(window) < self.silent_records:
            return []
        return [p for p in silent if all(seen.get(p) == 0.0 for _, seen in window)]

    def _found_silent(self, history: History, places: list[str]) -> Finding:
        window = history.window("activation/max", self.silent_records)
        first, last = window[0][0], window[-1][0]
        stuck = is_stuck(history, 0.5, self.patience)
        others = f" nor through {listing(places[1:])}," if len(places) > 1 else ""
        return Finding(
            code=self.code,
            severity="bad" if stuck else "suspect",
            message=(
                f"Nothing came through `{places[0]}`,{others} in each of the "
                f"{self.silent_records} watched steps from {first:,} to {last:,}: all of its units "
                "are dead." + _what_happened(history, max(0, first - 1), first + 1)
            ),
            remedy=_REMEDY,
            places=tuple(places),
            steps=(first, last),
            evidence=Evidence(1.0, self.fraction, last - first + 1, self.silent_records),
        )

    def _found(self, history: History, dead: dict[str, float], places: list[str]) -> Finding:
        worst, samples = places[0], int(history.last("dead_relu/window_samples")[places[0]])
        is_many = dead[worst] >= self.bad_fraction
        is_slow = is_stuck(history, 0.5, self.patience)
        severity: Severity = "bad" if is_many and is_slow else "suspect"
        if not is_many and not is_slow:
            severity = "note"
        begin, end = silenced_between(history, worst)
        when = f"at step {end:,}" if begin == end else f"between steps {begin:,} and {end:,}"
        others = f" So are {listing(places[1:])}." if len(places) > 1 else ""
        return Finding(
            code=self.code,
            severity=severity,
            message=(
                f"{dead[worst]:.0%} of the units of `{worst}` (threshold {self.fraction:.0%}) were "
                f"silent for all of the last {samples:,} samples; {len(places)} of {len(dead)} "
                f"ReLU calls are affected.{others} They fell silent {when}."
                + _what_happened(history, begin, end)
            ),
            remedy=_REMEDY,
            places=tuple(places),
            steps=(begin, history.steps[-1]),
            evidence=Evidence(
                dead[worst],
                self.fraction,
                samples,
                len(history.series("dead_relu/window_samples", worst).steps),
            ),
        )


def without_loops(dead: dict[str, float], sites: dict[str, Any]) -> dict[str, float]:
    """Return one place for all calls of a ReLU behind the same layer: the one least dead.

    Example:
        >>> layer = {"kind": "layer", "module": "cell", "function": "linear"}
        >>> relu = {"kind": "relu", "module": "act", "function": "relu"}
        >>> calls = {"cell#0": layer, "act#0": relu, "cell#1": layer, "act#1": relu}
        >>> without_loops({"act#0": 0.6, "act#1": 0.0}, calls)
        {'act#1': 0.0}
    """
    layer = ""
    groups: dict[tuple[str, str], list[str]] = {}
    for place, site in sites.items():
        if site["kind"] == "layer":
            layer = site["module"]
        elif place in dead:
            # Before the first layer there is none to share.
            key = (site["module"], layer) if layer else (site["module"], place)
            groups.setdefault(key, []).append(place)
    least = [min(calls, key=dead.__getitem__) for calls in groups.values()]
    return {place: dead[place] for place in least} or dead


def silenced_between(history: History, place: str) -> tuple[int, int]:
    """Return the looks between which most of the dead units of a place fell silent.

    Both are the same if the units were silent at the first look: then no update did it.
    The first verdict comes when the window is full, and is about units that were silent from the
    first look on; the next one adds those that fell silent after it, and so on.
    """
    share = history.series("dead_relu/fraction", place)
    watched = history.series("dead_relu/window_samples", place).steps
    half = next(i for i, value in enumerate(share.values) if value >= share.values[-1] / 2)
    end = watched[half]
    if half:
        return watched[half - 1], end
    earliest = int(history.last("dead_relu/since_step").get(place, end))
    return min(earliest, end), min(earliest, end)


def _what_happened(history: History, begin: int, end: int) -> str:
    """Say which large update, gradient or change of learning rate came with it."""
    text = ""
    updates = _largest(typical_ratio(history), begin, end)
    if updates and updates[0] >= 0.03:
        text += (
            f" The update of step {updates[1]:,} changed the typical weight by "
            f"{shown(updates[0])} of its size."
        )
    norms = history.series("gradient/total_norm")
    before = centre([v for s, v in zip(*norms, strict=True) if s < begin][-16:])
    gradients = _largest(norms, begin, end)
    if gradients and gradients[0] >= 10 * before:
        text += (
            f" The gradient norm jumped from {shown(before)} to {shown(gradients[0])} at step "
            f"{gradients[1]:,}."
        )
    for group in history.places("lr/value")[:8]:
        rates = history.series("lr/value", group)
        known = [v for s, v in zip(*rates, strict=True) if begin - 2 <= s < end]
        if known and max(known) >= 2 * known[0] > 0:
            text += (
                f" The learning rate of `{group}` rose from {shown(known[0])} to "
                f"{shown(max(known))}."
            )
    return text


def _largest(series: Series, begin: int, end: int) -> tuple[float, int] | None:
    """Return the largest number from one look to the step before another, and its step."""
    values = [(v, s) for s, v in zip(*series, strict=True) if begin <= s < end]
    return max(values, default=None)
