"""Learning rate schedules as pure functions: scheduler steps done in, factor of the initial lr out.

`t` counts the steps that are done, so that the first step is taken with ``curve(0)``. Nothing is
remembered between calls: a curve at `t` is the same after a resume, and rounding never adds up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from lightning_diag.lr import checks
from lightning_diag.lr.factors import warmup_factor

DecayShape: TypeAlias = Literal["linear", "cosine", "sqrt", "square", "exponential"]
"""How a decay goes from 1 to its end."""

DECAY_SHAPES: tuple[DecayShape, ...] = ("linear", "cosine", "sqrt", "square", "exponential")


def power(t: int, *, timescale: float, exponent: float = 1.0) -> float:
    """Return ``(1 + t / timescale) ** -exponent``.

    Args:
        t: Steps done.
        timescale: Steps after which the lr is its initial value over ``2 ** exponent``, above 0.
        exponent: How fast it falls later on, above 0.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> [power(t, timescale=100) for t in (0, 100, 300)]
        [1.0, 0.5, 0.25]

    References:
        Senior et al., An Empirical Study of Learning Rates in Deep Neural Networks for Speech
        Recognition, ICASSP 2013.
    """
    checks.positive("timescale", timescale, "steps")
    checks.positive("exponent", exponent)
    return float((1 + t / timescale) ** -exponent)


def exponential(t: int, *, steps_per_decade: float) -> float:
    """Return ``10 ** (-t / steps_per_decade)``.

    Args:
        t: Steps done.
        steps_per_decade: Steps in which the lr falls to a tenth, above 0.

    Raises:
        ValueError: If `steps_per_decade` is not above 0.

    Example:
        >>> [round(exponential(t, steps_per_decade=100), 3) for t in (0, 100, 200)]
        [1.0, 0.1, 0.01]

    References:
        Senior et al., An Empirical Study of Learning Rates in Deep Neural Networks for Speech
        Recognition, ICASSP 2013.
    """
    checks.positive("steps_per_decade", steps_per_decade, "steps")
    return float(10 ** (-t / steps_per_decade))


def piecewise_constant(
    t: int,
    *,
    total_steps: float,
    milestones: Sequence[float] = (0.5, 0.75),
    factors: Sequence[float] = (0.1, 0.01),
) -> float:
    """Return 1 before the first milestone, then the factor of the newest milestone passed.

    Args:
        t: Steps done.
        total_steps: Steps of the training, at least 1.
        milestones: Shares of `total_steps`, 0 to 1, rising. A milestone between two steps is
            passed at the later one. The default divides the lr by ten after half and after three
            quarters of the steps, as He et al. trained their residual nets on CIFAR-10.
        factors: Of the initial lr, one for each milestone, at least 0.

    Raises:
        ValueError: If an argument is outside its range, or there are more or fewer factors than
            milestones.

    Example:
        >>> [piecewise_constant(t, total_steps=8) for t in (0, 3, 4, 5, 6, 7)]
        [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]

    References:
        He et al., Deep Residual Learning for Image Recognition, 2015, arXiv:1512.03385.
    """
    checks.total_steps_known(total_steps)
    rising = all(a < b for a, b in pairwise(milestones))
    if not rising or not all(0 <= milestone <= 1 for milestone in milestones):
        raise ValueError(
            "`milestones` must be shares of the steps, from 0 to 1, each above the one before, "
            f"got {list(milestones)}."
        )
    if len(factors) != len(milestones):
        raise ValueError(
            f"`factors` must be as many as `milestones`, {len(milestones)}, got {len(factors)}: "
            "give each milestone the factor of the initial learning rate that begins there."
        )
    for factor in factors:
        checks.not_negative("factors", factor)
    passed = sum(t >= _milestone_step(total_steps, milestone) for milestone in milestones)
    return float(factors[passed - 1]) if passed else 1.0


def _milestone_step(total_steps: float, milestone: float) -> int:
    # 0.55 * 100 is 55.00000000000001, and means step 55.
    return math.ceil(milestone * total_steps - 1e-6)


def warm_restarts(
    t: int,
    *,
    cycle_steps: int,
    cycle_growth: int = 1,
    peak_decay: float = 1.0,
    end_factor: float = 0.0,
    warmup_steps: int = 0,
    start_factor: float = 0.0,
    warmup: Literal["every", "first"] = "every",
) -> float:
    """Return a cosine that falls from its peak to `end_factor`, again and again.

    Args:
        t: Steps done.
        cycle_steps: Length of the first cycle, its warm-up included, at least 1.
        cycle_growth: Length of a cycle over the one before, at least 1.
        peak_decay: Peak of a cycle over that of the one before, above 0 and up to 1.
        end_factor: Where each cycle ends, 0 to 1; no peak is below it.
        warmup_steps: Steps that go up to the peak on a straight line, at least 0, and fewer than
            `cycle_steps`.
        start_factor: Where the warm-up starts, 0 to 1.
        warmup: Which cycles have one.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> [round(warm_restarts(t, cycle_steps=4, cycle_growth=2), 3) for t in (0, 2, 4, 8, 12)]
        [1.0, 0.5, 1.0, 0.5, 1.0]

    References:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017,
        arXiv:1608.03983. The warm-up after a restart, and lower peaks, are additions.
    """
    checks.whole("cycle_steps", cycle_steps, 1)
    checks.whole("cycle_growth", cycle_growth, 1)
    checks.whole("warmup_steps", warmup_steps, 0)
    checks.share("end_factor", end_factor)
    checks.share("start_factor", start_factor)
    checks.one_of("warmup", warmup, ("every", "first"))
    if not 0 < peak_decay <= 1:
        raise ValueError(f"`peak_decay` must be above 0 and at most 1, got {peak_decay}.")
    if warmup_steps >= cycle_steps:
        raise ValueError(
            f"`warmup_steps` must be fewer than the {cycle_steps} steps of the first cycle, got "
            f"{warmup_steps}: lengthen `cycle_steps`."
        )
    cycle, done, length = _cycle(t, cycle_steps, cycle_growth)
    peak = max(peak_decay**cycle, end_factor)
    rising = warmup_steps if warmup == "every" or cycle == 0 else 0
    if done < rising:
        return start_factor + (peak - start_factor) * done / rising
    return end_factor + (peak - end_factor) * _cosine((done - rising) / (length - rising))


def _cycle(t: int, first: int, growth: int) -> tuple[int, int, int]:
    """Return the number of the cycle, the steps done in it, and its length."""
    if growth == 1:
        return t // first, t % first, first
    cycle, length = 0, first
    # As many rounds as there were cycles, which is a logarithm of the steps. A logarithm's
    # rounding would put some restarts a step off.
    while t >= length:
        t -= length
        length *= growth
        cycle += 1
    return cycle, t, length


def wsd(
    t: int,
    *,
    total_steps: float,
    warmup_steps: int = 0,
    decay_fraction: float = 0.2,
    shape: DecayShape = "sqrt",
    end_factor: float = 0.0,
    start_factor: float = 0.0,
) -> float:
    """Return warm-up, stable, decay: a straight line up to 1, 1, and a decay at the end.

    Args:
        t: Steps done; from `total_steps` on the factor is `end_factor`.
        total_steps: Steps of the training, at least 1.
        warmup_steps: Steps of the warm-up, at least 0.
        decay_fraction: Share of `total_steps` that the decay takes at the end, 0 to 1. With Hägele
            et al. a fifth does as well as a cosine over the whole training.
        shape: Of the decay. With x from 0 to 1: ``linear`` 1 - x, ``cosine`` (1 + cos(pi x)) / 2,
            ``sqrt`` 1 - sqrt(x), best with Hägele et al., ``square`` 1 - x^2, and ``exponential``
            ``end_factor ** x``, Hu et al.'s.
        end_factor: Where the decay ends, 0 to 1, above 0 for ``exponential``.
        start_factor: Where the warm-up starts, 0 to 1.

    Raises:
        ValueError: If an argument is outside its range, or warm-up and decay overlap.

    Example:
        >>> curve = [wsd(t, total_steps=10, warmup_steps=2, shape="linear") for t in range(11)]
        >>> [round(factor, 2) for factor in curve]
        [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]

    References:
        Hu et al., MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training
        Strategies, 2024, arXiv:2404.06395. Hägele et al., Scaling Laws and Compute-Optimal
        Training Beyond Fixed Training Durations, 2024, arXiv:2405.18392.
    """
    checks.total_steps_known(total_steps)
    checks.whole("warmup_steps", warmup_steps, 0)
    checks.share("decay_fraction", decay_fraction)
    checks.one_of("shape", shape, DECAY_SHAPES)
    checks.share("end_factor", end_factor)
    checks.share("start_factor", start_factor)
    if shape == "exponential" and end_factor == 0:
        raise ValueError(
            "`end_factor` must be above 0 for an exponential decay, which never gets to 0, got 0: "
            "try 0.01."
        )
    begin = total_steps * (1 - decay_fraction)
    if warmup_steps > begin:
        raise ValueError(
            f"`warmup_steps` must be at most {begin:g}, where the decay begins, got "
            f"{warmup_steps}: shorten it or `decay_fraction`."
        )
    if t < warmup_steps:
        return warmup_factor(t, steps=warmup_steps, start_factor=start_factor)
    if t >= total_steps:
        return float(end_factor)
    return 1.0 if t <= begin else _decay((t - begin) / (total_steps - begin), shape, end_factor)


def _decay(x: float, shape: DecayShape, end: float) -> float:
    """Return how far a decay is that goes from 1 to `end`, at the share x of it."""
    if shape == "exponential":
        return float(end**x)
    rests = {"linear": 1 - x, "cosine": _cosine(x), "sqrt": 1 - math.sqrt(x), "square": 1 - x * x}
    return end + (1 - end) * rests[shape]


def _cosine(x: float) -> float:
    return (1 + math.cos(math.pi * x)) / 2


def inverse_sqrt(
    t: int,
    *,
    warmup_steps: int,
    timescale: float | None = None,
    start_factor: float = 0.0,
) -> float:
    """Return a straight line up to 1, then ``sqrt(r / (r + t - warmup_steps))``.

    Args:
        t: Steps done.
        warmup_steps: Steps of the warm-up, at least 0.
        timescale: r, above 0: so many steps behind the warm-up the factor is ``sqrt(1 / 2)``. None
            takes `warmup_steps`, which gives the ``sqrt(warmup_steps / t)`` of Vaswani et al.
        start_factor: Where the warm-up starts, 0 to 1.

    Raises:
        ValueError: If an argument is outside its range, or there is neither warm-up nor timescale.

    Example:
        >>> [inverse_sqrt(t, warmup_steps=100) for t in (0, 50, 100, 400, 1600)]
        [0.0, 0.5, 1.0, 0.5, 0.25]

    References:
        Vaswani et al., Attention Is All You Need, 2017, arXiv:1706.03762, equation 3, whose peak
        is the initial lr here. The timescale: Zhai et al., Scaling Vision Transformers, 2021,
        arXiv:2106.04560.
    """
    checks.whole("warmup_steps", warmup_steps, 0)
    checks.share("start_factor", start_factor)
    if timescale is None and warmup_steps == 0:
        raise ValueError(
            "`timescale` must be given where `warmup_steps` is 0, got None: it says in how many "
            "steps the learning rate falls."
        )
    scale = warmup_steps if timescale is None else timescale
    checks.positive("timescale", scale, "steps")
    if t < warmup_steps:
        return warmup_factor(t, steps=warmup_steps, start_factor=start_factor)
    return math.sqrt(scale / (scale + t - warmup_steps))
