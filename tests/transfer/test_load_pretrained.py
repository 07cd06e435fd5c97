"""Weights are loaded as far as they fit, all or nothing, and what did not fit is said (T1)."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_diag import DiagWarning, LoadReport, load_pretrained
from lightning_diag.probe.places import clean_name, named_parameters
from lightning_diag.transfer.slots import slots_of, without_wrappers


class Net(nn.Module):
    """A small net in which every kind of tensor occurs."""

    mean: Tensor
    scratch: Tensor

    def __init__(self, *, channels: int = 3, classes: int = 10, features: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, features, 1)
        self.fc = nn.Linear(features, classes)
        self.register_buffer("mean", torch.rand(3))
        self.register_buffer("scratch", torch.rand(3), persistent=False)


class Task(nn.Module):
    """A net within another module, as a LightningModule has it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone = net
        self.head = nn.Linear(10, 2)


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def is_same(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def names(entries: Any) -> list[str]:
    return [each.name for each in entries]


def test_all_of_it_is_loaded_buffers_included() -> None:
    source, mine = Net(), Net()
    with torch.no_grad():
        source.bn1.running_mean.fill_(3.0)  # type: ignore[union-attr]
        source.bn1.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    scratch = mine.scratch.clone()
    report = load_pretrained(mine, source, strict="error")
    assert is_same(mine, bits(source))
    assert torch.equal(mine.scratch, scratch)
    assert sorted(names(report.matched)) == sorted(mine.state_dict())
    assert (report.share, report.is_complete, report.not_loaded) == (1.0, True, ())
    expected = f"Loaded 12 of 12 tensors from a Net: 100.0 % of {report.values} values."
    assert str(report) == expected


def test_a_head_of_another_size_is_left_out_with_its_bias() -> None:
    source, mine = Net(classes=1000), Net(classes=10)
    before = bits(mine)
    report = load_pretrained(mine, source)
    assert torch.equal(mine.fc.weight, before["fc.weight"])
    assert torch.equal(mine.conv2.weight, source.conv2.weight)
    assert [(each.name, each.reason) for each in report.left_out] == [
        ("fc.weight", "(1000, 8) in the source, (10, 8) here"),
        ("fc.bias", "the weight beside it does not fit"),
    ]
    assert report.not_loaded == ("fc.weight", "fc.bias")


def test_a_bias_is_not_loaded_without_its_weight() -> None:
    """A classifier of as many classes on other features: its bias alone means nothing."""
    source, mine = Net(features=6), Net(features=8)
    before = bits(mine)
    report = load_pretrained(mine, source)
    assert torch.equal(mine.fc.bias, before["fc.bias"])
    assert names(report.left_out) == ["conv2.weight", "conv2.bias", "fc.weight", "fc.bias"]


def test_a_bias_waits_for_its_weight_whichever_is_registered_first() -> None:
    class Swapped(nn.Module):
        def __init__(self, features: int) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(2))
            self.weight = nn.Parameter(torch.randn(2, features))
            self.scale = nn.Parameter(torch.randn(2))

    report = load_pretrained(Swapped(3), Swapped(4), strict=0.0)
    assert names(report.matched) == ["scale"]
    assert names(report.left_out) == ["bias", "weight"]


@pytest.mark.parametrize(("channels", "how"), [(1, "sum"), (4, "repeat")])
def test_the_first_convolution_is_adapted_to_other_channels(channels: int, how: str) -> None:
    source, mine = Net(), Task(Net(channels=channels))
    report = load_pretrained(mine, source)
    (reshaped,) = report.reshaped
    assert reshaped.change == f"(4, 3, 3, 3) to (4, {channels}, 3, 3), channels by {how}"
    old = source.conv1.weight
    expected = old.sum(1, keepdim=True) if channels == 1 else old[:, [0, 1, 2, 0]] * 3 / 4
    assert isinstance(mine.backbone, Net)
    torch.testing.assert_close(mine.backbone.conv1.weight, expected)
    assert names(report.missing) == ["head.weight", "head.bias"]


def test_channels_are_not_adapted_if_that_is_not_wanted_nor_in_later_convolutions() -> None:
    report = load_pretrained(Net(channels=1), Net(), channels=None)
    assert report.left_out[0].reason.endswith("(4, 1, 3, 3) here; `channels` would adapt it")
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(2, 4, 3))
    assert names(load_pretrained(one, other, strict=0.1).left_out) == ["1.weight", "1.bias"]


