"""The model's tree: its order, its modules, and where every place belongs."""

from __future__ import annotations

import torch
from report_runs import make_run
from runs import EVERY_STEP, Classifier, Net, data, trainer
from torch import nn

from lightning_diag import Doctor
from lightning_diag.history import History
from lightning_diag.report.payload import layers
from lightning_diag.report.payload.layers import Tree


def described(parameters: list[str], sites: list[str], modules: list[str] | None = None) -> History:
    history = History()
    history.update_meta(
        {
            "parameters": {
                name: {"shape": [2, 3], "layer": name.rpartition(".")[0], "trainable": True}
                for name in parameters
            },
            "sites": {
                place: {"function": "f", "kind": "relu", "module": place.rpartition("/")[0]}
                for place in sites
            },
        }
    )
    if modules is not None:
        history.update_meta({"modules": dict.fromkeys(modules, "Kind")})
    return history


def paths(history: History) -> list[str]:
    return [layer.path for layer in Tree(history).layers]


class Deep(nn.Module):
    """Modules within modules, registered in another order than called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.body = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        out: torch.Tensor = self.head(torch.relu(self.body(x)))
        return out


def test_a_real_models_tree_is_that_of_its_modules() -> None:
    doctor = Doctor(**EVERY_STEP)
    trainer(doctor, max_epochs=1).fit(Classifier(Deep()), data())
    rows = Tree(doctor.history).rows()
    shown = [(row["path"], row["depth"], row["kind"]) for row in rows]
    assert shown == [
        ("", 0, "Classifier"),
        ("net", 1, "Deep"),
        ("net.head", 2, "Linear"),
        ("net.body", 2, "Sequential"),
        ("net.body.0", 3, "Sequential"),
        ("net.body.0.0", 4, "Linear"),
        ("net.body.0.1", 4, "Tanh"),
    ]
    by_path = {row["path"]: row for row in rows}
    assert by_path["net"]["calls"] == ["net/relu#0"]
    assert by_path["net.head"]["parameters"] == ["net.head.weight", "net.head.bias"]
    assert (by_path["net.head"]["size"], by_path["net.body"]["size"]) == (27, None)


def test_every_place_of_a_real_run_belongs_to_a_layer() -> None:
    doctor = Doctor(**EVERY_STEP)
    trainer(doctor, max_epochs=1).fit(Classifier(Net()), data())
    history = doctor.history
    tree = Tree(history)
    for metric in ("gradient/norm", "gradient/layer_norm", "activation/std", "update/ratio"):
        assert history.places(metric)
        for place in history.places(metric):
            layer = tree.layers[tree.layer_of(place)]
            assert place in (layer.path, *layer.parameters, *layer.calls)
    assert tree.layer_of("") == -1


def test_modules_stand_before_what_is_within_them() -> None:
    rows = Tree(make_run(prefix="model.net.")).rows()
    for i, row in enumerate(rows):
        assert (row["parent"] is None) == (i == 0)
        if row["parent"] is not None:
            parent = rows[row["parent"]]
            assert row["parent"] < i
            assert row["depth"] == parent["depth"] + 1
            assert row["path"].startswith(parent["path"])


def test_numbered_modules_are_in_the_order_of_their_numbers() -> None:
    """Layers that have parameters and those that only call lie between each other."""
    assert paths(make_run(6))[1:] == [str(i) for i in range(12)]


def test_what_only_calls_stands_behind_what_called_before_it() -> None:
    history = described(["a.weight", "c.weight"], ["a/linear#0", "b/relu#0", "c/linear#0"])
    assert paths(history) == ["", "a", "b", "c"]


def test_the_order_is_that_of_the_modules_where_it_is_known() -> None:
    names = ["", "b", "a", "a.x", "unused"]
    assert paths(described(["a.x.weight", "b.weight"], [], names)) == ["", "b", "a", "a.x"]


def test_parameters_of_the_model_itself_belong_to_its_root() -> None:
    history = described(["scale"], ["/relu#0"])
    tree = Tree(history)
    assert paths(history) == [""]
    assert tree.layers[0].parameters == ["scale"]
    assert (tree.layer_of("scale"), tree.layer_of("/relu#0")) == (0, 0)


def test_of_too_many_layers_those_asked_for_stay_and_places_fall_to_what_is_around() -> None:
    names = [f"block{i}.layer{j}" for i in range(1000) for j in range(4)]
    tree = Tree(described([f"{name}.weight" for name in names], []), ["block500.layer2.weight"])
    assert layers.MOST <= len(tree.layers) <= 2 * layers.MOST
    assert tree.left_out > 0
    assert tree.layers[tree.layer_of("block500.layer2.weight")].path == "block500.layer2"
    for name in names:
        path = tree.layers[tree.layer_of(f"{name}.weight")].path
        assert path in (name, name.partition(".")[0], "")
