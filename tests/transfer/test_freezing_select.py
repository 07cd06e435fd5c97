"""Which layers are meant, when they thaw, and what is said of what fits nothing (T2, T3)."""

from __future__ import annotations

import logging
import math
import re
from typing import Any

import pytest
import yaml
from cli_config import callback
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import nn

from lightning_diag import LayerFreezing
from lightning_diag._compat import MisconfigurationException
from lightning_diag.transfer.ranks import refuse
from lightning_diag.transfer.select import Finder, below
from lightning_diag.transfer.stages import find_stages
from lightning_diag.transfer.timetable import Timetable
from transfer.freeze_models import STAGES, bert, gpt2, named, resnet, timm_vit
from transfer.freezes import Diary, Transfer, data, kept, moved, sgd, top, trainer


def taken(module: nn.Module, selection: Any) -> set[str]:
    return set(Finder(module, "schedule").take(selection).parameters)


def within(module: nn.Module, *prefixes: str) -> set[str]:
    return {n for n, _ in module.named_parameters() if n.startswith(prefixes)}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("place", ["alone", "in a module", "as backbone"])
def test_stages_of_known_packages_are_found(name: str, place: str) -> None:
    make, expected = STAGES[name]
    module = make()
    if place == "in a module":
        module = named(model=module)
    if place == "as backbone":
        *_, head = module._modules
        module._modules[head] = nn.Identity()
        module = named(backbone=module, head=nn.Linear(2, 2))
        expected = [*expected[:-1], "head"]
        if name == "vgg":
            expected = [*STAGES[name][1][:2], "head"]
    found = [stage.name for stage in find_stages(module)]
    assert len(found) == len(expected)
    assert all(a.endswith(b) for a, b in zip(found, expected, strict=True)), found


@pytest.mark.parametrize("name", STAGES)
def test_stages_have_every_parameter_once(name: str) -> None:
    module = STAGES[name][0]()
    finder = Finder(module, "schedule")
    chosen = [below(stage.members) for stage in finder.stages]
    names = [n for each in chosen if finder.has(each) for n in finder.take(each).parameters]
    assert sorted(names) == sorted(n for n, _ in module.named_parameters())


def test_a_norm_is_with_what_it_follows_and_an_embedding_with_what_follows_it() -> None:
    members = {stage.name: stage.members for stage in find_stages(timm_vit())}
    assert members["patch_embed"] == ["cls_token", "pos_embed", "patch_embed"]
    assert members["blocks.2"] == ["blocks.2", "norm"]
    assert find_stages(resnet())[0].members == ["conv1", "bn1"]


@pytest.mark.parametrize(
    ("selection", "prefixes"),
    [
        ("layer4", ("net.layer4.",)),
        ("net.layer4", ("net.layer4.",)),
        ("layer[34]", ("net.layer3.", "net.layer4.")),
        ("net.layer?.0", tuple(f"net.layer{i}.0." for i in (1, 2, 3, 4))),
        ("re:layer(1|2)\\.1", ("net.layer1.1.", "net.layer2.1.")),
        ("re:^net\\.fc$", ("net.fc.",)),
        ("conv1.weight", ("net.conv1.weight",)),
        ("last", ("net.fc.",)),
        ("last 2", ("net.layer4.", "net.fc.")),
        ("the last 2", ("net.layer4.", "net.fc.")),
        ("first", ("net.conv1.", "net.bn1.")),
        ("all but last 2", ("net.conv1.", "net.bn1.", *(f"net.layer{i}." for i in (1, 2, 3)))),
        ("all but the last 5", ("net.conv1.", "net.bn1.")),
        ("head", ("net.fc.",)),
        ("stem", ("net.conv1.", "net.bn1.")),
        ("backbone", ("net.conv1.", "net.bn1.", "net.layer")),
        ("*", ("net.",)),
        (lambda name: name.endswith("fc.bias"), ("net.fc.bias",)),
    ],
)
def test_a_selection_means_these_layers(selection: Any, prefixes: tuple[str, ...]) -> None:
    module = named(net=resnet())
    expected = within(module, *prefixes)
    if selection == "conv1.weight":
        expected = {n for n, _ in module.named_parameters() if n.endswith("conv1.weight")}
    assert taken(module, selection) == expected != set()