def test_a_table_of_positions_is_interpolated_only_if_asked() -> None:
    class Vit(nn.Module):
        def __init__(self, side: int) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.randn(1, 1, 4))
            self.pos_embed = nn.Parameter(torch.randn(1, 1 + side * side, 4))

    source, mine = Vit(3), Vit(5)
    before = bits(mine)
    report = load_pretrained(mine, source, strict=0.0)
    assert torch.equal(mine.pos_embed, before["pos_embed"])
    assert report.left_out[0].reason.endswith("here; `positions` would interpolate it")
    assert names(report.matched) == ["cls_token"]
    report = load_pretrained(mine, source, positions="bicubic")
    assert torch.equal(mine.pos_embed[:, 0], source.pos_embed[:, 0])
    assert report.reshaped[0].change == "(1, 10, 4) to (1, 26, 4), bicubic"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_layout_gradient_and_optimizer_keep_their_hold(dtype: torch.dtype) -> None:
    source, mine = Net(), Net().to(dtype)
    mine.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mine.conv1.weight.requires_grad_(False)
    held = dict(mine.named_parameters())
    strides = mine.conv2.weight.stride()
    report = load_pretrained(mine, source)
    for name, parameter in mine.named_parameters():
        assert parameter is held[name]
        assert parameter.dtype == dtype
        assert torch.equal(parameter, source.get_parameter(name).to(dtype))
    assert mine.conv2.weight.stride() == strides
    assert not mine.conv1.weight.requires_grad
    assert mine.conv2.weight.requires_grad
    assert report.matched[0].change == f"float32 to {str(dtype)[6:]}"


def test_values_that_a_type_cannot_hold_are_left_out() -> None:
    source = {"weight": torch.tensor([[1e6]]), "bias": torch.tensor([1.0])}
    half = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)).half()
    state = {f"{i}.{name}": value for i in (0, 1) for name, value in source.items()}
    state["1.weight"] = torch.tensor([[2.0]])
    found = load_pretrained(half, state, strict=0.0)
    assert [(each.name, each.reason) for each in found.left_out] == [
        ("0.weight", "float32 in the source, float16 here: some values are too large"),
        ("0.bias", "the weight beside it does not fit"),
    ]


def test_kinds_of_numbers_are_not_mixed() -> None:
    source, mine = bits(Net()), Net()
    source["bn1.num_batches_tracked"] = torch.tensor(3.0)
    source["mean"] = torch.tensor([1, 2, 3])
    assert [(each.name, each.reason) for each in load_pretrained(mine, source).left_out] == [
        ("mean", "int64 in the source, float32 here"),
        ("bn1.num_batches_tracked", "float32 in the source, int64 here"),
    ]


def test_whole_numbers_are_loaded_where_they_fit() -> None:
    source, mine = bits(Net()), Net()
    source["bn1.num_batches_tracked"] = torch.tensor(3, dtype=torch.int32)
    load_pretrained(mine, source)
    assert mine.bn1.num_batches_tracked == 3
    mine.register_buffer("mean", torch.zeros(3, dtype=torch.uint8))
    source["mean"] = torch.tensor([1, 2, 300])
    (left,) = load_pretrained(mine, source).left_out
    assert left.reason == "int64 in the source, uint8 here: some do not fit"


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight


@pytest.mark.parametrize("given", ["embed.weight", "out.weight"])
def test_one_of_two_tied_names_loads_both(given: str) -> None:
    mine, value = Tied(), torch.rand(5, 3)
    report = load_pretrained(mine, {given: value}, strict="error")
    assert torch.equal(mine.out.weight, value)
    assert mine.out.weight is mine.embed.weight
    assert names(report.matched) == ["embed.weight", "out.weight"]
    assert sorted(each.change for each in report.matched) == ["", f"tied with {given}"]
    assert (report.values, report.loaded_values) == (15, 15)


def test_other_values_for_a_tied_name_are_said_and_not_loaded() -> None:
    mine = Tied()
    state = {"embed.weight": torch.zeros(5, 3), "out.weight": torch.ones(5, 3)}
    report = load_pretrained(mine, state)
    assert not mine.out.weight.any()
    (left,) = report.left_out
    assert left.reason == "tied with embed.weight, for which the source has other values"


