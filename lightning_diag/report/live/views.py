"""How a run is shown while it goes on: on a terminal as a picture, elsewhere as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lightning_diag.finding import Finding
from lightning_diag.report.console import say
from lightning_diag.report.live.follow import Follower
from lightning_diag.report.live.spark import ASCII_BARS, BARS, spark
from lightning_diag.report.live.state import Now
from lightning_diag.report.verdict import fold
from lightning_diag.report.words import SIGNS, number, plain

if TYPE_CHECKING:
    from typing_extensions import Self

ROWS = {
    "Loss": False,
    "Validation loss": False,
    "Gradient norm": True,
    "Update ratio": True,
    "Learning rate": False,
}
"""What is shown, and whether on a logarithmic scale."""
QUIET = 120
"""Seconds without news from which on that is said (our choice): most runs write every few."""


class Plainly:
    """A line for each change, without control codes: for files, pipes and logs.

    Args:
        out: Where to.
    """

    def __init__(self, out: Console) -> None:
        self._out = out
        self._step: int | None = None
        self._waited = ""

    def wait(self, text: str) -> None:
        """Say once that there is nothing to show yet."""
        if text != self._waited:
            self._waited = text
            self._print(text)

    def show(self, follower: Follower, news: Sequence[Finding]) -> None:
        """Print what has changed."""
        now = follower.run
        if now.step is None:
            self.wait(f"{follower.path}: no step was watched yet")
        elif now.step != self._step:
            self._step = now.step
            self._print("  ".join(_told(now)))
        for finding in news:
            say(finding, console=self._out)

    def _print(self, text: str) -> None:
        self._out.print(Text(plain(text)), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Screen(Plainly):
    """A picture of the run, drawn anew at each look.

    Args:
        out: The terminal.
    """

    def __init__(self, out: Console) -> None:
        super().__init__(out)
        self._live = Live(console=out, auto_refresh=False, vertical_overflow="crop")

    def wait(self, text: str) -> None:
        """Say that there is nothing to show yet."""
        self._live.update(Text(plain(text)), refresh=True)

    def show(self, follower: Follower, news: Sequence[Finding]) -> None:
        """Draw where the run stands."""
        size = self._out.size
        ascii_only = self._out.options.ascii_only
        # The last line stays free, or a terminal that is full would scroll at each look.
        lines = picture(follower, size.width, size.height - 1, ascii_only=ascii_only)
        self._live.update(lines, refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()


def picture(follower: Follower, width: int, height: int, *, ascii_only: bool) -> RenderableType:
    """Return the picture of a run: where it stands, its curves, its findings.

    Args:
        follower: Who reads the run.
        width: Columns at hand.
        height: Lines at hand.
        ascii_only: Whether the terminal knows no other letters.
    """
    now = follower.run
    parts: list[RenderableType] = [_cut(text) for text in _head(follower, width)]
    rows = [name for name in ROWS if name in now.traces]
    bars = ASCII_BARS if ascii_only else BARS
    for name in rows:
        trace = now.traces[name]
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", width=15, no_wrap=True)
        grid.add_column(width=9, no_wrap=True)
        grid.add_column(no_wrap=True, overflow="crop")
        room = max(1, width - 29)
        line = spark(trace.levels(room), bars, is_log=ROWS[name])
        grid.add_row(name, number(trace.last) if trace.last is not None else "", line)
        parts.append(grid)
    parts.append(Text())
    parts += _findings(now.findings.values(), height - len(parts), ascii_only=ascii_only)
    return Group(*(_ascii(part) if ascii_only else part for part in parts[:height]))


def _ascii(part: RenderableType) -> RenderableType:
    """Return a line for a stream that would refuse other letters: that must not end the command."""
    if not isinstance(part, Text):
        return part
    plainer = part.copy()
    plainer.plain = part.plain.encode("ascii", "backslashreplace").decode()
    plainer.overflow = "crop"
    return plainer


def _head(follower: Follower, width: int) -> Iterator[Text]:
    now = follower.run
    path, room = plain(_short(follower.path)), width - 16
    # The end of a path says more than its beginning.
    path = path if len(path) <= room else f"...{path[len(path) - max(1, room - 3) :]}"
    yield Text.assemble(("lightning_diag  ", "bold"), path)
    if now.step is None:
        yield Text("No step was watched yet.")
        return
    state = _ended(str(now.meta.get("ended") or "finished")) if now.ended else "running"
    if not now.ended and follower.age > QUIET:
        state = f"no news for {_duration(follower.age)}: it is busy, or was killed"
    style = "bold" if now.ended else "bold green" if state == "running" else "bold yellow"
    yield Text.assemble((state, style), "  ", "  ".join(_place(now)))


def _ended(by: str) -> str:
    """Say how a run ended.

    Example:
        >>> _ended("finished"), _ended("KeyboardInterrupt"), _ended("ValueError")
        ('ended', 'stopped by hand', 'ended by ValueError')
    """
    known = {"finished": "ended", "KeyboardInterrupt": "stopped by hand"}
    return known.get(by, f"ended by {plain(by)}")


def _short(path: Path) -> str:
    """Return the run's own folder of a history's path."""
    folder = path.parent
    return str(folder.parent if folder.name.startswith("lightning_diag") else path)


def _place(now: Now) -> Iterator[str]:
    trainer = now.meta.get("trainer", {})
    steps, epochs = trainer.get("max_steps"), trainer.get("max_epochs")
    yield f"step {now.step:,}" + (f" of {steps:,}" if isinstance(steps, int) and steps > 0 else "")
    known = isinstance(epochs, int) and epochs > 0
    yield f"epoch {now.epoch + 1:,} of {epochs:,}" if known else f"epoch {now.epoch + 1:,}"
    if now.rate is not None:
        yield f"{number(now.rate)} steps/s"
    yield _duration(now.seconds)


def _told(now: Now) -> Iterator[str]:
    """Yield where a run stands, as parts of a line."""
    yield from _place(now)
    for name, trace in now.traces.items():
        if name in ROWS and trace.last is not None:
            yield f"{name.lower()} {number(trace.last)}"


def _duration(seconds: float) -> str:
    """Write a length of time.

    Example:
        >>> _duration(3.2), _duration(200), _duration(8000)
        ('3.2 s', '3 min 20 s', '2 h 13 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def _findings(
    findings: Iterable[Finding], room: int, *, ascii_only: bool
) -> Iterator[RenderableType]:
    """Yield findings, two lines each, causes first, as far as there is room."""
    causes = fold(findings)
    left = [found for cause in causes for found in (cause.finding, *cause.consequences)]
    if not left:
        yield Text("No finding so far.", "dim")
    for i, finding in enumerate(left):
        last = i == len(left) - 1
        if room < (2 if last else 3):
            yield Text(f"and {len(left) - i} more: `lightning-diag report` lists them", "dim")
            return
        sign = SIGNS[finding.severity]
        mark = sign.ascii if ascii_only else sign.mark
        passed = ", passed" if finding.until is not None else ""
        when = f"  since step {finding.steps[0]:,}{passed}"
        parts = (f"{mark} {sign.word}  ", sign.style), (plain(finding.code), "bold"), (when, "dim")
        yield _cut(Text.assemble(*parts))
        yield _cut(Text(f"  {plain(finding.message)}"))
        room -= 2


def _cut(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
