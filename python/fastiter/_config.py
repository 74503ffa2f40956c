"""Threads, instruction sets and versions: the settings in effect, and how to change them."""

from __future__ import annotations

import numpy as np

from . import _core
from ._backend import availability

__version__: str = _core.version


def get_num_threads() -> int:
    """Return the number of threads that a kernel may use.

    This is the number set by :func:`set_num_threads`; without one, the environment variable ``FASTITER_NUM_THREADS``,
    else torch's number if torch is loaded, else ``OMP_NUM_THREADS``, else the number of cores this process may run on.
    While other processes keep the cores busy, a call may use fewer than this default. Results do not depend on it.

    Returns
    -------
    int
        The maximum number of threads of a call, at least 1.

    See Also
    --------
    set_num_threads : Changes the number.
    show_config : Prints the number, and the pool that the threads belong to.

    Examples
    --------
    >>> import fastiter
    >>> fastiter.get_num_threads() >= 1
    True
    """
    return _core.thread_count()


def set_num_threads(threads: int | None) -> None:
    """Set the number of threads that a kernel uses, regardless of the machine's load; ``None`` restores the default.

    Parameters
    ----------
    threads : int or None
        From 1 to 256, or None for the default (see :func:`get_num_threads`). A small call still uses fewer.

    Raises
    ------
    TypeError, ValueError
        If ``threads`` is not an integer, or is not from 1 to 256.

    See Also
    --------
    get_num_threads : The number in effect, and where the default comes from.

    Examples
    --------
    >>> import fastiter
    >>> fastiter.set_num_threads(1)
    >>> fastiter.get_num_threads()
    1
    >>> fastiter.set_num_threads(None)
    """
    if threads is None:
        _core.set_thread_count(0)
        return
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)):
        raise TypeError(f"set_num_threads: threads must be an int or None, got {type(threads).__name__}")
    if not 1 <= threads <= 256:
        raise ValueError(f"set_num_threads: threads must be from 1 to 256, got {threads}")
    _core.set_thread_count(int(threads))


def release_memory() -> int:
    """Return idle memory to the system; return the number of bytes.

    The memory of large results is kept for reuse after they are freed, as mapping fresh pages takes longer than the
    kernel that fills them. At most a sixteenth of the machine's memory is kept idle.

    Returns
    -------
    int
        The number of bytes that were idle.

    See Also
    --------
    show_config : Prints the version, threads and backends.

    Examples
    --------
    >>> import fastiter
    >>> fastiter.release_memory() >= 0
    True
    """
    idle = _core.idle_bytes()
    _core.release_idle_blocks()
    return idle


def show_config() -> None:
    """Print the version, instruction sets, threads and backends; a backend that cannot run is listed with the reason.

    See Also
    --------
    get_num_threads : The number of threads.
    BackendError : The exception for a backend that cannot run.

    Examples
    --------
    >>> import fastiter
    >>> fastiter.show_config()  # doctest: +ELLIPSIS
    fastiter      0...
    numpy         ...
    instructions  ...
    threads       ...
    backend       cpu: available
    ...
    """
    print(f"fastiter      {__version__}")
    print(f"numpy         {np.__version__}")
    print(
        f"instructions  {_core.isa_chosen()} (built: {_core.isa_built()}; this machine runs: {_core.isa_available()})"
    )
    print(f"threads       {get_num_threads()}, pool: {_core.thread_pool()}")
    for name, state in availability().items():
        print(f"backend       {name}: {state}")