def test_skipping_one_of_two_tied_names_skips_both() -> None:
    class More(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(3)

    mine = More()
    before = bits(mine)
    report = load_pretrained(mine, More(), skip="out", strict="error")
    assert torch.equal(mine.embed.weight, before["embed.weight"])
    assert [(each.name, each.asked) for each in report.left_out] == [
        ("embed.weight", True),
        ("out.weight", True),
    ]


def wrapped_in_parallel(net: nn.Module) -> nn.Module:
    return nn.DataParallel(net)


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")  # type: ignore[return-value]


def compiled_inside(net: nn.Module) -> nn.Module:
    return Task(torch.compile(net, backend="eager"))  # type: ignore[arg-type]


def parallel_inside(net: nn.Module) -> nn.Module:
    return Task(Task(nn.DataParallel(net)))


WRAPPERS = [wrapped_in_parallel, compiled, compiled_inside, parallel_inside]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrappers_change_no_names_on_either_side(wrap: Callable[[nn.Module], nn.Module]) -> None:
    source, mine = Net(), Net()
    load_pretrained(wrap(mine), source)
    assert is_same(mine, bits(source))
    third = Net()
    load_pretrained(third, wrap(source), strict=1.0)
    assert is_same(third, bits(source))
    fourth = Net()
    load_pretrained(fourth, wrap(source).state_dict(), strict=1.0)
    assert is_same(fourth, bits(source))


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_names_are_those_that_monitors_use(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = wrap(Net())
    theirs = [name for name, _, _ in named_parameters(net)]
    ours = [slot.name for slot in slots_of(net) if isinstance(slot.tensor, nn.Parameter)]
    assert ours == theirs
    name = "a._orig_mod.b._checkpoint_wrapped_module._fsdp_wrapped_module._fpw_module.weight"
    assert without_wrappers(name) == clean_name(name) == "a.b.weight"


def test_near_names_are_told_for_what_is_missing() -> None:
    state = bits(Net())
    state["convolution.weight"] = state.pop("fc.weight")
    state["conv_2.weight"] = state.pop("conv2.weight")
    report = load_pretrained(Net(), state)
    near = {each.name: each.near for each in report.missing}
    assert near == {"conv2.weight": ("conv_2.weight",), "fc.weight": ()}
    assert names(report.unexpected) == ["convolution.weight", "conv_2.weight"]
    assert "    conv2.weight, near: conv_2.weight" in str(report).splitlines()


def test_the_mapping_renames_before_prefixes_are_found_and_drops() -> None:
    state = {
        f"net.{name}".replace("conv", "convolution"): value for name, value in bits(Net()).items()
    } | {"net.ema.x": torch.ones(1)}
    report = load_pretrained(Net(), state, {"convolution": "conv", r"\.ema\.": None}, "error")
    assert report.dropped == ("net.ema.x",)
    assert report.prefix.removed == "net."
    assert "net.convolution1.weight" in {each.origin for each in report.matched}


def test_names_outside_of_a_found_prefix_are_taken_as_they_are() -> None:
    source, mine = Task(Net()), Task(Net())
    state = {f"model.{name}": value for name, value in bits(source).items()}
    state["head.weight"] = state.pop("model.head.weight")
    report = load_pretrained(mine, state, strict="error")
    assert is_same(mine, bits(source))
    assert report.prefix.removed == "model."


def test_a_prefix_chooses_one_of_two_towers() -> None:
    """MoCo and CLIP keep two; which one is meant is for the user to say."""
    q, k = Net(), Net()
    state = {f"module.{t}.{n}": v for t, net in (("q", q), ("k", k)) for n, v in bits(net).items()}
    mine = Task(Net())
    report = load_pretrained(mine, state)
    assert is_same(mine.backbone, bits(q))
    assert "names would fit as well with 'module.k.' removed, 'backbone.' added" in str(report)
    report = load_pretrained(mine, state, prefix="module.k")
    assert is_same(mine.backbone, bits(k))
    assert len(report.dropped) == 12
    with pytest.raises(
        ValueError, match=r"with which no name .* begins: they begin with 'module.'"
    ):
        load_pretrained(mine, state, prefix="encoder")


def test_skip_names_layers_and_patterns_and_suggests() -> None:
    mine = Net()
    before = bits(mine)
    report = load_pretrained(mine, Net(), strict="error", skip=["fc", "bn1.*"])
    assert {n.split(".")[0] for n in names(report.left_out)} == {"fc", "bn1"}
    assert torch.equal(mine.fc.weight, before["fc.weight"])
    with pytest.raises(ValueError, match=r"'fc.weigth', which fits no name .* mean 'fc.weight'\?"):
        load_pretrained(mine, Net(), skip="fc.weigth")


def test_strict_raises_and_changes_nothing() -> None:
    mine = Net()
    before = bits(mine)
    with pytest.raises(ValueError, match=r"(?s)a Net does not fit .* Nothing was changed.\nWould"):
        load_pretrained(mine, Net(classes=5), strict="error")
    with pytest.raises(ValueError, match=r"Only 65\.\d % of .* asks for 90.0 %"):
        load_pretrained(mine, Net(classes=5), strict=0.9)
    with pytest.raises(ValueError, match="No name of a state dict fits the module"):
        load_pretrained(mine, {"x": torch.ones(1)})
    assert is_same(mine, before)
    load_pretrained(mine, Net(classes=5), strict=0.6)
    assert not is_same(mine, before)


def test_an_unexpected_name_alone_is_enough_for_strict_to_raise() -> None:
    with pytest.raises(ValueError, match=r"unexpected \(1\)\n    extra"):
        load_pretrained(Net(), bits(Net()) | {"extra": torch.ones(1)}, strict="error")


class Interrupting(Tensor):
    """A tensor of a source that Ctrl-C meets."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.copy_:
            raise KeyboardInterrupt
        passed: Any = super()
        return passed.__torch_function__(func, types, args, kwargs or {})


def test_an_interrupt_in_the_middle_leaves_nothing_changed() -> None:
    mine = Net()
    before = bits(mine)
    state: dict[str, Tensor] = bits(Net())
    state["fc.weight"] = state["fc.weight"].as_subclass(Interrupting)
    with pytest.raises(KeyboardInterrupt):
        load_pretrained(mine, state)
    assert is_same(mine, before)


def test_init_gets_what_is_not_loaded_and_cannot_spoil_what_is() -> None:
    source, mine = Net(classes=5), Net()

    def zeros(module: nn.Module, not_loaded: tuple[str, ...]) -> None:
        seen.append(not_loaded)
        for parameter in module.parameters():
            nn.init.zeros_(parameter)

    seen: list[tuple[str, ...]] = []
    report = load_pretrained(mine, source, init=zeros)
    assert seen == [("fc.weight", "fc.bias")] == [report.not_loaded]
    assert report.initialised
    assert not mine.fc.weight.any()
    assert torch.equal(mine.conv1.weight, source.conv1.weight)
    assert "left out (2), handed to `init`" in str(report)
    report = load_pretrained(mine, Net(), init=zeros)
    assert not report.initialised
    assert len(seen) == 1


def test_an_init_that_fails_or_replaces_changes_nothing() -> None:
    def fails(module: nn.Module, _: object) -> None:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
        raise RuntimeError("no")

    def replaces(module: Any, _: object) -> None:
        module.fc.weight = nn.Parameter(torch.zeros(10, 8))

    mine = Net()
    before, held = bits(mine), mine.fc.weight
    with pytest.raises(RuntimeError, match="no"):
        load_pretrained(mine, Net(classes=5), init=fails)
    with pytest.raises(ValueError, match="`init` must change tensors in place"):
        load_pretrained(mine, Net(classes=5), init=replaces)
    assert is_same(mine, before)
    assert mine.fc.weight is held


def test_a_module_can_swap_its_own_layers() -> None:
    mine = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = bits(mine)
    load_pretrained(mine, mine, lambda name: f"{1 - int(name[0])}{name[1:]}", "error")
    after = bits(mine)
    assert torch.equal(after["0.weight"], before["1.weight"])
    assert torch.equal(after["1.bias"], before["0.bias"])


def test_the_source_is_not_changed_nor_shared() -> None:
    source, mine = Net(), Net()
    before = bits(source)
    load_pretrained(mine, source)
    with torch.no_grad():
        for tensor in mine.state_dict().values():
            tensor.zero_()
    assert is_same(source, before)


def test_random_numbers_are_left_alone() -> None:
    source, mine = Net(), Net(channels=1)
    state = torch.get_rng_state()
    load_pretrained(mine, source)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_no_plain_tensor_is_left_out() -> None:
    state: dict[str, Any] = dict(bits(Net()))
    state["mean"] = {"a": 1}
    state["fc.bias"] = torch.ones(10).to_sparse()
    state["conv2.bias"] = torch.ones(8, device="meta")
    found = {each.name: each.reason for each in load_pretrained(Net(), state).left_out}
    assert found == {
        "mean": "no tensor but dict in the source",
        "fc.bias": "sparse or nested in the source",
        "conv2.bias": "on the meta device in the source, which holds no numbers",
    }


def test_an_expanded_buffer_is_left_out() -> None:
    mine = Net()
    mine.register_buffer("mean", torch.zeros(1).expand(3))
    (left,) = load_pretrained(mine, Net()).left_out
    assert left.reason == "an expanded tensor here, whose elements share memory"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.LazyLinear(3), "'weight' has no shape yet, since its layer is lazy: run one"),
        (lambda: nn.Linear(3, 3, device="meta"), "'weight' is on the meta device and holds no"),
        (nn.ReLU, "ReLU has no weights to load into"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_module_that_cannot_be_written_to_is_refused(
    make: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_pretrained(make(), {"weight": torch.ones(3, 3)})


def test_a_sharded_module_is_refused() -> None:
    class FullyShardedDataParallel(nn.Sequential):
        """Stands for the one of torch, which needs processes."""

    mine = nn.Sequential(FullyShardedDataParallel(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"'0' is sharded .* load before it is sharded"):
        load_pretrained(mine, {"0.weight": torch.ones(2, 2)})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strict": "yes"}, ValueError, "`strict` must be 'report', 'error' or a share"),
        ({"strict": True}, ValueError, "`strict` must be 'report', 'error' or a share"),
        ({"strict": 1.5}, ValueError, "`strict` must be 'report', 'error' or a share"),
        ({"strict": []}, ValueError, "`strict` must be 'report', 'error' or a share"),
        ({"channels": "max"}, ValueError, "`channels` must be one of auto, sum, mean, repeat or"),
        ({"positions": "cubic"}, ValueError, "`positions` must be one of bicubic, bilinear or"),
        ({"init": "xavier"}, TypeError, "`init` must be a function of the module and names, or"),
        ({"source": 3}, TypeError, "`source` must be a module, a state dict or the path"),
        ({"module": 3}, TypeError, "`module` must be a torch module, got int."),
        ({"key": "ema"}, ValueError, "`key` chooses an entry of a checkpoint, and a module has"),
        ({"mapping": {"^x": "y"}}, ValueError, "found in no name of the source: they look like"),
    ],
)
def test_a_bad_argument_is_one_sentence(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)) as found:
        load_pretrained(**{"module": Net(), "source": Net(), **options})
    assert "\n" not in str(found.value)


def test_a_load_of_little_warns_unless_it_was_asked_for() -> None:
    source = {"conv1.weight": torch.ones(4, 3, 3, 3)}
    with pytest.warns(DiagWarning, match=r"Only 4\d\.\d % of the module's values were loaded"):
        load_pretrained(Net(), source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pretrained(Net(), source, strict=0.1)
        load_pretrained(Net(), Net(), skip=["conv1", "fc"])


def test_the_report_is_frozen_and_plain() -> None:
    report = load_pretrained(Net(), Net(classes=5))
    with pytest.raises(FrozenInstanceError):
        report.source = "x"  # type: ignore[misc]
    values = report.to_dict()
    assert values["left_out"][0]["name"] == "fc.weight"
    assert copy.deepcopy(report) == report
    assert isinstance(report, LoadReport)


def test_long_lists_are_cut_and_counted() -> None:
    one = nn.Sequential(*(nn.Linear(2, 2) for _ in range(20)))
    report = load_pretrained(one, nn.Sequential(nn.Linear(2, 2)), strict=0.0)
    assert "  missing (38), left as constructed" in str(report)
    assert "    and 28 more" in str(report)
    assert len(str(report).splitlines()) == 13


def test_a_checkpoint_of_another_layout_is_loaded_into_a_part() -> None:
    """A task with a head of its own, from a task with another one."""
    theirs, mine = Task(Net()), Task(Net())
    theirs.head = nn.Linear(10, 7)
    head = bits(mine.head)
    report = load_pretrained(mine, {f"model.{n}": t for n, t in bits(theirs).items()})
    assert is_same(mine.backbone, bits(theirs.backbone))
    assert is_same(mine.head, head)
    assert str(report).splitlines()[1:] == [
        "  names: 'model.' removed",
        "  left out (2), left as constructed",
        "    head.weight (model.head.weight): (7, 10) in the source, (2, 10) here",
        "    head.bias (model.head.bias): the weight beside it does not fit",
    ]
