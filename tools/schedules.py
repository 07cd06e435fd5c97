"""Draw the pictures of `docs/learning-rate/schedules.md`.

python tools/schedules.py
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from lightning_diag import WarmupLR, WarmupStableDecayLR, plot_schedule
from lightning_diag.figures.schedule import Line, schedule_figure
from lightning_diag.lr import curves

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
STEPS = 1000
DPI = 110
"""Pixels an inch: as wide as a page of a code host."""

Curve = Callable[[int], float]


def family(title: str, named: dict[str, Curve], *, log: bool = False) -> Figure:
    """Draw curves of a learning rate that is 0.1 initially."""
    lines = [Line(label, [0.1 * curve(t) for t in range(STEPS)]) for label, curve in named.items()]
    return schedule_figure(lines, log=log, title=title)


def power() -> Figure:
    """Draw three exponents."""
    curve = partial(curves.power, timescale=100)
    named: dict[str, Curve] = {
        f"exponent={exponent:g}": partial(curve, exponent=exponent) for exponent in (0.5, 1, 2)
    }
    return family("PowerLR(timescale=100)", named)


def exponential() -> Figure:
    """Draw two speeds."""
    named: dict[str, Curve] = {
        f"steps_per_decade={steps}": partial(curves.exponential, steps_per_decade=steps)
        for steps in (1000, 300)
    }
    return family("ExponentialDecayLR", named, log=True)


def piecewise() -> Figure:
    """Draw the default, and another choice."""
    default = partial(curves.piecewise_constant, total_steps=STEPS)
    other = partial(default, milestones=(0.1, 0.4, 0.8), factors=(0.5, 0.2, 0.05))
    named: dict[str, Curve] = {
        "milestones=(0.5, 0.75), factors=(0.1, 0.01)": default,
        "milestones=(0.1, 0.4, 0.8), factors=(0.5, 0.2, 0.05)": other,
    }
    return family("PiecewiseConstantLR(total_steps=1000)", named)


def warm_restarts() -> Figure:
    """Draw growing cycles, and falling peaks."""
    growing = partial(curves.warm_restarts, cycle_steps=140, cycle_growth=2, warmup_steps=40)
    falling = partial(curves.warm_restarts, cycle_steps=250, peak_decay=0.6, warmup_steps=40)
    named: dict[str, Curve] = {
        "cycle_steps=140, cycle_growth=2": growing,
        "cycle_steps=250, peak_decay=0.6": falling,
    }
    return family("WarmRestartsLR(warmup_steps=40)", named)


def wsd() -> Figure:
    """Draw the shapes of a decay."""
    curve = partial(curves.wsd, total_steps=STEPS, warmup_steps=100, decay_fraction=0.4)
    named: dict[str, Curve] = {
        f'shape="{shape}"': partial(
            curve, shape=shape, end_factor=0.01 if shape == "exponential" else 0.0
        )
        for shape in curves.DECAY_SHAPES
    }
    return family("WarmupStableDecayLR(1000, warmup_steps=100, decay_fraction=0.4)", named)


def inverse_sqrt() -> Figure:
    """Draw two timescales."""
    named: dict[str, Curve] = {
        "timescale=None": partial(curves.inverse_sqrt, warmup_steps=100),
        "timescale=1000": partial(curves.inverse_sqrt, warmup_steps=100, timescale=1000),
    }
    return family("InverseSquareRootLR(warmup_steps=100)", named)


def layers() -> nn.ModuleDict:
    """Return a backbone and a head."""
    return nn.ModuleDict({"backbone": nn.Linear(8, 8), "head": nn.Linear(8, 2)})


def groups() -> Figure:
    """Draw an optimizer of two groups with a schedule of torch's."""
    groups = [{"params": part.parameters(), "name": name} for name, part in layers().items()]
    optimizer = AdamW(groups)
    scheduler = OneCycleLR(optimizer, max_lr=[1e-4, 1e-3], total_steps=STEPS)
    return plot_schedule(optimizer, scheduler, steps=STEPS, steps_per_epoch=100, log=True)


def warmed() -> Figure:
    """Draw a schedule below a warm-up."""
    optimizer = AdamW(layers().parameters(), lr=1e-3)
    scheduler = WarmupStableDecayLR(optimizer, STEPS, decay_fraction=0.3)
    warmup = WarmupLR(epochs=1.5, shape="cosine")
    return plot_schedule(optimizer, scheduler, steps=STEPS, steps_per_epoch=100, warmup=warmup)


PICTURES: dict[str, Callable[[], Figure]] = {
    "schedule-power": power,
    "schedule-exponential": exponential,
    "schedule-piecewise": piecewise,
    "schedule-warm-restarts": warm_restarts,
    "schedule-wsd": wsd,
    "schedule-inverse-sqrt": inverse_sqrt,
    "schedule-groups": groups,
    "schedule-warmed": warmed,
}


def draw(name: str, folder: Path) -> Path:
    """Write a picture: the same bytes each time, with the same matplotlib and Pillow."""
    paper = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()
        PICTURES[name]().savefig(paper, dpi=DPI, format="png")
    path = folder / f"{name}.png"
    # A palette makes line drawings a third as large.
    with Image.open(paper) as picture:
        picture.convert("RGB").quantize(64).save(path, optimize=True)
    return path


def main() -> None:
    """Draw all of them, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="pictures; all of them if there is none")
    for name in parser.parse_args().names or PICTURES:
        path = draw(name, FOLDER)
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
