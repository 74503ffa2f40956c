"""The kernels for cards on a CPU, for a dry run: CUDA kernels as C++ on the host shim, Triton kernels interpreted.

Within `routed`, CPU tensors are dispatched to the functions that each op runs on a card. TRITON_INTERPRET=1 must be set
before Triton is imported; the runner of the dry run sets it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: The names of the kernels that this process has launched so far
LAUNCHED: list[str] = []
#: The variable that names the folder of compiled kernels
SHARED = "FASTITER_CARD_HOST"


@contextlib.contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def routed() -> Iterator[None]:
    """Dispatch CPU tensors to the kernels for cards; a call that reaches none of them is an error."""
    from fastiter._torch import launch
    from fastiter._torch.op import named
    from fastiter._torch.schemas import SCHEMAS
    from fastiter.mdp._torch import solve
    from fastiter.quant._torch import triton_codes
    from fastiter.relax._torch import relaxation
    from fastiter.rnn._torch import run
    from fastiter.rnn._torch._gpu import kernels as gpu
    from fastiter.ssm._torch._gpu import selective_kernels
    from fastiter.torch import quant
    from tests.gpu.host.host import Host
    from tests.support.bfloat16_dots import attention_dots

    host, launched, kernels = Host(_folder()), [], launch.triton_kernels

    class Noted:
        """The kernels of a source, of which each that is looked up is launched."""

        def __init__(self, function: str, stem: str) -> None:
            self._kernels = kernels(function, stem)

        def __getattr__(self, name: str) -> Any:
            if name.endswith("_kernel"):
                launched.append(name)
            return getattr(self._kernels, name)

    with contextlib.ExitStack() as stack:
        for op in [named(name) for names in SCHEMAS.values() for name in names]:
            if op.cuda is not None:
                stack.enter_context(_set(op, "_cpu", op.cuda))
        for module in [each for name, each in sys.modules.items() if name.startswith("fastiter.")]:
            # Calls of the CPU's kernels bypass the ops when nothing observes them; the ops themselves check this too.
            if hasattr(module, "unwatched") and module.__name__ != "fastiter._torch.ops":
                stack.enter_context(_set(module, "unwatched", lambda: False))
        stack.enter_context(_set(run, "rnn_forward", lambda call, *_: gpu.forward(call)))
        for module in (gpu, selective_kernels):
            stack.enter_context(_set(module, "choose", lambda *_: "cuda"))
        stack.enter_context(_set(launch, "launch_cuda", host))
        stack.enter_context(_set(launch, "triton_kernels", Noted))
        for changed in attention_dots():
            stack.enter_context(_set(*changed))
        for module, name in ((relaxation, "_GPUS"), (solve, "_CARDS")):
            stack.enter_context(_set(module, name, ("cpu",)))
        for function in (triton_codes.pack, triton_codes.unpack):  # which are not ops
            stack.enter_context(_set(quant, function.__name__, function))
        yield
    if not host.launched and not launched:
        raise RuntimeError("no kernel for cards was launched")
    LAUNCHED.extend([*host.launched, *launched])


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _folder() -> Path:
    """Return the folder of compiled kernels shared by the workers of a dry run, else one of this process."""
    if shared := os.environ.get(SHARED):
        return Path(shared)
    if not _FOLDERS:
        _FOLDERS.append(tempfile.TemporaryDirectory(prefix="card-host-"))
    return Path(_FOLDERS[0].name)
