"""Runs compiled modules eagerly for one watched step (P8)."""

from __future__ import annotations

import sys
from typing import Any, Literal

import torch

CompiledModels = Literal["eager", "leave"]
"""What a watched step does with compiled modules.

``eager``: run them eagerly, also in watched batches of validations, so that the calls inside are
seen. Rounding then differs from the compiled step's, dropout draws from eager's random stream, and
the step takes the memory and time that an eager one takes; the compiled graph is used again
afterwards, without recompiling.
``leave``: run them compiled; the calls inside are not observed, gradients and updates are.
"""


class EagerStep:
    """Switches compilation off and on again, where there is any.

    Args:
        compiled_models: What to do with compiled modules.
    """

    def __init__(self, compiled_models: CompiledModels) -> None:
        self.compiled_models = compiled_models
        self._stance: Any = None

    @staticmethod
    def may_be_compiled() -> bool:
        """Whether anything in this process can be compiled: compiling imports the compiler."""
        return "torch._dynamo" in sys.modules

    def allowed(self) -> bool:
        """Whether calls can be watched in the coming step.

        A compiled module that runs compiled must not be watched: the compiler would take note of
        the watching, and compile again.
        """
        if not self.may_be_compiled():
            return True
        if self.compiled_models == "leave" or not hasattr(torch.compiler, "set_stance"):
            return False
        return not _short_of_memory()

    def start(self) -> None:
        """Run compiled modules eagerly from now on."""
        if self._stance is None and self.may_be_compiled():
            self._stance = torch.compiler.set_stance("force_eager")

    def stop(self) -> None:
        """Use compiled modules again. May be called at any time, and again."""
        if self._stance is not None:
            self._stance.__exit__(None, None, None)
            self._stance = None


def _short_of_memory() -> bool:
    """Whether the device could not hold an eager step beside what a compiled one needed.

    An eager step keeps activations that the compiler fuses away. As a bound (our choice), as much
    again as the largest step so far must be free.
    """
    cuda: Any = torch.cuda
    if not cuda.is_available() or not cuda.is_initialized():
        return False
    free, _ = torch.cuda.mem_get_info()
    idle = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    needed = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    return free + idle < 2 * needed
