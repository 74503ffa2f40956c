"""Captures launches in a CUDA graph that runs several times, so that Python launches them only once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

#: The capture stream of each thread and device; only one each, as cuBLAS keeps a workspace per stream
_STREAMS = threading.local()


def can_capture(x: Tensor) -> bool:
    """Return whether launches on ``x`` can be captured: on a GPU, unless the caller is capturing already."""
    return x.is_cuda and not torch.cuda.is_current_stream_capturing()


@contextlib.contextmanager
def beside(x: Tensor) -> Iterator[None]:
    """Launch on a side stream, as the default stream cannot be captured, ordered with respect to the current stream."""
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
    """Capture the launches of ``enqueue`` on the current stream without running them; return a function that runs them.

    All kernels must be compiled and loaded already, and nothing may be allocated. The graph may be released while it
    runs: the driver frees it when it has finished.
    """
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(capture_error_mode="thread_local")
    try:
        enqueue()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the first error is more informative
            graph.capture_end()
        raise
    graph.capture_end()
    return graph.replay
