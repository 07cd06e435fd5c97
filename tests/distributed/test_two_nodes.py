"""Two hosts give the numbers of one process, and only the first of them writes (P40)."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from distributed.compare import differences
from distributed.launch import logs, python, run_all, run_modules
from distributed.training import records
from distributed.two_nodes import ADDRESSES, Node, NotAllowedError, two_nodes
from lightning_diag import History

pytestmark = pytest.mark.multiprocess


def _torchrun(node: Node, folder: Path) -> list[str]:
    place = [f"--node_rank={node.rank}", f"--master_addr={ADDRESSES[0]}", "--master_port=29500"]
    script = ["-m", "distributed.script", str(folder / f"node{node.rank}"), "ddp", "1", "2"]
    run = python("torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", *place, *script)
    return node.command(run)


def assert_history_is_that_of_one_process(folder: Path) -> None:
    """Compare what two hosts have written, each below a folder of its own, with one process."""
    written = list(folder.glob("node*/**/history*"))
    assert written == [folder / "node0" / "ddp" / "lightning_diag" / "history.jsonl"]
    together, one = History.open(folder / "node0"), History.open(folder / "alone")
    assert together.meta["trainer"]["world_size"] == 2
    different = differences(records(together), records(one), rtol=1e-5)
    assert not different, different[:20]
    assert not [path for path in (folder / "node1").rglob("*") if path.is_file()]


def test_two_nodes_of_one_host_give_the_history_of_one_process(tmp_path: Path) -> None:
    """As two hosts do, but for the cable between them, and for what starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    script = "distributed.script"
    nodes = [
        (
            script,
            (str(tmp_path / f"node{rank}"), "ddp", "1", "2"),
            {**meeting, "NODE_RANK": str(rank), "LOCAL_RANK": "0"},
        )
        for rank in (0, 1)
    ]
    one = (str(tmp_path / "alone"), "auto", "1", "1")
    assert run_modules([*nodes, (script, one, {})], tmp_path) == [0, 0, 0], logs(tmp_path)
    assert_history_is_that_of_one_process(tmp_path)


@pytest.mark.slow
def test_two_hosts_give_the_history_of_one_process(tmp_path: Path) -> None:
    try:
        with two_nodes(tmp_path) as nodes:
            alone = python("distributed.script", str(tmp_path / "alone"), "auto", "1", "1")
            commands = [(_torchrun(node, tmp_path), node.environment) for node in nodes]
            statuses = run_all([*commands, (alone, {})], tmp_path)
    except NotAllowedError as reason:
        pytest.skip(f"no network namespaces here: {reason}")
    assert statuses == [0, 0, 0], logs(tmp_path)
    assert_history_is_that_of_one_process(tmp_path)


class StillRunningError(Exception):
    """Carries a process on a host."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__()
        self.process = process


def _fail_with_something_running(nodes: list[Node]) -> NoReturn:
    command = nodes[0].command(["bash", "-c", "echo ready; sleep 60"])
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    raise StillRunningError(running)


def test_hosts_are_taken_down_after_a_failure(tmp_path: Path) -> None:
    try:
        with two_nodes(tmp_path) as nodes:
            _fail_with_something_running(nodes)
    except NotAllowedError as reason:
        pytest.skip(f"no network namespaces here: {reason}")
    except StillRunningError as error:
        with error.process as process:
            status = process.wait(10)
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert status != 0
    assert not any(node.namespace in listed.stdout for node in nodes)
