"""`OptunaPruning`: broken trials end early and say why; others are left alone (W12)."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import optuna
import pytest
import torch

from lightning_diag import Doctor, OptunaPruning
from stopping.digits import classifier, digits
from stopping.scripted import loaders, module, trainer


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def doctor(**options: Any) -> Doctor:
    """Return a Doctor whose looks do not depend on the clock."""
    return Doctor(max_overhead=1e9, startup_seconds=1e9, **options)


def new_study(pruner: Any = None) -> Any:
    return optuna.create_study(pruner=pruner or optuna.pruners.NopPruner())


def one_trial(objective: Callable[[Any], float]) -> Any:
    study = new_study()
    study.optimize(objective, n_trials=1)
    return study.trials[0]


@pytest.mark.parametrize("order", [1, -1], ids=["doctor first", "doctor last"])
def test_a_trial_that_diverges_is_pruned_for_that_reason(lightning: ModuleType, order: int) -> None:
    """W12: the loss is 3 times its first value within the first epochs of 20."""
    fits: list[Any] = []

    def objective(trial: Any) -> float:
        callbacks = [doctor(), OptunaPruning(trial, "val_loss")][::order]
        fits.append(trainer(lightning, *callbacks, max_epochs=20))
        fits[0].fit(classifier(lightning, lr=20.0), *digits())
        return float(fits[0].callback_metrics["val_loss"])

    trial = one_trial(objective)
    assert trial.state.name == "PRUNED"
    assert trial.user_attrs["pruned_by"] in {"diverging-loss", "non-finite"}
    assert trial.user_attrs["pruned_at_step"] == fits[0].global_step < 5 * 32
    assert "loss" in trial.user_attrs["pruned_because"]


def test_a_loss_that_is_no_number_is_pruned_at_once(lightning: ModuleType) -> None:
    def objective(trial: Any) -> float:
        network = classifier(lightning, lr=0.05)
        with torch.no_grad():
            network.net[0].weight[0, 0] = torch.nan
        fit = trainer(lightning, doctor(), OptunaPruning(trial), max_epochs=5)
        fit.fit(network, *digits())
        return 0.0

    trial = one_trial(objective)
    assert trial.user_attrs["pruned_by"] == "non-finite"
    assert trial.user_attrs["pruned_at_step"] < 32


def test_a_healthy_trial_is_left_alone_and_reports_each_validation(lightning: ModuleType) -> None:
    def objective(trial: Any) -> float:
        torch.manual_seed(0)
        callbacks = [doctor(), OptunaPruning(trial, "val_loss")]
        fit = trainer(lightning, *callbacks, max_epochs=4, num_sanity_val_steps=1)
        fit.fit(classifier(lightning, lr=0.05), *digits())
        return float(fit.callback_metrics["val_loss"])

    trial = one_trial(objective)
    assert trial.state.name == "COMPLETE"
    assert trial.user_attrs == {}
    assert list(trial.intermediate_values) == [0, 1, 2, 3]
    assert trial.intermediate_values[3] == pytest.approx(trial.value)


class After(optuna.pruners.BasePruner):
    """Prunes from the second report on."""

    def prune(self, study: Any, trial: Any) -> bool:
        return bool(trial.last_step >= 1)


def test_the_studys_own_pruner_is_asked_after_each_validation(lightning: ModuleType) -> None:
    def objective(trial: Any) -> float:
        fit = trainer(lightning, OptunaPruning(trial, "val_loss", prune_on=[]), max_epochs=9)
        fit.fit(module(lightning, [3.0, 2.5, 2.0]), *loaders())
        return 0.0

    study = new_study(After())
    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state.name == "PRUNED"
    assert trial.intermediate_values == {0: 3.0, 1: 2.5}
    assert trial.user_attrs == {
        "pruned_by": "pruner",
        "pruned_because": "The study's pruner ended it after validation 2 at val_loss = 2.5.",
        "pruned_at_step": 4,
    }


def test_codes_prune_at_their_severity_and_severities_by_themselves(lightning: ModuleType) -> None:
    from lightning_diag.finding import Evidence, Finding

    def found(severity: Any) -> Finding:
        return Finding("dead-relu", severity, "m", "r", (), (0, 0), Evidence(0, 0, 0, 0))

    trial = new_study().ask()
    strict = OptunaPruning(trial, prune_on=["dead-relu"])
    assert [strict._counts(found(s)) for s in ("bad", "suspect", "note")] == [True, False, False]
    mild = OptunaPruning(trial, prune_on=["dead-relu"], severity="suspect")
    assert [mild._counts(found(s)) for s in ("bad", "suspect", "note")] == [True, True, False]
    any_bad = OptunaPruning(trial, prune_on=["bad"])
    assert [any_bad._counts(found(s)) for s in ("bad", "suspect")] == [True, False]


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (lambda t: [OptunaPruning(t)], "no Doctor is there to find them"),
        (lambda t: [Doctor(), OptunaPruning(None)], "`trial` must be Optuna's trial on rank zero"),
        (
            lambda t: [Doctor(), OptunaPruning(t, prune_on=["diverging"])],
            "codes of the Doctor's rules, got 'diverging'",
        ),
        (
            lambda t: [Doctor(), OptunaPruning(t, "gone")],
            r"that validation logs, got 'gone'; logged are \['val_loss'\]",
        ),
    ],
)
def test_what_cannot_work_is_refused(
    lightning: ModuleType, callbacks: Callable[[Any], list[Any]], message: str
) -> None:
    fit = trainer(lightning, *callbacks(new_study().ask()), max_epochs=1)
    with pytest.raises(lightning.utilities.exceptions.MisconfigurationException, match=message):
        fit.fit(module(lightning, [1.0]), *loaders())


def test_wrong_arguments_are_refused_when_it_is_made() -> None:
    trial = new_study().ask()
    with pytest.raises(TypeError, match="`trial` must be a trial of Optuna's or None, got str"):
        OptunaPruning("trial")
    with pytest.raises(ValueError, match="`severity` must be one of"):
        OptunaPruning(trial, severity="worst")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without them nothing is pruned"):
        OptunaPruning(trial, prune_on=[])


def test_a_resumed_trial_goes_on_counting_its_reports(lightning: ModuleType) -> None:
    trial = new_study().ask()
    first = OptunaPruning(trial, "val_loss", prune_on=[])
    fit = trainer(lightning, first, max_epochs=2)
    fit.fit(module(lightning, [3.0, 2.0, 1.0]), *loaders())
    fit.save_checkpoint("cut.ckpt")
    second = OptunaPruning(trial, "val_loss", prune_on=[])
    fit = trainer(lightning, second, max_epochs=3)
    fit.fit(module(lightning, [3.0, 2.0, 1.0]), *loaders(), ckpt_path="cut.ckpt")
    (frozen,) = trial.study.trials
    assert frozen.intermediate_values == {0: 3.0, 1: 2.0, 2: 1.0}


def test_it_pickles_with_its_trial() -> None:
    copy = pickle.loads(pickle.dumps(OptunaPruning(new_study().ask(), "val_loss")))
    assert copy.prune_on == ["diverging-loss", "non-finite"]


def test_the_folder_is_used_without_optuna(run_python: Callable[..., str]) -> None:
    code = (
        "import sys\n"
        "import lightning_diag.stopping, lightning_diag.stopping.search\n"
        "from lightning_diag import EarlyStoppingWindow, OptunaPruning\n"
        "OptunaPruning(None, 'val_loss')\n"
        "print('optuna' in sys.modules, 'alembic' in sys.modules)"
    )
    assert run_python(code, torch=True) == "False False\n"
