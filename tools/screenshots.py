"""Make the pictures of `docs/images` from a real run of the demo.

    python tools/screenshots.py

Needs Chromium on the path, and Pillow (`pip install pillow`) to cut them.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import rich
from PIL import Image, ImageChops
from rich.terminal_theme import SVG_EXPORT_THEME

from lightning_diag import demo

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)

TERMINAL = """\
<!doctype html><meta charset="utf-8"><style>{stylesheet}
body {{ margin: 0; background: #14171c; color: #e7eaee; }}
pre {{ margin: 0; padding: 16px 20px; font: 14px/1.45 "DejaVu Sans Mono", monospace; }}
</style><pre>{code}</pre>"""


@dataclass(frozen=True)
class Shot:
    """One picture."""

    name: str
    """Name of the file, without its ending."""
    page: str
    """Page that is shown, in the demo's folder."""
    size: tuple[int, int]
    """Width and largest height, in pixels of a page."""
    dark: bool = False
    """Whether the reader prefers dark pages."""


SHOTS = (
    Shot("report-terminal", "high-learning-rate/terminal.html", (730, 1600)),
    Shot(
        "report-high-learning-rate", "high-learning-rate/lightning_diag/report.html", (1000, 1500)
    ),
    Shot("report-deep-sigmoid", "deep-sigmoid/lightning_diag/report.html", (1000, 1500), dark=True),
    Shot("report-healthy-phone", "healthy/lightning_diag/report.html", (390, 1300)),
)


def take(shot: Shot, folder: Path, out: Path, browser: str) -> Path:
    """Take one picture with a fresh browser profile."""
    width, height = shot.size
    target = out / f"{shot.name}.png"
    with tempfile.TemporaryDirectory() as scratch:
        page = (folder / shot.page).resolve(strict=True)
        raw = Path(scratch, "raw.png")
        scheme = ["--blink-settings=preferredColorScheme=0"] if shot.dark else []
        subprocess.run(
            [
                browser,
                *FLAGS,
                *scheme,
                f"--user-data-dir={scratch}",
                f"--window-size={width},{height}",
                f"--screenshot={raw}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        trim(raw, target)
    return target


def trim(raw: Path, target: Path) -> None:
    """Cut off the empty end of a page."""
    with Image.open(raw) as opened:
        picture = opened.convert("RGB")
    ground = Image.new("RGB", picture.size, picture.getpixel((1, picture.height - 1)))
    filled = bounds(picture, ground)
    picture = picture.crop((0, 0, picture.width, min(filled + 16, picture.height)))
    picture.save(target, optimize=True)


def bounds(picture: Image.Image, ground: Image.Image) -> int:
    """Return the lowest row in which a picture differs from its background."""
    box = ImageChops.difference(picture, ground).getbbox()
    return box[3] if box else picture.height


def main() -> None:
    """Run the demo, and take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs/images")
    out: Path = parser.parse_args().out
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        parser.error("Chromium is not on the path: install it, for example `apt install chromium`.")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # On a dumb terminal nothing moves, so that the record has no frames of a progress bar.
        os.environ["TERM"] = "dumb"
        rich.reconfigure(
            record=True, force_terminal=True, color_system="truecolor", file=io.StringIO()
        )
        for experiment in demo.EXPERIMENTS:
            demo.train(experiment, folder / experiment.name, seed=0)
            text = rich.get_console().export_html(theme=SVG_EXPORT_THEME, code_format=TERMINAL)
            (folder / experiment.name / "terminal.html").write_text(text, encoding="utf-8")
        for shot in SHOTS:
            path = take(shot, folder, out, browser)
            print(f"{path}  {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