def test_a_name_of_the_module_itself_comes_before_a_role() -> None:
    assert taken(Transfer(), "backbone") == within(Transfer(), "backbone.")
    assert taken(named(head=nn.Linear(2, 2), tail=nn.Linear(2, 2)), "head") == {
        "head.weight",
        "head.bias",
    }


def test_compiled_modules_go_by_their_own_names() -> None:
    module = named(net=named(_orig_mod=named(body=nn.Linear(2, 2), head=nn.Linear(2, 2))))
    assert taken(module, "net.head") == {"net.head.weight", "net.head.bias"}


def test_a_tied_parameter_thaws_with_the_first_entry_that_has_it() -> None:
    timetable = Timetable.of(
        {0: "lm_head", 1: "h", 2: "*"}, freeze=None, every=None, unfreeze_all=None, on_plateau=False
    )
    units, _ = timetable.units(gpt2())
    assert list(units[0].parameters) == ["lm_head.weight"]
    assert "transformer.wte.weight" not in units[2].parameters


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("layer5", "'layer5', which fits no layer of this model: did you mean 'layer4'"),
        ("re:^layer9", "did you mean 'layer"),
        ("zzz", "Its layers are conv1, layer1, layer2, layer3, layer4, fc."),
        (lambda name: False, "'lambda', which fits no layer"),
    ],
)
def test_what_fits_nothing_is_refused_with_near_misses(selection: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=re.escape(message)):
        taken(resnet(), selection)


def test_an_entry_that_has_nothing_new_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="an entry before it has all of its layers"):
        trainer(LayerFreezing({0: "*", 1: "head"})).fit(Transfer(), data(), data(1))


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="nothing trains"):
        trainer(LayerFreezing({1: "head"}, freeze="*")).fit(Transfer(), data(), data(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": {3: "head"}}, "nothing would train before"),
        ({"schedule": {}}, "must have an entry"),
        ({"schedule": []}, "must name layers"),
        ({"schedule": {-1: "head"}}, "whole numbers from 0 on"),
        ({"schedule": {0: ""}}, "must hold names of layers"),
        ({"schedule": {0: "re:("}}, "no regular expression"),
        ({"schedule": ["head", "low"]}, "Nothing says when"),
        ({}, "Nothing says when"),
        ({"schedule": {0: "head"}, "every": 2}, "`schedule` is a list"),
        ({"every": 2, "on_plateau": "x"}, "`every` and `on_plateau`"),
        ({"every": 0}, "`every` must be at least 1, got 0"),
        ({"every": 1, "unfreeze_all": 0}, "`unfreeze_all` must be at least 1"),
        ({"every": 1, "unit": "batch"}, "`unit` must be one of epoch, step, got 'batch'"),
        ({"every": 1, "lr_decay": 0.0}, "`lr_decay` must be above 0"),
        ({"every": 1, "warmup": -1}, "`warmup` must be a whole number of at least 0"),
        ({"every": 1, "restore_best": True}, "`restore_best` needs a metric"),
        ({"on_plateau": "x", "window": 1}, "`window` must be at least 2"),
        ({"on_plateau": "x", "patience": 0}, "`patience` must be at least 1"),
        ({"on_plateau": "x", "min_delta": -1.0}, "`min_delta` must be at least 0"),
        ({"on_plateau": "x", "mode": "up"}, "`mode` must be 'min' or 'max', got 'up'"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LayerFreezing(**arguments)


def test_what_is_no_selection_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="must hold names, patterns or functions, got 3"):
        LayerFreezing({0: 3})  # type: ignore[dict-item]


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy])
def test_strategies_that_split_parameters_are_refused_with_the_reason(strategy: Any) -> None:
    """P30."""

    class Holder:
        pass

    holder: Any = Holder()
    holder.strategy = strategy.__new__(strategy)
    with pytest.raises(MisconfigurationException, match=f"not work with {strategy.__name__}, sin"):
        refuse(holder)


