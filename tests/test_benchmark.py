"""The benchmark's arithmetic, and one tiny round of it (P19)."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# the benchmark is a folder of scripts beside the package, and its modules import each other by name
sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import arithmetic
import hooks
import overhead
import rounds
import tables
import turns
import variants
import workloads


def test_hooks_cost_what_blocks_with_them_take_longer() -> None:
    """Ten steps of 3 s with them, ten of 2 s without, and now and then one of 50 s."""
    moments = [0.0]
    for i in range(200):
        moments.append(moments[-1] + (3.0 if (i // 10) % 2 == 0 else 2.0))
        moments[-1] += 50.0 * (i % 17 == 0)
    assert hooks.differences(moments) == [1.0] * 5


def test_disturbed_steps_do_not_count() -> None:
    quiet = [[2.0, 3.0, 4.0]] * 3
    noisy = [[2.0, 30.0, 4.0], [20.0, 3.0, 4.0], [2.0, 3.0, 40.0]]
    assert arithmetic.floor(noisy) == arithmetic.floor(quiet)
    assert arithmetic.floor(quiet).mean == 3.0


def test_watched_steps_count_although_they_come_at_changing_positions() -> None:
    blocks = [[1.0, 1.0, 5.0, 1.0], [1.0, 5.0, 1.0, 1.0]]
    masks = [[False, False, True, False], [False, True, False, False]]
    assert arithmetic.floor(blocks).mean == 1.0
    floor = arithmetic.floor(blocks, masks)
    assert (floor.plain, floor.extra, floor.share) == (1.0, 4.0, 0.25)
    assert floor.mean == 2.0


def test_noise_of_a_whole_block_is_not_charged_to_its_watched_step() -> None:
    blocks = [[1.0, 3.0, 1.0], [2.0, 4.0, 2.0]]
    masks = [[False, True, False]] * 2
    assert arithmetic.floor(blocks, masks).extra == 2.0


def test_where_every_step_is_watched_nothing_is_told_apart() -> None:
    floor = arithmetic.floor([[2.0, 3.0], [4.0, 2.0]], [[True, True]] * 2)
    assert (floor.mean, floor.extra, floor.share) == (2.0, None, 1.0)


def test_a_block_of_watched_steps_alone_has_nothing_to_be_compared_with() -> None:
    floor = arithmetic.floor([[9.0, 9.0], [1.0, 3.0]], [[True, True], [False, True]])
    assert (floor.plain, floor.extra, floor.share) == (1.0, 2.0, 0.75)


def test_rounds_are_compared_one_by_one() -> None:
    spread = arithmetic.spread([[1.1], [2.2], [3.9]], [[1.0], [2.0], [3.0]])
    assert spread.median == pytest.approx(1.1)
    assert (spread.low, spread.high) == pytest.approx((1.1, 1.2))


def test_one_round_has_no_spread() -> None:
    assert arithmetic.spread([[3.0]], [[2.0]]) == arithmetic.Spread(1.5, 1.5, 1.5)


def measured(step: float, watched: list[int] | None = None) -> rounds.Measured:
    blocks = [
        [step + (1.0 if 3 * i + k in (watched or []) else 0.0) for k in range(3)] for i in (0, 1)
    ]
    return rounds.Measured(
        blocks,
        None if watched is None else arithmetic.masks_of([0, 3], 3, watched),
        counts=[(10, 100), (20, 200)],
        peak_megabytes=5.0 * step,
    )


def test_launches_add_up() -> None:
    both = measured(1.0, watched=[4])
    both.extend(measured(2.0, watched=[1]))
    assert len(both.blocks) == 4
    assert both.masks is not None
    assert [mask.index(True) for mask in both.masks if any(mask)] == [1, 1]
    assert both.peak_megabytes == 5.0


def test_a_row_divides_by_what_the_variant_is_compared_with() -> None:
    results = {"bare": measured(1.0), "wandb": measured(2.0), "wandb-50": measured(3.0)}
    row = tables.row("wandb-50", results, per_step=True)
    assert (row.ratio, row.extra_megabytes, row.tensor_operations) == (1.5, 5.0, 0)
    assert row.rounds == arithmetic.Spread(1.5, 1.5, 1.5)


def test_a_row_tells_watched_steps_from_others() -> None:
    results = {"bare": measured(1.0), "doctor": measured(1.0, watched=[4])}
    row = tables.row("doctor", results, per_step=True)
    assert row.ratio == pytest.approx(1 + 1 / 6)
    assert (row.plain_ratio, row.watched_milliseconds) == (1.0, 1000.0)
    assert tables.cells(row)[4] == "16.7 %, each +1000.0 ms"


def test_on_a_gpu_only_whole_blocks_count() -> None:
    results = {"bare": measured(1.0), "doctor": measured(1.0, watched=[4])}
    row = tables.row("doctor", results, per_step=False)
    assert row.ratio == pytest.approx(7 / 6)
    assert row.plain_ratio is None


def test_a_variant_without_its_package_says_so_instead_of_a_number() -> None:
    results = {"bare": measured(1.0), "wandb": rounds.Measured(problem="not installed: wandb")}
    table = tables.Table("A net", 2, [tables.row(name, results, per_step=True) for name in results])
    assert "not installed: wandb" in table.text()
    assert "| not installed: wandb |" in table.markdown()


def test_the_reference_of_a_chosen_variant_is_measured_too() -> None:
    assert overhead.with_references(["wandb-1"]) == ["bare", "wandb", "wandb-1"]


def test_every_variant_is_compared_with_one_that_is_bare() -> None:
    for variant in variants.VARIANTS.values():
        assert variant.compared_with in {"bare", "wandb"}
        assert variant.warm_up % rounds.PERIOD == 0


@pytest.mark.parametrize("name", ["mlp", "resnet", "transformer"])
def test_all_sizes_train_the_same_nets_on_the_same_numbers(name: str) -> None:
    assert all(name in nets for nets in workloads.WORKLOADS.values())
    workload = workloads.WORKLOADS["tiny"][name]
    losses = []
    for _ in range(2):
        task, (batch,) = workload.task(1), workload.batches(1, 1, "cpu")
        loss = torch.nn.functional.cross_entropy(task.net(batch[0]), batch[1].flatten())
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1]
    assert all(parameter.grad is not None for parameter in task.parameters())


def some_turns(commands: list[dict[str, Any]], ticks: Callable[[], float]) -> tuple[Any, Any]:
    sent = io.StringIO("".join(json.dumps(command) + "\n" for command in commands))
    answers, stopped = io.StringIO(), []
    batches = turns.Turns(
        ["a", "b"],
        sent,
        answers,
        now=ticks,
        synchronize=lambda: None,
        stop=lambda: stopped.append(True),
    )
    seen = []
    for batch in batches:
        if stopped:
            break
        seen.append(batch)
    return seen, [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_training_takes_the_steps_that_it_is_told_to_and_times_each() -> None:
    ticks = iter(range(100))
    seen, answers = some_turns([{"steps": 3}, {"steps": 2}, {}], lambda: float(next(ticks)))
    assert seen == ["a", "b", "a", "b", "a"]
    assert [(answer["first"], answer["seconds"]) for answer in answers] == [
        (0, [1.0, 1.0, 1.0]),
        (3, [1.0, 1.0]),
    ]


def test_operations_are_counted_for_each_step_alone() -> None:
    counter = turns.Operations()
    counter.start()
    torch.ones(2).add(1).sum()
    tensor, python = counter.end()
    torch.ones(2).add(1)
    assert tensor == counter.tensor == 3
    assert python > 0


@pytest.mark.slow
def test_one_tiny_round_measures_doctor_on_every_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--size", "tiny", "--threads", "1", "--rounds", "1", "--workloads", "resnet"]
    arguments += ["--launches", "1"]
    files = ["--json", str(tmp_path / "o.json"), "--markdown", str(tmp_path / "o.md")]
    overhead.main([*arguments, "--warm-up", "0.5", "--variants", "doctor-every", *files])
    bare, doctor = json.loads((tmp_path / "o.json").read_text())["workloads"]["resnet"]["rows"]
    assert (bare["problem"], doctor["problem"]) == (None, None)
    assert (bare["ratio"], bare["rounds"]["median"]) == (1.0, 1.0)
    assert doctor["watched_share"] == 1.0
    assert doctor["tensor_operations"] > 0
    assert "Doctor on every step" in capsys.readouterr().out
    assert "| Doctor on every step |" in (tmp_path / "o.md").read_text()
