"""Pages in a real browser; without one, or without Playwright, these tests are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from browser.pages import write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

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


@pytest.fixture
def open_page(browser: Browser, folder: Path) -> Iterator[Open]:
    """Return a function that opens the page of a made-up run from disk."""
    contexts = []

    def start(
        name: str,
        *,
        width: int = 1400,
        scheme: Literal["light", "dark"] = "light",
        scripts: bool = True,
    ) -> Opened:
        path = folder / f"{name}.html"
        if not path.exists():
            write(folder, name)
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=scripts,
            offline=True,
        )
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.set_default_timeout(10_000)
        said = opened.complaints.append
        opened.page.on("console", lambda message: said(f"{message.type}: {message.text}"))
        opened.page.on("pageerror", lambda error: said(str(error)))
        opened.page.on("dialog", lambda dialog: _refuse(dialog, opened))
        opened.page.on("request", lambda request: _from_disk(request.url, opened))
        if scripts:
            opened.page.add_init_script(WATCH_POLICY)
        opened.page.goto(path.as_uri())
        return opened

    yield start
    for context in contexts:
        context.close()


def _refuse(dialog: Dialog, opened: Opened) -> None:
    opened.complaints.append(f"dialog: {dialog.message}")
    dialog.dismiss()


def _from_disk(url: str, opened: Opened) -> None:
    if not url.startswith(("file:", "data:")):
        opened.complaints.append(f"request: {url}")
