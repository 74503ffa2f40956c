"""Processes with a gloo group that run functions on request: started once for all sections, timed one against all."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any

from bench.harness.gate import GateError

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["bench.distributed.jobs"])  # imported once, before the ranks are forked
#: Seconds after which a rank that waits for another one gives up
TIMEOUT = 120.0


class Team:
    """Ranks that wait for functions; leaving the ``with`` block ends them.

    Parameters
    ----------
    size : int
        The number of ranks.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._folder = tempfile.TemporaryDirectory()
        self._ranks, self._pipes = [], []
        for rank in range(size):
            ours, theirs = _CONTEXT.Pipe()
            given = (os.path.join(self._folder.name, "store"), rank, size, theirs)
            process = _CONTEXT.Process(target=_serve, args=given, daemon=True)
            process.start()
            theirs.close()
            self._ranks.append(process)
            self._pipes.append(ours)

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process, pipe in zip(self._ranks, self._pipes, strict=True):
            pipe.close()
            process.kill()
            process.join()
        self._folder.cleanup()

    def run(self, size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call ``function(group, *arguments)`` on the first ``size`` ranks, whose group it is; return the results."""
        message = pickle.dumps((size, function, arguments))
        for pipe in self._pipes[:size]:
            pipe.send_bytes(message)
        found = [pickle.loads(pipe.recv_bytes()) for pipe in self._pipes[:size]]
        for rank, (_, trace) in enumerate(found):
            if trace is not None:
                raise GateError(f"rank {rank} of {size} raised:\n{trace}")
        return [result for result, _ in found]


def _serve(store: str, rank: int, size: int, pipe: Any) -> None:
    """Run what comes through the pipe until it is closed."""
    import torch.distributed as dist

    from bench.harness.timing import use_threads

    use_threads(1)
    files: Any = dist.FileStore(store, size)  # type: ignore[attr-defined]
    limit = timedelta(seconds=TIMEOUT)
    dist.init_process_group("gloo", store=files, rank=rank, world_size=size, timeout=limit)
    groups = {count: dist.new_group(list(range(count))) for count in range(1, size + 1)}
    while True:
        try:
            count, function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            break
        answer: tuple[Any, str | None]
        try:
            answer = (function(groups[count], *arguments), None)
        except Exception:
            answer = (None, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))
    os._exit(0)
