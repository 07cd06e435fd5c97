"""Two hosts on one machine: network namespaces with a cable between them.

Nothing that runs there reaches anything but the other one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = ("10.77.0.1", "10.77.0.2")


class NotAllowedError(Exception):
    """This machine does not let us have network namespaces."""


@dataclass(frozen=True)
class Node:
    """One of the two hosts."""

    rank: int
    namespace: str
    interface: str
    hosts: Path

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command that runs `arguments` on this host, under its name."""
        enter = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "--mount"]
        script = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
        names = [f"node{self.rank}", str(self.hosts)]
        return [*enter, "bash", "-c", script, "bash", *names, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Where its traffic goes."""
        return {"GLOO_SOCKET_IFNAME": self.interface, "TP_SOCKET_IFNAME": self.interface}


@contextmanager
def two_nodes(folder: Path) -> Iterator[list[Node]]:
    """Set up two hosts, and take them down with everything that runs there.

    Raises:
        NotAllowedError: If namespaces cannot be made here.
    """
    missing = [tool for tool in ("ip", "unshare", "mount", "hostname") if not shutil.which(tool)]
    if missing:
        raise NotAllowedError(f"{' and '.join(missing)} not installed")
    hosts = folder / "hosts"
    names = [f"{address} node{rank}\n" for rank, address in enumerate(ADDRESSES)]
    hosts.write_text("127.0.0.1 localhost\n" + "".join(names))
    stem = f"diag{os.getpid()}"
    nodes = [Node(rank, f"{stem}-{rank}", f"dg{os.getpid()}-{rank}", hosts) for rank in (0, 1)]
    try:
        _connect(nodes)
        yield nodes
    finally:
        for node in nodes:
            _take_down(node.namespace)


def _connect(nodes: Sequence[Node]) -> None:
    first, second = nodes
    for node in nodes:
        _ip("netns", "add", node.namespace)
    _ip(
        *("link", "add", first.interface, "netns", first.namespace, "type", "veth"),
        *("peer", "name", second.interface, "netns", second.namespace),
    )
    for node, address in zip(nodes, ADDRESSES, strict=True):
        _ip("-n", node.namespace, "addr", "add", f"{address}/24", "dev", node.interface)
        _ip("-n", node.namespace, "link", "set", "lo", "up")
        _ip("-n", node.namespace, "link", "set", node.interface, "up")
        tried = subprocess.run(node.command(["true"]), capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            raise NotAllowedError(tried.stderr.strip())


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotAllowedError(f"ip {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout


def _take_down(namespace: str) -> None:
    """End what still runs in a namespace, and remove it with its end of the cable."""
    if namespace not in {line.split()[0] for line in _ip("netns", "list").splitlines() if line}:
        return
    for pid in _ip("netns", "pids", namespace).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    _ip("netns", "del", namespace)
