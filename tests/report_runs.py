"""Made-up histories that look like those of real runs, for tests of the report."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.record import Record

HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>[/red]\x1b[2J\u202e"
"""A name that would act, were it not text."""

Shape = Callable[[int, float], float]
"""Layer's index and progress of the run (0 to 1) to a number."""


def watched_steps(last: int, every: int = 10) -> list[int]:
    """Return steps as a probe watches them: the first ones densely."""
    steps, step = [], 0
    while step < last:
        steps.append(step)
        step += 1 if step < 3 else min(max(2, step // 16), every)
    return [*steps, last]


def make_run(
    layers: int = 6,
    last: int = 400,
    *,
    gradient: Shape = lambda i, t: 0.3 * math.exp(-t),
    loss: Callable[[int], float] = lambda step: 2.3 * math.exp(-step / 80) + 0.05,
    dead: Shape = lambda i, t: 0.02,
    prefix: str = "",
    every: int = 10,
    kind: str = "relu",
) -> History:
    """Return the history of a run of `layers` linear layers with a ReLU behind each."""
    names = [f"{prefix}{2 * i}" for i in range(layers)]
    rng = random.Random(7)

    def noisy(value: float) -> float:
        return value * math.exp(rng.gauss(0, 0.15)) if math.isfinite(value) else value

    history = History()
    history.update_meta(
        {
            "parameters": {
                f"{name}.{part}": {
                    "shape": [64, 64] if part == "weight" else [64],
                    "layer": name,
                    "trainable": True,
                    "optimizers": [0],
                }
                for name in names
                for part in ("weight", "bias")
            },
            "sites": {
                f"{prefix}{2 * i + 1}/{kind}#0": {
                    "function": kind,
                    "kind": kind,
                    "module": f"{prefix}{2 * i + 1}",
                }
                for i in range(layers)
            },
            "optimizers": [{"class": "Adam", "groups": [{"lr": 0.001, "weight_decay": 0}]}],
            "trainer": {"precision": "32-true", "max_epochs": 20, "clipping": None},
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
            "train_samples": 1347,
        }
    )
    before = -1
    for n, step in enumerate(watched_steps(last, every)):
        t = step / last
        grads = [noisy(gradient(i, t)) for i in range(layers)]
        values = {
            "gradient/norm": {
                f"{name}.{part}": g
                for name, g in zip(names, grads, strict=True)
                for part in ("weight", "bias")
            },
            "gradient/layer_norm": dict(zip(names, grads, strict=True)),
            "update/ratio": {
                f"{name}.weight": noisy(0.004 * g) for name, g in zip(names, grads, strict=True)
            },
            "activation/std": {f"{2 * i + 1}/{kind}#0": noisy(0.8) for i in range(layers)},
            "lr/value": {"Adam/group0": 0.001},
            "output/loss": {"cross_entropy#0": loss(step)},
            "overhead/fraction": {"": 0.0074},
        }
        if kind == "relu" and n > 4:
            values["dead_relu/fraction"] = {
                f"{prefix}{2 * i + 1}/relu#0": min(dead(i, t), 1.0) for i in range(layers)
            }
        if kind == "sigmoid":
            values["activation/saturated_fraction"] = {
                f"{prefix}{2 * i + 1}/sigmoid#0": abs(rng.gauss(0.2, 0.05)) for i in range(layers)
            }
        dense = [noisy(loss(s)) for s in range(before + 1, step + 1)]
        history.append(Record(step, values, {"loss/train": dense}, optimizer_steps=(step + 1,)))
        before = step
    return history


def make_finding(code: str = "dead-relu", **fields: object) -> Finding:
    """Return a finding with sensible words, some of them replaced."""
    values: dict[str, object] = {
        "severity": "bad",
        "message": "45 % of the units at 3/relu#0 fired for none of 5,000 samples.",
        "remedy": "Lower the learning rate and start again: dead units do not come back.",
        "places": ("3/relu#0", "5/relu#0"),
        "steps": (60, 400),
        "evidence": Evidence(0.45, 0.25, 5000, 31),
    }
    return Finding(code=code, **(values | fields))  # type: ignore[arg-type]


def healthy() -> tuple[History, list[Finding]]:
    """Return a run without findings."""
    return make_run(), []


def killed() -> tuple[History, list[Finding]]:
    """Return a run whose learning rate killed units: a cause, a consequence, a note apart."""
    history = make_run(
        gradient=lambda i, t: 4.0 * math.exp(-2 * t) * (1 if i < 3 else 0.2),
        dead=lambda i, t: min(0.1 + 1.5 * t, 0.5) if i in (1, 2) else 0.01,
        loss=lambda step: 2.3 * math.exp(-step / 40) + 0.4 + 0.2 * math.sin(step),
    )
    high = make_finding(
        "learning-rate-too-high",
        message="One step changes the weights by 30 % of their size; 0.1 % is usual.",
        remedy="Divide the learning rate by 30.",
        places=("0.weight", "2.weight", "4.weight", "6.weight"),
        steps=(0, 400),
        evidence=Evidence(0.31, 0.03, 40, 40),
        cause_of=("dead-relu",),
    )
    dead = make_finding(caused_by="learning-rate-too-high")
    note = make_finding(
        "missing-gradient",
        severity="note",
        message="head.bias got no gradient in any of 54 watched steps.",
        remedy="Use it in the loss, or freeze it.",
        places=("10.bias",),
        steps=(0, 400),
        evidence=Evidence(54, 20, 54, 54),
    )
    return history, [note, dead, high]


def vanished() -> tuple[History, list[Finding]]:
    """Return a deep sigmoid net whose first layers get no gradient."""
    history = make_run(
        10,
        gradient=lambda i, t: 0.2 * 8.0 ** (i - 9),
        loss=lambda step: 2.302 + 0.02 * math.sin(step / 3),
        kind="sigmoid",
        prefix="model.net.",
    )
    finding = make_finding(
        "vanishing-gradient",
        message="The gradient of model.net.0 is 134,217,728 times smaller than that of the last.",
        remedy="Use ReLU or batch normalisation instead of ten sigmoids.",
        places=("model.net.0", "model.net.2", "model.net.4"),
        steps=(0, 400),
        evidence=Evidence(7.5e-9, 1e-3, 54, 54),
    )
    return history, [finding]


def diverged() -> tuple[History, list[Finding]]:
    """Return a run that explodes and turns to NaN."""
    history = make_run(
        gradient=lambda i, t: math.exp(40 * t) if t < 0.7 else (math.nan if i else math.inf),
        loss=lambda step: 2.3 * math.exp(step / 12) if step < 280 else math.nan,
        dead=lambda i, t: 0.0,
    )
    finding = make_finding(
        "non-finite",
        message="The gradient is NaN or infinite from step 280 on, first in 0.weight.",
        remedy="Lower the learning rate, or clip gradients.",
        places=("0.weight",),
        steps=(280, 400),
        evidence=Evidence(4096, 0, 13, 13),
    )
    return history, [finding]


def huge() -> tuple[History, list[Finding]]:
    """Return a run of 300 layers and 20,000 steps."""
    history = make_run(
        300,
        20_000,
        every=50,
        prefix="model.encoder.blocks.",
        gradient=lambda i, t: 0.2 * math.exp(0.02 * (i - 299)),
        loss=lambda step: 2.3 * math.exp(-step / 4000) + 0.2,
    )
    return history, [make_finding(places=("model.encoder.blocks.41/relu#0",))]


def hostile() -> tuple[History, list[Finding]]:
    """Return a run in which every text tries to get out of its place."""
    history = make_run(3, prefix=HOSTILE + ".")
    history.update_meta({"trainer": {HOSTILE: HOSTILE}, "versions": {"torch": HOSTILE}})
    history.update_meta({"not_judged": {HOSTILE: f"`{HOSTILE}`"}})
    finding = make_finding(
        message=HOSTILE, remedy=HOSTILE, places=(HOSTILE + ".0", HOSTILE + ".1/relu#0")
    )
    return history, [finding]


RUNS: dict[str, Callable[[], tuple[History, list[Finding]]]] = {
    "healthy": healthy,
    "killed": killed,
    "vanished": vanished,
    "diverged": diverged,
    "huge": huge,
    "hostile": hostile,
}
