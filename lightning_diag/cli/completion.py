"""``lightning-diag completion``: scripts for shells, made from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, fields

from lightning_diag.cli.parser import build
from lightning_diag.finding import SEVERITIES
from lightning_diag.rules import DEFAULT_RULES


@dataclass(frozen=True)
class Word:
    """What may stand at one place behind a command."""

    flags: tuple[str, ...]
    """Its names; () for one that goes by its place."""
    text: str
    """What it is."""
    choices: tuple[str, ...]
    """What it may be; () for anything."""
    takes: bool
    """Whether a value belongs to it."""
    is_path: bool
    """Whether that is a file or a folder."""


def run(options: argparse.Namespace) -> int:
    """Print the script for a shell."""
    print({"bash": bash, "zsh": zsh, "fish": fish}[options.shell](), end="")  # noqa: T201
    return 0


def commands() -> dict[str, tuple[str, list[Word]]]:
    """Return of each command what its help says in a line, and its words."""
    (action,) = (a for a in build()._actions if isinstance(a, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
    return {name: (helps[name], list(_words(sub))) for name, sub in action.choices.items()}


def _words(parser: argparse.ArgumentParser) -> Iterator[Word]:
    for action in parser._actions:
        yield Word(
            flags=tuple(action.option_strings),
            text=(action.help or "").replace("%%", "%"),
            choices=_choices(action),
            takes=action.nargs != 0,
            is_path=action.metavar in ("RUN", "FILE", "FOLDER"),
        )


def _choices(action: argparse.Action) -> tuple[str, ...]:
    codes = tuple(sorted(rule.code for rule in DEFAULT_RULES))
    if action.dest in ("code", "mute"):
        return codes
    if action.dest == "fail_on":
        return (*SEVERITIES, *codes)
    if action.dest == "set":
        return tuple(
            f"{rule.code}.{field.name}="
            for rule in sorted(DEFAULT_RULES, key=lambda rule: rule.code)
            for field in fields(rule)
        )
    return tuple(map(str, action.choices or ()))


def bash() -> str:
    """Return the script for bash, also that of macOS (3.2)."""
    cases = []
    for name, (_, words) in commands().items():
        flags = " ".join(flag for word in words for flag in word.flags)
        places = [word for word in words if not word.flags]
        values = [
            f"          {'|'.join(w.flags)}) {_bash_values(w)} ;;" for w in words if _is_valued(w)
        ]
        plain = _bash_values(places[0]) if places else "return"
        cases.append(
            "\n".join(
                [
                    f"    {name})",
                    '      case "$before" in',
                    *values,
                    "          *)",
                    f'            case "$word" in -*) choices="{flags}" ;; *) {plain} ;; esac ;;',
                    "      esac ;;",
                ]
            )
        )
    return _BASH.format(commands=" ".join(commands()), cases="\n".join(cases))


def _is_valued(word: Word) -> bool:
    return bool(word.flags) and word.takes


def _bash_values(word: Word) -> str:
    if word.is_path:
        return "paths=1"
    return f'choices="{" ".join(word.choices)}"' if word.choices else "return"


def zsh() -> str:
    """Return the script for zsh."""
    names = " \\\n".join(f"      {_quoted(f'{n}:{text}')}" for n, (text, _) in commands().items())
    cases = []
    for name, (_, words) in commands().items():
        arguments = " \\\n".join(f"        {_quoted(spec)}" for w in words for spec in _zsh(w))
        cases.append(f"    {name})\n      _arguments \\\n{arguments} ;;")
    return _ZSH.format(names=names, cases="\n".join(cases))


def _zsh(word: Word) -> Iterator[str]:
    text = word.text.translate(str.maketrans("[]:", "() "))
    values = "_files" if word.is_path else f"({' '.join(word.choices)})" if word.choices else " "
    if not word.flags:
        yield f"*:{text}:{values}"
    for flag in word.flags:
        yield f"*{flag}[{text}]:{text}:{values}" if word.takes else f"{flag}[{text}]"


def fish() -> str:
    """Return the script for fish."""
    lines = ["complete -c lightning-diag -f"]
    for name, (text, words) in commands().items():
        lines.append(
            f"complete -c lightning-diag -n __fish_use_subcommand -a {name} -d {_quoted(text)}"
        )
        lines.extend(_fish(name, word) for word in words)
    return "\n".join(lines) + "\n"


def _fish(command: str, word: Word) -> str:
    parts = [f"complete -c lightning-diag -n '__fish_seen_subcommand_from {command}'"]
    parts.extend(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in word.flags)
    if word.flags and word.takes:
        parts.append("-r" if word.is_path else "-x")
    if word.is_path:
        parts.append("-F")
    if word.choices:
        parts.append(f"-a {_quoted(' '.join(word.choices))}")
    if word.flags:
        parts.append(f"-d {_quoted(word.text)}")
    return " ".join(parts)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_BASH = """\
# Completion of lightning-diag for bash.
_lightning_diag() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  local choices="" paths=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    case "$word" in -*) choices="--help --version" ;; *) choices="{commands}" ;; esac
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  if [ -n "$paths" ]; then
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$word"))
  else
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
    case "${{COMPREPLY[0]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
  fi
}}
complete -F _lightning_diag lightning-diag
"""

_ZSH = """\
#compdef lightning-diag
# Completion of lightning-diag for zsh.
_lightning_diag() {{
  local -a commands
  if (( CURRENT == 2 )); then
    commands=(
{names}
    )
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
{cases}
  esac
}}
if [ "$funcstack[1]" = "_lightning_diag" ]; then
  _lightning_diag "$@"
else
  compdef _lightning_diag lightning-diag
fi
"""