def stages_of(arguments: dict[str, Any], epochs: int = 6, module: Any = None) -> list[set[str]]:
    diary = Diary()
    trainer(LayerFreezing(**{"verbose": False, **arguments}), diary, max_epochs=epochs).fit(
        module or Transfer(), data(), data(1)
    )
    names = {"head.weight": "head", "head.bias": "head"}
    return [{names.get(n, n.rpartition(".")[2]) for n in top(each)} for each in diary.moved]


HEAD, HIGH, LOW = {"head"}, {"head", "high"}, {"head", "high", "low"}
ALL = LOW | {"stem", "plain"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"schedule": {0: "head", 2: "high", 4: "low"}}, [HEAD] * 2 + [HIGH] * 2 + [LOW] * 2),
        ({"schedule": {0: "head", 6: "high", 18: "low"}, "unit": "step"}, [HEAD, HIGH, HIGH, HIGH,
                                                                           LOW, LOW]),
        ({"schedule": ["head", "high", "low"], "every": 2}, [HEAD] * 2 + [HIGH] * 2 + [LOW] * 2),
        ({"schedule": "head"}, [HEAD] * 6),
        ({"schedule": "head", "unfreeze_all": 3}, [HEAD] * 3 + [ALL] * 3),
        ({"every": 1}, [HEAD, HIGH, LOW, ALL, ALL, ALL]),
        ({"every": 1, "unfreeze_all": 2}, [HEAD, HIGH, ALL, ALL, ALL, ALL]),
        ({"freeze": "backbone"}, [HEAD] * 6),
        ({"freeze": "backbone", "schedule": {4: "backbone"}}, [HEAD] * 4 + [ALL] * 2),
        ({"freeze": "low"}, [ALL - {"low"}] * 6),
        ({"freeze": ["low", "high"], "schedule": ["high", "low"], "every": 2},
         [ALL - {"low", "high"}] * 2 + [ALL - {"low"}] * 2 + [ALL] * 2),
        ({"freeze": "backbone", "every": 2}, [HEAD] * 2 + [HIGH] * 2 + [LOW] * 2),
    ],
)  # fmt: skip
def test_layers_thaw_when_the_schedule_says(
    arguments: dict[str, Any], expected: list[set[str]]
) -> None:
    assert stages_of(arguments) == expected


