"""Processes with a gloo group that run functions on request, on this machine's network or on an emulated one."""

from __future__ import annotations

import multiprocessing
import multiprocessing.reduction
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any

from bench.distributed.network import DEVICE, Link, Switch, enter_namespace
from bench.harness.gate import GateError

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["bench.distributed.jobs"])  # imported once, before the ranks are forked
#: Seconds after which a rank that waits for another one gives up
TIMEOUT = 900.0  # SciPy alone takes minutes for the largest system


class Team:
    """Ranks that wait for functions; leaving the ``with`` block ends them.

    Parameters
    ----------
    size : int
        The number of ranks.
    link : Link, optional
        Every rank gets its own network namespace, and links with these properties to the others.
    timeout : float
        Seconds after which a rank that waits for another one gives up.

    Attributes
    ----------
    switch : Switch or None
        The emulated network.
    """

    def __init__(self, size: int, link: Link | None = None, timeout: float = TIMEOUT) -> None:
        self.size, self.switch = size, None
        self._folder = tempfile.TemporaryDirectory()
        self._ranks, self._pipes = [], []
        for rank in range(size):
            ours, theirs = _CONTEXT.Pipe()
            arguments = (os.path.join(self._folder.name, "store"), rank, size, timeout, link is not None, theirs)
            process = _CONTEXT.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._ranks.append(process)
            self._pipes.append(ours)
        if link is not None:
            try:
                self.switch = Switch([_device_of(pipe) for pipe in self._pipes], link)
            except OSError:
                self.__exit__(None, None, None)
                raise
            self.switch.start()

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process, pipe in zip(self._ranks, self._pipes, strict=True):
            pipe.close()
            process.kill()
            process.join()
        if self.switch is not None:
            self.switch.stop()
        self._folder.cleanup()

    def run(self, size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call ``function(group, *arguments)`` on the group of the first ``size`` ranks; return the results."""
        self.begin(size, function, *arguments)
        return self.results(size)

    def begin(self, size: int, function: Callable[..., Any], *arguments: Any) -> None:
        """Begin a call on the first ``size`` ranks."""
        message = pickle.dumps((size, function, arguments))
        for pipe in self._pipes[:size]:
            pipe.send_bytes(message)

    def results(self, size: int) -> list[Any]:
        """Return the results of the call in progress."""
        answers = [pickle.loads(pipe.recv_bytes()) for pipe in self._pipes[:size]]
        for rank, (_, trace) in enumerate(answers):
            if trace is not None:
                raise GateError(f"rank {rank} of {size} raised:\n{trace}")
        return [result for result, _ in answers]


def _device_of(pipe: Any) -> int:
    """Receive the network device of a rank, or the reason why there is none."""
    refusal = pickle.loads(pipe.recv_bytes())
    if refusal is not None:
        raise refusal
    return multiprocessing.reduction.recv_handle(pipe)


def _leave_network(rank: int, pipe: Any) -> None:
    """Enter an empty network and send its device, or the reason of failure."""
    try:
        device = enter_namespace(rank)
    except OSError as error:
        pipe.send_bytes(pickle.dumps(error))
        raise
    pipe.send_bytes(pickle.dumps(None))
    multiprocessing.reduction.send_handle(pipe, device, os.getppid())
    os.close(device)
    os.environ["GLOO_SOCKET_IFNAME"] = DEVICE


def _serve(store: str, rank: int, size: int, timeout: float, isolated: bool, pipe: Any) -> None:
    """Run the functions received through the pipe until it is closed."""
    if isolated:  # must come first: only a single-threaded process may do it
        _leave_network(rank, pipe)
    import torch.distributed as dist

    from bench.harness.timing import use_threads

    use_threads(1)
    files: Any = dist.FileStore(store, size)  # type: ignore[attr-defined]
    start = timedelta(seconds=TIMEOUT)  # allows for the import of ranks, which is late on a busy machine
    dist.init_process_group("gloo", store=files, rank=rank, world_size=size, timeout=start)
    limit = timedelta(seconds=timeout)
    groups = {count: dist.new_group(list(range(count)), timeout=limit) for count in range(1, size + 1)}
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
