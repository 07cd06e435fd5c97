"""What raises is switched off, with one warning, and nothing else is."""

from __future__ import annotations

import warnings

import pytest

from lightning_diag.probe.guard import Guard
from lightning_diag.warning import DiagWarning


class Owner:
    def __init__(self) -> None:
        self.calls = 0

    def work(self, divisor: int, *, factor: int = 1) -> float:
        self.calls += 1
        return factor / divisor


def test_what_works_is_run_with_its_arguments() -> None:
    guard, owner = Guard(), Owner()
    assert guard.run(owner, owner.work, 2, factor=3) == 1.5
    assert not guard.is_off(owner)


def test_what_raises_is_not_run_again_and_warned_of_once() -> None:
    guard, owner, other = Guard(), Owner(), Owner()
    with pytest.warns(DiagWarning) as seen:
        assert guard.run(owner, owner.work, 0) is None
    assert guard.run(owner, owner.work, 1) is None
    (warning,) = seen
    assert "Owner is switched off" in str(warning.message)
    assert "ZeroDivisionError: division by zero" in str(warning.message)
    assert "please report this" in str(warning.message)
    assert guard.is_off(owner)
    assert owner.calls == 1
    assert guard.run(other, other.work, 1) == 1.0


def test_an_owner_that_cannot_work_here_is_no_bug() -> None:
    guard, owner = Guard(), Owner()
    with pytest.warns(DiagWarning, match="out of its reach") as seen:
        guard.switch_off(owner, "under SomeStrategy gradients are out of its reach")
    assert "bug" not in str(seen[0].message)
    assert guard.is_off(owner)


def test_warnings_as_errors_do_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    guard, owner = Guard(), Owner()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert guard.run(owner, owner.work, 0) is None
    assert "Owner is switched off" in caplog.text


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_whoever_wants_to_stop_the_run_can(stop: type[BaseException]) -> None:
    def interrupted() -> None:
        raise stop

    guard, owner = Guard(), Owner()
    with pytest.raises(stop):
        guard.run(owner, interrupted)
    assert not guard.is_off(owner)


def test_owners_are_told_apart_by_identity() -> None:
    """Two equal owners are two, and the memory of one that is gone is not taken for another's."""
    guard = Guard()
    for _ in range(20):
        owner = [0]
        with pytest.warns(DiagWarning):
            guard.run(owner, lambda: 1 / 0)
    assert guard.run([0], lambda: 7) == 7
