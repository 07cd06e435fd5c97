"""`replay`: judges a stored run again, record by record, as it was judged while it trained."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_diag.history import History
from lightning_diag.rules import Rule
from lightning_diag.rules.diagnosis import Diagnosis


def replay(history: History, rules: Sequence[Rule], mute: Sequence[str] = ()) -> Diagnosis:
    """Judge a run anew, from its first record to its last.

    Once at the end would not do: when a problem began, and what has passed since, is known only
    to those who look on the way. What thinning took away is missing on the way, and there only.

    Args:
        history: The run; it is left as it is.
        rules: What to judge by.
        mute: What not to speak of, as in `Diagnosis`.

    Returns:
        What was found, as after the run's last record.

    Raises:
        ValueError: If `mute` names no rule.
    """
    diagnosis = Diagnosis(rules, mute)
    diagnosis.warns = False
    for growing, record in history.again():
        if record is None or diagnosis.is_due(record):
            diagnosis.update(growing)
    diagnosis.update(history)
    return diagnosis
