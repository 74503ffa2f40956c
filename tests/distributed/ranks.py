"""Runs a function on several processes with a gloo group, and returns results, exceptions and deaths in time."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.connection
import os
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.scripts import forking

_CONTEXT = forking()


class Outcome(NamedTuple):
    """The result or the error of a rank, or its exit code if there is neither; None if it is still running."""

    result: Any = None
    error: BaseException | None = None
    trace: str = ""
    code: int | None = 0
    seconds: float = 0.0


class _Ranks:
    """Processes with a gloo group; if they stay, they make several calls, until one of them raises an error."""

    def __init__(self, size: int, timeout: float, stay: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.processes: list[Any] = []
        self.pipes: list[Any] = []
        for rank in range(size):
            ours, theirs = _CONTEXT.Pipe()
            given = (str(Path(self.folder.name) / "store"), rank, size, timeout, stay, theirs)
            process = _CONTEXT.Process(target=_work, args=given, daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(ours)

    def call(
        self, function: Callable[..., Any], arguments: Any, limit: float, stopped: int | None = None
    ) -> list[Outcome]:
        for pipe in self.pipes:
            with contextlib.suppress(OSError):  # a rank that has died has no outcome
                pipe.send((function, arguments))
        stop = time.monotonic() + limit
        return [
            Outcome(code=None) if rank == stopped else _outcome(process, pipe, stop)
            for rank, (process, pipe) in enumerate(zip(self.processes, self.pipes, strict=True))
        ]

    def end(self) -> None:
        for process, pipe in zip(self.processes, self.pipes, strict=True):
            if process.is_alive():
                process.kill()
            process.join()
            pipe.close()
        self.folder.cleanup()


def outcomes(
    function: Callable[..., Any],
    size: int,
    *arguments: Any,
    timeout: float = 20.0,
    limit: float = 60.0,
    stopped: int | None = None,
) -> list[Outcome]:
    """Call ``function(*arguments)``, which is looked up by name, on ``size`` new ranks.

    ``timeout`` is that of the process group. Ranks that run longer than ``limit`` seconds are killed, and the rank
    ``stopped`` once all others have finished.
    """
    ranks = _Ranks(size, timeout, stay=False)
    try:
        return ranks.call(function, arguments, limit, stopped)
    finally:
        ranks.end()


#: Ranks that have had no error, by their number: starting them takes longer than most calls.
_KEPT: dict[int, _Ranks] = {}


def results(function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
    """Return the ranks' results; raise the error of the first rank that has one. Other programs may slow the ranks."""
    if size not in _KEPT:
        _KEPT[size] = _Ranks(size, 60.0, stay=True)
        atexit.register(_KEPT[size].end)
    found = _KEPT[size].call(function, arguments, 180.0)
    if any(one.error is not None or one.code != 0 for one in found):
        ranks = _KEPT.pop(size)
        atexit.unregister(ranks.end)
        ranks.end()
    for rank, one in enumerate(found):
        if one.error is not None:
            raise AssertionError(f"rank {rank}: {one.trace}") from one.error
        assert one.code == 0, f"rank {rank} ended with {one.code}"
    return [one.result for one in found]


def refusals(function: Callable[..., Any], size: int, *arguments: Any) -> list[Exception]:
    """Return the error that each rank raises in a call that all of them refuse; the same ranks make later calls."""
    return results(_refused, size, function, *arguments)


def _refused(function: Callable[..., Any], *arguments: Any) -> Exception:
    try:
        found = function(*arguments)
    except Exception as error:
        return error
    return AssertionError(f"nothing is refused: {found!r}")


def _outcome(process: Any, pipe: Any, stop: float) -> Outcome:
    """Wait for the message of a rank, or for its end."""
    ready = multiprocessing.connection.wait([pipe, process.sentinel], max(0.0, stop - time.monotonic()))
    if pipe in ready or (ready and pipe.poll()):
        try:
            found: Outcome = pickle.loads(pipe.recv_bytes())
            return found
        except EOFError:
            pass
    process.join(max(0.0, min(1.0, stop - time.monotonic())))
    return Outcome(code=process.exitcode)


def _meet(store: Any, what: str, rank: int, size: int) -> None:
    """Wait until all ranks have reached the same point."""
    store.set(f"{what} {rank}", "")
    store.wait([f"{what} {other}" for other in range(size)], timedelta(seconds=60))


def _work(store: str, rank: int, size: int, timeout: float, stay: bool, pipe: Any) -> None:
    import torch
    import torch.distributed as dist

    import fastiter

    torch.set_num_threads(1)
    fastiter.set_num_threads(1)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            os._exit(0)
        warnings.simplefilter("error")
        torch.manual_seed(0)
        start = time.monotonic()
        try:
            if not dist.is_initialized():
                _connect(store, rank, size, timeout)
                start = time.monotonic()
            one = Outcome(function(*arguments), seconds=time.monotonic() - start)
            with contextlib.suppress(RuntimeError):  # no rank goes on while another reads its messages, but for a fault
                dist.barrier()
        except Exception as error:
            one = Outcome(error=error, trace=traceback.format_exc(), seconds=time.monotonic() - start)
        try:
            message = pickle.dumps(one)
        except Exception as error:
            reason = RuntimeError(f"{one.error!r} has no pickle: {error}")
            message = pickle.dumps(one._replace(result=None, error=reason))
        pipe.send_bytes(message)
        if not stay or one.error is not None:
            os._exit(0)  # destroying a group with a dead rank would wait for that rank


def _connect(store: str, rank: int, size: int, timeout: float) -> None:
    import torch.distributed as dist

    files: Any = dist.FileStore(store, size)  # type: ignore[attr-defined]
    # The wait of the first rank for the last one to start must not count towards ``timeout``, and no rank may die
    # while others are being connected.
    _meet(files, "started", rank, size)
    dist.init_process_group("gloo", store=files, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    _meet(files, "connected", rank, size)
