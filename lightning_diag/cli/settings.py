"""Thresholds and mutes for ``judge``, from a file and from the words of the command."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_diag.cli.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """How to judge otherwise than by default."""

    thresholds: Mapping[str, Mapping[str, float]]
    """Code of a rule to name of a threshold to its value."""
    mute: tuple[str, ...]
    """What not to speak of."""


def settings(file: Path | None, words: Sequence[str], mute: Sequence[str]) -> Settings:
    """Return what a file says and, over it, what the words say.

    Args:
        file: TOML or JSON: a table of thresholds for each code, and `mute`, a list.
        words: ``CODE.NAME=NUMBER``.
        mute: ``CODE`` or ``CODE:PLACE``, besides those of the file.

    Raises:
        UsageError: If the file or a word cannot be read.
    """
    content = {} if file is None else _content(file)
    hushed = content.pop("mute", [])
    if not isinstance(hushed, list) or not all(isinstance(name, str) for name in hushed):
        raise UsageError(f"{str(file)!r}: `mute` must be a list of codes, got {hushed!r}.")
    for code, values in content.items():
        if not isinstance(values, dict):
            raise UsageError(
                f"{str(file)!r}: {code!r} must hold thresholds by name, got {values!r}."
            )
    for word in words:
        code, name, value = _parsed(word)
        content.setdefault(code, {})[name] = value
    return Settings(content, (*hushed, *mute))


def _parsed(word: str) -> tuple[str, str, float]:
    """Read one threshold.

    Example:
        >>> _parsed("dead-relu.fraction=0.3")
        ('dead-relu', 'fraction', 0.3)
    """
    left, equals, right = word.partition("=")
    code, dot, name = left.strip().partition(".")
    try:
        value = float(right)
    except ValueError:
        equals = ""
    if not (equals and dot and code and name):
        raise UsageError(
            f"`--set` must be CODE.NAME=NUMBER, such as dead-relu.fraction=0.3, got {word!r}."
        )
    return code, name, value


def _content(file: Path) -> dict[str, Any]:
    try:
        if file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
        else:
            content = _toml().loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        kind = "JSON" if file.suffix == ".json" else "TOML"
        raise UsageError(f"{str(file)!r} is not {kind}: {error}.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{str(file)!r} must hold thresholds by code, got {content!r}.")
    return content


def _toml() -> Any:
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise UsageError("TOML needs Python 3.11 or newer, or the package tomli; or write JSON.")
