"""Made-up runs with everything that a page can draw, written as pages for a browser to open."""

from __future__ import annotations

import base64
import json
import math
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report_runs import HOSTILE, RUNS, make_finding, watched_steps

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.report.compare import Run as Compared
from lightning_diag.report.compare import compare
from lightning_diag.report.compare.page import render as render_compared
from lightning_diag.report.html import page, render
from lightning_diag.report.payload import as_text

Run = tuple[History, list[Finding]]

OPENING = '<script type="application/json" id="run">'
"""What stands before the payload."""


def picture(shade: Callable[[int, int], int], size: int = 24) -> str:
    """Return a grey PNG as a data URI."""
    rows = b"".join(bytes([0, *(shade(x, y) % 256 for x in range(size))]) for y in range(size))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def blocks(n: int, prefix: str = "model.encoder.") -> list[str]:
    """Return the layers of a network of blocks in blocks, as a transformer has them."""
    inner = ("attention.query", "attention.key", "attention.value", "attention.out", "mlp.0")
    names = [f"{prefix}blocks.{i}.{name}" for i in range(n) for name in inner]
    return [f"{prefix}embed", *names, "model.head"]


def _bins(rng: random.Random, width: float) -> list[float]:
    counts = [
        round(1000 * math.exp(-((i - 15.5) ** 2) / 30) * rng.uniform(0.8, 1.2)) for i in range(32)
    ]
    return [-4 * width, 4 * width, *map(float, counts)]


def _meta(names: list[str]) -> dict[str, Any]:
    return {
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
            f"{name}/relu#0": {"function": "relu", "kind": "relu", "module": name} for name in names
        },
        "optimizers": [{"class": "AdamW", "groups": [{"lr": 0.001, "weight_decay": 0.01}]}],
        "trainer": {"precision": "bf16-mixed", "max_epochs": 10, "module": "Classifier"},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "train_samples": 50_000,
        "validation": {"loss": "val_loss", "metrics": {"val_accuracy": "max"}},
    }


