"""Make the pictures of `docs/images` from real runs.

    python tools/screenshots.py

Trains the three networks of the demo and one of 300 layers, about a minute. Needs the extra `dev`
and Chromium on the path.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import rich
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.terminal_theme import SVG_EXPORT_THEME
from torch import Tensor, nn, optim

from lightning_diag import demo
from lightning_diag.demo.experiments import Experiment
from lightning_diag.history import History
from lightning_diag.report.compare import Run, compare, write_page

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

TERMINAL = """\
<!doctype html><meta charset="utf-8"><style>{stylesheet}
body {{ margin: 0; background: #14171c; color: #e7eaee; }}
pre {{ margin: 0; padding: 16px 20px; font: 14px/1.45 "DejaVu Sans Mono", monospace; }}
</style><pre>{code}</pre>"""


class Block(nn.Module):
    """Three layers around which the signal goes as well."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and what the layers make of it."""
        result: Tensor = x + self.out(self.mlp(self.norm(x)))
        return result


def tall() -> nn.Module:
    """Return a net of 75 blocks of four layers each."""
    return nn.Sequential(nn.Linear(64, 32), *(Block(32) for _ in range(75)), nn.Linear(32, 10))


TALL = Experiment(
    "tall",
    "A net of 302 layers",
    "75 residual blocks, Adam, learning rate 0.001",
    tall,
    lambda parameters: optim.Adam(parameters, lr=0.001),
)
EPOCHS = {"tall": 6}
"""Epochs of what is not trained for as long as the demo."""


def loss_and_layers(page: Page) -> None:
    """Scroll so that the curve and what is below it are seen."""
    page.locator("#controls").evaluate("(node) => node.scrollIntoView()")


def layers(page: Page) -> None:
    """Scroll to the layers."""
    page.locator("#layers").evaluate("(node) => node.scrollIntoView()")


def layer(page: Page) -> None:
    """Open the page of the second layer."""
    layers(page)
    page.locator(".row .name").nth(1).click()


def pictures(page: Page) -> None:
    """Scroll to the filters and examples."""
    page.locator("#filters").evaluate("(node) => node.scrollIntoView()")


@dataclass(frozen=True)
class Shot:
    """One picture."""

    name: str
    """Name of the file, without its ending."""
    page: str
    """Page that is shown, in the folder of the runs."""
    size: tuple[int, int]
    """Width and height, in pixels of a page."""
    scheme: Literal["light", "dark"] = "light"
    """What the reader prefers."""
    act: Callable[[Page], None] | None = None
    """What the reader does first."""


REPORT = "lightning_diag/report.html"
SHOTS = (
    Shot("report-terminal", "high-learning-rate/terminal.html", (730, 1150)),
    Shot("report-high-learning-rate", f"high-learning-rate/{REPORT}", (1000, 1100)),
    Shot("report-deep-sigmoid", f"deep-sigmoid/{REPORT}", (1000, 1250), "dark"),
    Shot("report-healthy-phone", f"healthy/{REPORT}", (390, 1300)),
    Shot("report-loss", f"deep-sigmoid/{REPORT}", (1100, 1180), act=loss_and_layers),
    Shot("report-tall", f"tall/{REPORT}", (1100, 1130), "dark", layers),
    Shot("report-layer", f"high-learning-rate/{REPORT}", (1100, 860), act=layer),
    Shot("report-compare", "compare.html", (1000, 1150)),
    Shot("report-pictures", f"high-learning-rate/{REPORT}", (1100, 900), act=pictures),
)


def take(shot: Shot, folder: Path, out: Path, browser: Browser) -> Path:
    """Take one picture."""
    width, height = shot.size
    target = out / f"{shot.name}.png"
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme=shot.scheme,
        reduced_motion="reduce",
    )
    page.goto((folder / shot.page).resolve(strict=True).as_uri())
    page.wait_for_timeout(500)
    if shot.act:
        shot.act(page)
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    filled = min(height, int(page.evaluate("document.documentElement.scrollHeight")))
    raw = page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": filled})
    page.close()
    # A palette makes pages of text and flat colours a third as large.
    with Image.open(io.BytesIO(raw)) as picture:
        # Colours of a few pixels mean something, too: the palette covers all, not the most.
        palette = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
        palette.save(target, optimize=True)
    return target


def train(folder: Path) -> None:
    """Train everything that is shown, with what the terminal said of it."""
    # On a dumb terminal nothing moves, so that the record has no frames of a progress bar.
    os.environ["TERM"] = "dumb"
    rich.reconfigure(record=True, force_terminal=True, color_system="truecolor", file=io.StringIO())
    for experiment in (*demo.EXPERIMENTS, TALL):
        demo.train(
            experiment, folder / experiment.name, seed=0, epochs=EPOCHS.get(experiment.name, 20)
        )
        text = rich.get_console().export_html(theme=SVG_EXPORT_THEME, code_format=TERMINAL)
        (folder / experiment.name / "terminal.html").write_text(text, encoding="utf-8")


def compared(folder: Path) -> None:
    """Write the page that compares a healthy run with one at a high learning rate."""
    stored = {
        name: History.open(folder / name / "lightning_diag/history.jsonl")
        for name in ("healthy", "high-learning-rate")
    }
    runs = [Run(name, history, tuple(history.findings)) for name, history in stored.items()]
    write_page(compare(runs), folder / "compare.html")


def main() -> None:
    """Train, and take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs/images")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs, or has them already")
    arguments = parser.parse_args()
    out: Path = arguments.out
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        parser.error("Chromium is not on the path: install it, for example `apt install chromium`.")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.runs or Path(scratch)
        if not (folder / "tall").exists():
            train(folder)
        compared(folder)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            for shot in SHOTS:
                path = take(shot, folder, out, browser)
                print(f"{path}  {path.stat().st_size // 1024} kB")
            browser.close()


if __name__ == "__main__":
    main()
