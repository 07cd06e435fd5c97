"""Whether the run goes on, and what ended it, in a sentence."""

from __future__ import annotations

from lightning_diag.history import History


def ending(history: History, *, running: bool) -> str:
    """Return what a reader has to know of how a run ended; nothing if it was as it should be.

    Args:
        history: The run.
        running: Whether it is known to go on.
    """
    if not len(history):
        return ""
    at = _position(history)
    ended = str(history.meta.get("ended") or "")
    if running:
        return f"The run goes on; this is as of {at}."
    if ended == "finished":
        return ""
    if ended == "KeyboardInterrupt":
        return f"The run was stopped by hand at {at}."
    if ended:
        return f"The run was ended by {ended} at {at}."
    return f"The run goes on or was killed: it wrote no end, and its last numbers are of {at}."


def how_it_ended(history: History) -> str:
    """Return what a reader of a stored run has to know of its end; nothing if that is not known.

    Earlier versions wrote that a run had ended, and not how.
    """
    return ending(history, running=False) if "ended" in history.meta else ""


def _position(history: History) -> str:
    """Return the last step that anything is known of, and how far that is."""
    trainer = history.meta.get("trainer") or {}
    last = max([*history.steps, *history.series("loss/train").steps[-1:]])
    step = f"step {last:,}"
    most = trainer.get("max_steps")
    if isinstance(most, int) and most > 0:
        return f"{step} of {most:,}"
    epochs = trainer.get("max_epochs")
    epoch = max(epoch for _, epoch, _ in history.marks()) + 1
    if isinstance(epochs, int) and epochs > 0:
        return f"{step}, in epoch {epoch:,} of {epochs:,}"
    return step