def full(names: list[str], last: int = 1000, *, sick: bool = True) -> History:
    """Return the history of a run that has every kind of number; sick, its first layers fade."""
    rng = random.Random(3)
    history = History()
    history.update_meta(_meta(names))
    before = -1
    for n, step in enumerate(watched_steps(last, max(10, last // 80))):
        t = step / last

        def noisy(value: float) -> float:
            return value * math.exp(rng.gauss(0, 0.2))

        fade = 6.0 if sick else 0.3
        share = [i / max(len(names) - 1, 1) for i in range(len(names))]
        grads = [noisy(0.3 * math.exp(-fade * (1 - s) - t)) for s in share]
        dead = [min(1.0, noisy(0.02) + (t * 0.6 if sick and 0.2 < s < 0.4 else 0)) for s in share]
        values = {
            "gradient/layer_norm": dict(zip(names, grads, strict=True)),
            "update/ratio": {
                f"{k}.weight": noisy(0.01 * g) for k, g in zip(names, grads, strict=True)
            },
            "activation/std": {f"{name}/relu#0": noisy(0.8) for name in names},
            "gradient/total_norm": {"": noisy(1.5)},
            "gradient/noise_scale": {"": noisy(300 * (1 + 4 * t))},
            "lr/value": {"AdamW/group0": 1e-3 * min(1, step / 100) * (1 - t)},
            "overhead/fraction": {"": noisy(0.007)},
            "data/wait_fraction": {"": noisy(0.05)},
            "output/accuracy": {"cross_entropy#0": min(1.0, noisy(0.1 + 0.6 * t))},
            "loss/spike_count": {"": 1.0 if n % 9 == 5 else 0.0},
        }
        if n > 4:
            values["dead_relu/fraction"] = {
                f"{name}/relu#0": d for name, d in zip(names, dead, strict=True)
            }
        if n % 4 == 0:
            values["activation/variance_gain"] = {f"{k}/relu#0": noisy(0.9) for k in names}
        lists = {}
        if n % 3 == 0:
            lists["activation/histogram"] = {
                f"{name}/relu#0": _bins(rng, 1 + t) for name in names[:12]
            }
        dense = [
            (2.3 * math.exp((-3 if sick else -5) * s / last) + 0.3) * math.exp(rng.gauss(0, 0.12))
            + (2.0 if rng.random() < 0.004 else 0)
            for s in range(before + 1, step + 1)
        ]
        epoch = int(10 * t)
        history.append(
            Record(step, values, {"loss/train": dense}, lists, epoch=epoch, seconds=0.9 * step)
        )
        if n % 8 == 7:
            loss = 2.3 * math.exp(-3 * t) + 0.35 + 0.5 * t
            seen = {"val_loss": loss, "val_accuracy": 0.1 + 0.5 * t}
            history.note(step, {f"validation/{key}": {"": v} for key, v in seen.items()})
        before = step
    return history


def findings(names: list[str], last: int = 1000) -> list[Finding]:
    """Return a cause, what follows from it, and something apart."""
    vanishing = make_finding(
        "vanishing-gradient",
        message=f"The gradient of `{names[0]}` is 400 times smaller than that of `{names[-1]}`.",
        remedy="Put `torch.nn.LayerNorm` between the layers, or clip less: "
        "`Trainer(gradient_clip_val=1.0)`.",
        places=tuple(names[:3]),
        steps=(0, last),
        cause_of=("dead-relu",),
    )
    dead = make_finding(
        places=tuple(f"{name}/relu#0" for name in names[2:4]),
        steps=(last // 3, last),
        caused_by="vanishing-gradient",
    )
    note = make_finding(
        "loss-spike", severity="note", message="The loss jumped at step 500.", places=(),
        remedy="Look at the batch of that step.", steps=(last // 2, last // 2), until=last // 2,
    )  # fmt: skip
    return [vanishing, dead, note]


def sick() -> Run:
    """Return a run with findings and everything to draw."""
    names = blocks(2)
    return full(names), findings(names)


def well() -> Run:
    """Return the same without findings."""
    return full(blocks(2), sick=False), []


def deep() -> Run:
    """Return a run of 302 layers in blocks."""
    names = blocks(60)
    return full(names, 4000), findings(names, 4000)


def empty() -> Run:
    """Return a run that was not watched."""
    return History(), []


def brief() -> Run:
    """Return a run of one step, of which hardly anything is known."""
    history = History()
    history.append(Record(0, {"gradient/layer_norm": {"a": 0.5}}, {"loss/train": [2.0]}))
    return history, []


def broken() -> Run:
    """Return a run in which nothing was ever finite."""
    history = History()
    for step in range(8):
        values = {"gradient/layer_norm": {"a": math.nan, "b": math.inf}}
        noise = {"gradient/total_norm": {"": math.nan}, "update/ratio": {"a.weight": math.nan}}
        history.append(Record(step, {**values, **noise}, {"loss/train": [math.nan]}))
    return history, []


def hostile() -> Run:
    """Return a run in which every name tries to get out of its place."""
    names = [f"{HOSTILE}.{i}" for i in range(3)]
    return full(names), [*RUNS["hostile"]()[1], *findings(names)]


PAGES: dict[str, Callable[[], Run]] = {
    **RUNS,
    "sick": sick,
    "well": well,
    "deep": deep,
    "hostile": hostile,
    "empty": empty,
    "brief": brief,
    "broken": broken,
}


COMPARISONS: dict[str, dict[str, str]] = {
    "compare-two": {"before": "sick", "after": "well"},
    "compare-deep": {"before": "deep", "after": "well"},
    "compare-apart": {"relu": "killed", "sigmoid": "vanished", "never watched": "empty"},
    "compare-hostile": {HOSTILE: "hostile", "well": "well", "broken": "broken"},
    "compare-many": {f"run {i}": name for i, name in enumerate((*RUNS, "sick", "brief"))},
}
"""Pages that compare runs: what each is called, and which it is."""


def compared(name: str) -> str:
    """Return the page that compares made-up runs."""
    runs = ((title, *PAGES[run]()) for title, run in COMPARISONS[name].items())
    found = compare([Compared(title, history, tuple(seen)) for title, history, seen in runs])
    return render_compared(found)


def _waves(length: float) -> Callable[[int, int], int]:
    return lambda x, y: int(128 + 100 * math.sin((x + y * 0.6) / length))


def with_pictures(payload: dict[str, Any], name: str = "net.0.weight") -> dict[str, Any]:
    """Add filters and worst examples."""
    smooth = [picture(_waves(2 + k)) for k in range(3)]
    examples = [
        {
            "step": 10 * i,
            "loss": 9.5 - i,
            "target": i,
            "prediction": (i + 3) % 10,
            "image": None if i == 3 else picture(_waves(0.2 + i)),
            "index": 1234 + i,
            "probability": 0.9 - 0.1 * i,
            "stage": "train",
            "samples": 5000,
            "place": "cross_entropy#0",
        }
        for i in range(6)
    ]
    examples[0]["target"] = HOSTILE
    filters = [
        {
            "place": name,
            "step": [0, 100, 1000],
            "smoothness": [0.1, 0.4, 0.8],
            "images": smooth,
            "shape": [8, 5, 5, 1],
            "filters": 32,
            "kernel": [5, 5],
            "limit": [0.3, 0.4, 0.5],
        }
    ]
    return {**payload, "filters": filters, "examples": examples}


def html_of(name: str, change: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> str:
    """Return the page of a made-up run; `change` may change what its charts show."""
    text = render(page(*PAGES[name]()))
    head, _, rest = text.partition(OPENING)
    payload, _, tail = rest.partition("</script>")
    content = (change or with_pictures)(json.loads(payload))
    return f"{head}{OPENING}{as_text(content)}</script>{tail}"


def write(folder: Path, name: str) -> Path:
    """Write the page of a made-up run."""
    path = folder / f"{name}.html"
    text = compared(name) if name in COMPARISONS else html_of(name)
    path.write_text(text, encoding="utf-8", newline="\n")
    return path
