"""A training that moves on by a block of steps when it is told to, and says how long each took."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import FrameType
from typing import Any, TextIO

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Count tensor operations and Python calls: what a step does, free of the machine's noise."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensor = 0
        self.python = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count one operation."""
        self.tensor += 1
        return func(*args, **(kwargs or {}))

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event in {"call", "c_call"}:
            self.python += 1

    def start(self) -> None:
        """Begin to count."""
        self.__enter__()  # type: ignore[no-untyped-call]
        sys.setprofile(self._profile)

    def end(self) -> tuple[int, int]:
        """Stop, and return the numbers of tensor operations and of Python calls."""
        sys.setprofile(None)
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        return self.tensor, self.python


class Turns:
    """Endless batches; between two of them the training waits until it is told to go on.

    A step ends and the next one begins where Lightning asks for a batch, so that nothing has to be
    added to the Trainer. Commands are JSON objects, one a line, and each is answered by one line
    when its block is done.

    Args:
        batches: What is trained on, again and again.
        commands: Where the commands come from.
        answers: Where the answers go.
        now: Reads the clock that the steps are timed with.
        synchronize: Waits until the device has done all that it was given.
        stop: Makes the Trainer finish.
    """

    def __init__(
        self,
        batches: list[Any],
        commands: TextIO,
        answers: TextIO,
        *,
        now: Callable[[], float],
        synchronize: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self._batches = batches
        self._commands = commands
        self._answers = answers
        self._now = now
        self._synchronize = synchronize
        self._stop = stop
        self._stopped = False
        self._left = 0
        self._step = 0
        self._marks: list[float] = []
        self._counting: Operations | None = None
        self._counts: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[Any]:
        """Return the turns themselves."""
        return self

    def __len__(self) -> int:
        """Return a number beyond reach; with it, Lightning fetches no batch ahead of its step."""
        return 10**9

    def __next__(self) -> Any:
        """End a step, wait for a command if the block is done, and begin the next step."""
        if self._counting is not None:
            self._counts.append(self._counting.end())
        if self._left == 0 and not self._stopped:
            self._take_turns()
        batch = self._batches[self._step % len(self._batches)]
        self._left -= 1
        self._step += 1
        if self._counting is not None:
            self._counting = Operations()
            self._counting.start()
        self._marks.append(self._now())
        return batch

    def _take_turns(self) -> None:
        self._synchronize()
        if self._marks:
            self._report([*self._marks, self._now()])
        command = json.loads(self._commands.readline())
        self._left = int(command.get("steps", 0))
        self._counting = Operations() if command.get("count") else None
        if self._left == 0:
            self._stopped = True
            self._stop()
        if command.get("collect"):
            gc.collect()

    def _report(self, marks: list[float]) -> None:
        seconds = [end - begin for begin, end in pairwise(marks)]
        first = self._step - len(seconds)
        write_line({"first": first, "seconds": seconds, "counts": self._counts}, self._answers)
        self._marks = []
        self._counts = []


def write_line(message: dict[str, Any], stream: TextIO) -> None:
    """Write one line and see that it leaves."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()
