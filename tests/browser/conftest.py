"""Pages in a real browser; without one, or without Playwright, these tests are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from browser.pages import write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Dialog, Page

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic"]
WATCH_POLICY = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
});
"""


@dataclass
class Opened:
    """A page that is open, and everything that it complained about."""

    page: Page
    """The page."""
    complaints: list[str] = field(default_factory=list)
    """Messages on the console, errors, violations of the policy, requests, dialogs."""

    def settle(self) -> None:
        """Wait until the browser has drawn what is to be drawn."""
        self.page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))"
        )

    def scroll_through(self) -> None:
        """Show every chart once, as a reader who scrolls down does."""
        for chart in self.page.locator("main .chart:visible").all():
            chart.scroll_into_view_if_needed()
            self.settle()

    def pixels(self, selector: str) -> str:
        """Return what a chart shows, as text that differs when it does."""
        self.settle()
        code = "(node) => [...node.querySelectorAll('canvas')].map((c) => c.toDataURL()).join()"
        return str(self.page.locator(selector).first.evaluate(code))


Open = Callable[..., Opened]


def executable() -> str | None:
    """Return Chromium's path: as the environment says, or as it is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = [shutil.which(name) for name in names]
    return os.environ.get("CHROMIUM") or next(filter(None, found), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start Chromium once for all tests of a process."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = executable()
    if path is None:
        pytest.skip("Chromium is not on the path; on Debian, `apt install chromium` brings it")
    with api.sync_playwright() as playwright:
        started: Browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that keeps the pages of all tests."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="session")
def window(browser: Browser, folder: Path) -> Iterator[BrowserContext]:
    """Open a window that all tests share: one of its own costs as much as the page itself."""
    context = browser.new_context(offline=True)
    # keeps the process that draws pages from ending between tests
    anchor = folder / "anchor.html"
    anchor.write_text("<!doctype html><title>anchor</title>", encoding="utf-8")
    context.new_page().goto(anchor.as_uri())
    yield context
    context.close()


@pytest.fixture
def open_page(browser: Browser, window: BrowserContext, folder: Path) -> Iterator[Open]:
    """Return a function that opens the page of a made-up run from disk."""
    pages: list[Opened] = []

    def start(name: str, *, scripts: bool = True, **options: Any) -> Opened:
        place = window if scripts else browser.new_context(java_script_enabled=False, offline=True)
        pages.append(_open(place, folder, name, **options))
        return pages[-1]

    yield start
    for opened in pages:
        if opened.page.context is window:
            opened.page.evaluate("localStorage.clear()")
            opened.page.close()
        else:
            opened.page.context.close()


@pytest.fixture(scope="session")
def read_page(window: BrowserContext, folder: Path) -> Iterator[Open]:
    """Return the same, scrolled through, for tests that only look: they share the last two."""
    kept: dict[str, Opened] = {}

    def start(name: str) -> Opened:
        opened = kept.pop(name, None)
        if opened is None:
            opened = _open(window, folder, name)
            opened.scroll_through()
        kept[name] = opened
        if len(kept) > 2:
            kept.pop(next(iter(kept))).page.close()
        return opened

    yield start
    for opened in kept.values():
        opened.page.close()


def _open(
    context: BrowserContext,
    folder: Path,
    name: str,
    *,
    width: int = 1400,
    scheme: Literal["light", "dark"] = "light",
) -> Opened:
    path = folder / f"{name}.html"
    if not path.exists():
        write(folder, name)
    opened = Opened(context.new_page())
    opened.page.set_viewport_size({"width": width, "height": 900})
    opened.page.emulate_media(color_scheme=scheme)
    opened.page.set_default_timeout(10_000)
    said = opened.complaints.append
    opened.page.on("console", lambda message: said(f"{message.type}: {message.text}"))
    opened.page.on("pageerror", lambda error: said(str(error)))
    opened.page.on("dialog", lambda dialog: _refuse(dialog, opened))
    opened.page.on("request", lambda request: _from_disk(request.url, opened))
    opened.page.add_init_script(WATCH_POLICY)
    opened.page.goto(path.as_uri())
    return opened


def _refuse(dialog: Dialog, opened: Opened) -> None:
    opened.complaints.append(f"dialog: {dialog.message}")
    dialog.dismiss()


def _from_disk(url: str, opened: Opened) -> None:
    if not url.startswith(("file:", "data:")):
        opened.complaints.append(f"request: {url}")