class Scripted(Transfer):
    """Logs values that are known beforehand."""

    values = (5.0, 4.0, 3.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", self.values[self.current_epoch])


def test_the_next_entry_thaws_when_the_average_no_longer_improves() -> None:
    arguments = {"schedule": ["head", "high", "low"], "on_plateau": "score", "window": 2}
    found = stages_of({**arguments, "patience": 2}, 12, Scripted(sgd))
    # Averages 4.5 3.5 3 | 3 3, so behind check 6; then 2 | 2 2, so behind check 10.
    assert found == [HEAD] * 6 + [HIGH] * 4 + [LOW] * 2


def test_epochs_without_a_validation_are_no_checks() -> None:
    diary = Diary()
    callback = LayerFreezing(
        ["head", "high"], on_plateau="score", window=2, patience=1, verbose=False
    )
    trainer(callback, diary, max_epochs=10, check_val_every_n_epoch=2).fit(
        Scripted(sgd), data(), data(1)
    )
    # Validations behind epochs 1, 3, 5, 7 and 9: 4 3 3 2 2, whose averages are 3.5 3 2.5 2.
    assert len(set(map(tuple, diary.trainable))) == 1
    assert callback.state_dict()["plateau"]["values"] == [4.0, 3.0, 3.0, 2.0, 2.0]


@pytest.mark.parametrize("validation", [True, False])
def test_a_metric_of_training_is_checked_once_an_epoch(*, validation: bool) -> None:
    class Trained(Transfer):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("seen", float(self.current_epoch), on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    callback = LayerFreezing(["head", "high"], on_plateau="seen", patience=9, verbose=False)
    trainer(callback, max_epochs=4, limit_val_batches=int(validation)).fit(
        Trained(), data(), data(1)
    )
    assert callback.state_dict()["plateau"]["values"] == [0.0, 1.0, 2.0, 3.0]


def test_the_best_weights_of_a_stage_are_put_back_when_the_next_begins() -> None:
    class Look(Diary):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            starts.append(kept(pl_module))

    starts: list[Any] = []
    diary = Look()
    callback = LayerFreezing(
        ["head", "high"], on_plateau="score", window=2, patience=2, restore_best=True, verbose=False
    )
    trainer(callback, diary, max_epochs=7).fit(Scripted(sgd), data(), data(1))
    # The best average ends with the fourth validation.
    assert not moved(diary.weights[3], starts[24])
    assert moved(diary.weights[5], starts[24])


def test_a_metric_that_nobody_logs_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(MisconfigurationException, match=r"nobody has logged.*loss, val_loss"):
        stages_of({"schedule": ["head", "high"], "on_plateau": "accuracy"})


def test_the_table_says_what_trains_and_when(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pytorch_lightning")
    trainer(LayerFreezing({0: "head", 1: "high", 2: "low"}, lr_decay=0.5), max_epochs=2).fit(
        Transfer(), data(), data(1)
    )
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("LayerFreezing")]
    assert said[0].splitlines()[1:] == [
        "group   layers  parameters  trains        lr",
        "head         1          21  yes         0.05",
        "high         2          54  epoch 1    0.025",
        "low          2          54  epoch 2   0.0125",
        "frozen       1          42  never    0.00625",
    ]
    assert said[1:] == ["LayerFreezing: high thawed at epoch 1; trains now: head, high"]


def test_starts_are_known_or_said_to_depend() -> None:
    def starts(schedule: Any, **options: Any) -> list[float]:
        given = {"freeze": None, "every": None, "unfreeze_all": None, "on_plateau": False}
        timetable = Timetable.of(schedule, **{**given, **options})
        return [timetable.start(i) for i in range(4)]

    assert starts({0: "a", 3: "b", 4: "c"}) == [0, 3, 4, math.inf]
    assert starts(["a", "b", "c"], every=5, unfreeze_all=7) == [0, 5, 7, 7]
    assert math.isnan(starts(["a", "b", "c"], on_plateau=True)[1])


def test_gradual_unfreezing_of_a_transformer_goes_from_the_top_down() -> None:
    timetable = Timetable.of(None, freeze=None, every=1, unfreeze_all=None, on_plateau=False)
    units, entries = timetable.units(bert())
    assert [unit.name.removeprefix("bert.") for unit in units] == STAGES["bert"][1][::-1]
    assert entries == list(range(6))


CONFIG = """
trainer:
  accelerator: cpu
  logger: false
  callbacks:
    - class_path: lightning_diag.LayerFreezing
      init_args:
        schedule:
          0: head
          3: [layer4, "re:layer[23]"]
        unfreeze_all: 5
        lr_decay: 0.5
"""


def built(config: str, *arguments: str) -> LayerFreezing:
    return callback(LayerFreezing, config, *arguments)


@pytest.mark.usefixtures("alone")
def test_arguments_survive_a_round_trip(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        built(CONFIG, "--print_config")
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["trainer"]["callbacks"][0]["init_args"]["lr_decay"] == 0.5
    for found in (built(CONFIG), built(printed)):
        assert found.timetable.starts == [0, 3]
        assert found.timetable.entries == [["head"], ["layer4", "re:layer[23]"]]
