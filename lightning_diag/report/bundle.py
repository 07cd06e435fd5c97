"""The page's own style and scripts, and the policy that lets a browser use just these."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

STYLES: tuple[str, ...] = ("templates/report.css",)
"""The report's style sheets, joined in this order."""
_CHARTS: tuple[str, ...] = (
    "assets/echarts/echarts.min.js",
    "assets/page/base.js",
    "assets/page/axis.js",
    "assets/page/colour.js",
    "assets/page/chart.js",
    "assets/page/lines.js",
    "assets/page/depth.js",
    "assets/page/tabs.js",
    "assets/page/page.js",
)
SCRIPTS: tuple[str, ...] = (
    *_CHARTS,
    "assets/page/tree.js",
    "assets/page/heat.js",
    "assets/page/layers.js",
    "assets/page/histogram.js",
    "assets/page/curves.js",
    "assets/page/pictures.js",
    "assets/page/layer.js",
    "assets/page/main.js",
)
"""The report's scripts, in the order in which they run."""
COMPARE_STYLES: tuple[str, ...] = (*STYLES, "compare/templates/compare.css")
"""Those of the page that compares runs."""
COMPARE_SCRIPTS: tuple[str, ...] = (*_CHARTS, "assets/page/compare.js")
"""The same."""


@dataclass(frozen=True)
class Bundle:
    """What stands in the page besides its content."""

    style: str
    """All style sheets."""
    scripts: tuple[str, ...]
    """The scripts."""
    policy: str
    """The Content-Security-Policy."""


@cache
def bundle(styles: tuple[str, ...] | None = None, scripts: tuple[str, ...] | None = None) -> Bundle:
    """Return style sheets and scripts of the package, and the policy that allows just these.

    Args:
        styles: Files below this folder; None takes the page's own.
        scripts: The same.

    Raises:
        ValueError: If a file would end its element early.
    """
    style = "".join(f"\n{_read(name)}\n" for name in (STYLES if styles is None else styles))
    texts = tuple(_read(name) for name in (SCRIPTS if scripts is None else scripts))
    return Bundle(style, texts, _policy(style, texts))


def _read(name: str) -> str:
    text = files("lightning_diag.report").joinpath(name).read_text(encoding="utf-8")
    # A browser reads line ends as \n before it hashes; a checkout may have others.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = [end for end in ("</script", "</style", "<!--") if end in text.lower()]
    if found:
        raise ValueError(f"{name!r} must not hold {found[0]!r}, which a browser takes for markup.")
    return text


def _policy(style: str, scripts: Iterable[str]) -> str:
    allowed = " ".join(_hash(script) for script in scripts)
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {allowed}" if allowed else "script-src 'none'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
