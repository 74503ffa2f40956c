"""python -m bench.harness.install [EXTRA]: install the peers, the packages of the extra ``bench``, next to fastiter.

Each is built in an environment of its own, unlike fastiter, since a package without a wheel declares what its build
needs. A package that cannot be installed is left out with a sentence, and the benchmarks do without it. For a run on a
card, EXTRA is ``card``: then only wheels are installed, as compiling CUDA sources takes longer than the run, and torch
stays as it is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import requires, version

from packaging.requirements import Requirement

OWN = "fastiter-kernels"


def peers(extra: str = "bench") -> list[str]:
    """Return the requirements of an extra for this interpreter and system, without fastiter itself."""
    every = [Requirement(text) for text in requires(OWN) or ()]
    mine = [
        r for r in every if r.marker is not None and not r.marker.evaluate() and r.marker.evaluate({"extra": extra})
    ]
    return [f"{r.name}{r.specifier}" for r in mine if r.name != OWN]


def pip(requirements: Sequence[str]) -> bool:
    """Return whether pip has installed the requirements."""
    return not subprocess.call([sys.executable, "-m", "pip", "install", *requirements])


def only_wheels(requirements: Sequence[str]) -> bool:
    """Return whether pip has installed the requirements from wheels, without another version of torch or Triton."""
    held = [f"{name}=={version(name)}" for name in ("torch", "triton")]
    return pip(["--only-binary", ":all:", "--retries", "1", *held, *requirements])


def install(requirements: Sequence[str], installs: Callable[[Sequence[str]], bool] = pip) -> list[str]:
    """Install all requirements together, or, if that fails, one after the other; return those that failed."""
    if installs(requirements):
        return []
    failed = [requirement for requirement in requirements if not installs([requirement])]
    for requirement in failed:
        print(f"bench: {requirement} could not be installed (pip says why above): benchmarks leave it out")
    return failed


if __name__ == "__main__":
    install(peers(*sys.argv[1:]), only_wheels if sys.argv[1:] else pip)
