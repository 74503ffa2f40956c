"""Captures launches in a CUDA graph that runs several times, so that Python launches them once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

#: The stream of each thread and device on which it captures: one, as cuBLAS keeps a workspace for each
_STREAMS = threading.local()


def can_capture(x: Tensor) -> bool:
    """Return whether launches on ``x`` can be captured: on a card, unless the caller does so already."""
    return x.is_cuda and not torch.cuda.is_current_stream_capturing()


@contextlib.contextmanager
def beside(x: Tensor) -> Iterator[None]:
    """Launch on a stream other than the default one, which cannot be captured, in order with the current stream."""
    with torch.cuda.device(x.device):
        streams = _STREAMS.__dict__.setdefault("by_device", {})
        if x.device not in streams:
            streams[x.device] = torch.cuda.Stream(x.device)
        current, own = torch.cuda.current_stream(x.device), streams[x.device]
        own.wait_stream(current)
        try:
            with torch.cuda.stream(own):
                yield
        finally:
            current.wait_stream(own)


def captured(enqueue: Callable[[], None]) -> Callable[[], None]:
    """Return a function that runs what ``enqueue`` launches on the current stream, which it does not run itself.

    All kernels have to be compiled and loaded, and nothing may be allocated. The graph may be dropped while it runs:
    the driver frees it at its end.
    """
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(capture_error_mode="thread_local")
    try:
        enqueue()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the first error tells more
            graph.capture_end()
        raise
    graph.capture_end()
    return graph.replay
