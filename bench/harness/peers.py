"""Optional peers: a missing one is reported in one line, and its rows of the table are left out."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from bench.harness.contest import Absent

PACKAGES = (
    *("flashrnn", "jax", "mambapy", "pararnn-torch", "sb3-contrib", "torchrl", "transformers"),
    *("gguf", "llama-cpp-py-sync"),
    *("apytypes", "brevitas", "fxpmath", "gfloat", "ml_dtypes", "qtorch", "torchao"),
    *(
        "celer",
        "jaxopt",
        "mdpsolver",
        "optiprofiler",
        "pymdptoolbox",
        "quantecon",
        "scikit-learn",
        "stormpy",
        "torchdeq",
    ),
)


def versions() -> dict[str, str]:
    """The versions of the installed peers."""
    installed = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


@functools.cache
def load(module: str) -> ModuleType | None:
    """Return the module, or None after printing why it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        print(f"left out: {module}: {error}", flush=True)
        return None


def absent(name: str, module: str) -> Absent:
    return Absent(name, f"no {module.partition('.')[0]} here")


def compile_once_for_all_threads() -> None:
    """Make compiled code read the number of threads at run time, so that another number needs no recompilation.

    Compiled code of earlier contests is dropped: beyond a few versions of one function, torch would stop compiling.
    """
    import torch._inductor.config

    torch._inductor.config.cpp.dynamic_threads = True
    torch._dynamo.reset()


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def jax_on(threads: int) -> ModuleType | None:
    """Return jax with a pool of this number of threads.

    XLA sizes its pool when its client is created, from the variable NPROC, so each number gets its own client.
    Everything that an earlier client has compiled or stored is dropped with it.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax = load("jax")
    if jax is None:
        return None
    import_module("jax.extend.backend").clear_backends()
    with environment({"NPROC": str(threads)}):
        jax.devices()
    return jax
