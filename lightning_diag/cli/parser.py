"""The words of the command line, and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_diag import __version__
from lightning_diag.cli import texts

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

SHELLS = ("bash", "zsh", "fish")
FORMATS = ("text", "json", "sarif", "junit", "markdown")


def build() -> argparse.ArgumentParser:
    """Return the parser; `command` of what it returns names a module of this package."""
    parser = argparse.ArgumentParser(
        prog="lightning-diag",
        description="Say what is wrong with a training run.",
        epilog=texts.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lightning-diag {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _report,
        _watch,
        _judge,
        _check,
        _compare,
        _explain,
        _rules,
        _figures,
        _wandb,
        _demo,
        _completion,
    ):
        add(commands)
    return parser


def _command(commands: Commands, name: str, help_: str) -> argparse.ArgumentParser:
    description, examples = texts.COMMANDS[name]
    return commands.add_parser(
        name,
        help=help_,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _report(commands: Commands) -> None:
    report = _command(commands, "report", "the verdict on a stored run, and its page again")
    report.add_argument("run", type=Path, metavar="RUN", help=texts.RUN)
    report.add_argument("--out", type=Path, metavar="FILE", help="default: beside the history")


def _watch(commands: Commands) -> None:
    watch = _command(commands, "watch", "follow a run live, from another terminal")
    watch.add_argument("run", type=Path, metavar="RUN", help=f"{texts.RUN}; may come later")
    watch.add_argument(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="between two looks at the file (default: 1)",
    )


def _judge(commands: Commands) -> None:
    judge = _command(commands, "judge", "judge a stored run again, at other thresholds")
    judge.add_argument("run", type=Path, metavar="RUN", help=texts.RUN)
    judge.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="CODE.NAME=NUMBER",
        help="set a threshold, as `lightning-diag rules` names them; may be given again",
    )
    judge.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="TOML or JSON: a table of thresholds for each code, and a list `mute`",
    )
    judge.add_argument(
        "--mute",
        action="append",
        default=[],
        metavar="CODE[:PLACE]",
        help="leave a rule out, or some places of it; may be given again",
    )
    judge.add_argument(
        "--fail-on",
        action="append",
        default=[],
        metavar="WHAT",
        help="exit with 1 if this is found: bad, suspect (or worse), note (or worse), or a code",
    )
    judge.add_argument("--format", choices=FORMATS, default="text", help="default: text")


def _check(commands: Commands) -> None:
    check = _command(commands, "check", "what is wrong with a module before it is trained")
    check.add_argument(
        "target",
        metavar="MODULE:FACTORY",
        help="a function, as my.package.module:make or path/to/file.py:make, that returns a "
        "LightningModule, or one and its data",
    )
    check.add_argument(
        "--level",
        choices=("fast", "full"),
        default="fast",
        help="fast: no longer than a few batches (default); full: all checks",
    )
    check.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CODE",
        help="ask this check, or this family of checks, alone; may be given again",
    )
    check.add_argument(
        "--fail-on",
        action="append",
        default=[],
        metavar="WHAT",
        dest="fails_on",
        help="exit with 1 if this is found: bad, suspect (or worse), note (or worse), or a code",
    )
    check.add_argument("--format", choices=FORMATS, default="text", help="default: text")


def _compare(commands: Commands) -> None:
    compare = _command(commands, "compare", "what differs between runs")
    compare.add_argument("run", type=Path, metavar="RUN", help=texts.RUN)
    compare.add_argument("others", type=Path, nargs="+", metavar="RUN", help="more of them")
    compare.add_argument("--out", type=Path, metavar="FILE", help="write an HTML page, too")


def _explain(commands: Commands) -> None:
    explain = _command(commands, "explain", "what a finding means")
    explain.add_argument("code", nargs="?", metavar="CODE", help="as dead-relu; default: list all")


def _rules(commands: Commands) -> None:
    rules = _command(commands, "rules", "all rules with their thresholds")
    rules.add_argument(
        "--format", choices=("text", "json", "markdown"), default="text", help="default: text"
    )


def _figures(commands: Commands) -> None:
    figures = _command(commands, "figures", "the loss and the layers as pictures for a paper")
    figures.add_argument("run", type=Path, metavar="RUN", help=texts.RUN)
    figures.add_argument(
        "--out",
        type=Path,
        default=Path("figures"),
        metavar="FOLDER",
        help="where the files go (default: figures)",
    )
    figures.add_argument("--format", choices=("png", "svg"), default="png", help="default: png")


def _demo(commands: Commands) -> None:
    demo = _command(commands, "demo", "watch three short trainings")
    demo.add_argument("--out", type=Path, metavar="FOLDER", help="where the files go")
    demo.add_argument("--seed", type=int, default=0, help="seed of all three (default: 0)")


def _wandb(commands: Commands) -> None:
    wandb = _command(commands, "wandb", "the saved workspace of a project in W&B")
    wandb.add_argument("what", choices=("workspace",), help="what to make there")
    wandb.add_argument("--entity", required=True, metavar="E", help="user or team in W&B")
    wandb.add_argument("--project", required=True, metavar="P", help="the project")
    wandb.add_argument("--dry-run", action="store_true", help="send nothing, print what would be")
    wandb.add_argument("--out", type=Path, metavar="FILE", help="send nothing, write it to a file")


def _completion(commands: Commands) -> None:
    completion = _command(commands, "completion", "print what makes a shell complete words")
    completion.add_argument("shell", choices=SHELLS, help="the shell to complete for")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"must be 0.05 to 3600 seconds, got {text}")
    return value
