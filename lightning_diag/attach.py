"""What `LIGHTNING_DIAG` puts into a Trainer, and the variables that set its options."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping

from lightning_diag._compat import Callback, LightningModule, Trainer
from lightning_diag.auto import SWITCH
from lightning_diag.doctor import Doctor
from lightning_diag.rules.choice import near
from lightning_diag.warning import warn

PREFIX = f"{SWITCH}_"
_said: set[str] = set()


class AttachDoctor(Callback):
    """Take a `Doctor` into the trainer when a fit begins, unless there is one.

    A stand-in that has no state, since Lightning makes it before it can be known whether the
    script or its module bring a `Doctor` of their own, appends it to the script's own list of
    callbacks, and takes no two callbacks that have the same state.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put `Doctor` in the place of this callback, and let it begin."""
        callbacks = trainer.callbacks  # type: ignore[union-attr]  # not declared
        if stage != "fit" or any(isinstance(callback, Doctor) for callback in callbacks):
            return
        doctor, troubles = doctor_from(os.environ)
        if trainer.is_global_zero:
            _say(troubles)
        # In place: Lightning is going through this list.
        callbacks[callbacks.index(self)] = doctor
        doctor.setup(trainer, pl_module, stage)


def doctor_from(environment: Mapping[str, str]) -> tuple[Doctor, list[str]]:
    """Return a `Doctor` with the options that variables name, and what is wrong with the others.

    Example:
        >>> doctor, troubles = doctor_from({"LIGHTNING_DIAG_EVERY_N_STEPS": "often"})
        >>> doctor.every_n_steps is None, troubles
        (True, ["LIGHTNING_DIAG_EVERY_N_STEPS must be a whole number, got 'often'."])
    """
    options: dict[str, object] = {}
    troubles: list[str] = []
    for variable, text in sorted(environment.items()):
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or not text.strip():
            continue
        try:
            options |= _read(variable, name, text.strip())
        except (TypeError, ValueError) as error:
            troubles.append(str(error))
    return Doctor(**options), troubles  # type: ignore[arg-type]  # each was tried


def _read(variable: str, name: str, text: str) -> dict[str, object]:
    """Return the option that a variable sets; raise where it makes no sense."""
    if name not in READERS:
        known = [PREFIX + option.upper() for option in READERS]
        raise ValueError(f"There is no option {variable}{near(variable, known)}")
    expected, read = READERS[name]
    try:
        option = {name: read(text)}
    except ValueError:
        raise ValueError(f"{variable} must be {expected}, got {text!r}.") from None
    try:
        Doctor(**option)  # type: ignore[arg-type]  # its own checks are what is wanted
    except (TypeError, ValueError) as error:
        raise ValueError(f"{variable}={text}: {error}") from None
    return option


def _say(troubles: list[str]) -> None:
    """Warn of each trouble once, however many trainers there are."""
    for trouble in troubles:
        if trouble not in _said:
            _said.add(trouble)
            warn(f"{trouble} Doctor goes on without it.")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _level(text: str) -> str | list[str]:
    return text if text in ("off", "fast", "full") else _names(text)


def _thresholds(text: str) -> dict[str, dict[str, float]]:
    value = json.loads(text)
    if not isinstance(value, dict) or not all(isinstance(part, dict) for part in value.values()):
        raise ValueError(text)
    return value


READERS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "every_n_steps": ("a whole number", int),
    "max_overhead": ("a number", float),
    "startup_seconds": ("a number", float),
    "stop_on": ("codes or severities with commas between", _names),
    "mute": ("codes with commas between", _names),
    "thresholds": ('JSON like {"dead-relu": {"fraction": 0.35}}', _thresholds),
    "dirpath": ("a folder", str),
    "preflight": ("'off', 'fast', 'full' or checks with commas between", _level),
    "compiled_models": ("'eager' or 'leave'", str),
}
"""Option of `Doctor` to what its variable holds, in words and as a function that reads it.

All of them but those that are objects: `monitors` and `rules`.
"""
