"""Programs that run as ``python program.py`` does, forked from one process that has imported the slow packages.

Importing torch and matplotlib takes longer than most examples; a server process does so once for all of them, and for
the ranks of tests/distributed. Where there are no forks, each program gets a new interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

#: Modules that many programs import, some late: a torch optimizer imports torch._dynamo with its first step, and
#: torch.autograd.grad the symbolic shapes. Those that are not installed are left out.
PRELOADED = ["torch", "torch._dynamo", "torch.fx.experimental.symbolic_shapes", "torch.distributed.tensor.parallel"]
PRELOADED += ["matplotlib.pyplot", "matplotlib.backends.backend_agg", "scipy.optimize", "scipy.sparse.linalg"]
PRELOADED += ["sklearn.datasets", "fastiter.torch", "fastiter.torch.nn"]
SECONDS = 300


def forking() -> Any:
    """Return the context of the server's forks; a process has one server, which starts with the first fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run_script(script: Path | str, *arguments: str, **environment: str) -> str:
    """Return what a program prints; fail with its errors if it does not end by itself with exit code 0.

    A string names a module, which runs as by ``python -m``.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        command = [sys.executable, *(["-m"] if isinstance(script, str) else []), str(script), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, env=os.environ | environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
    context = forking()
    with tempfile.NamedTemporaryFile() as output, tempfile.NamedTemporaryFile() as errors:
        names = output.name, errors.name
        process = context.Process(target=_main, args=(script, arguments, environment, *names))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        assert process.exitcode == 0, Path(errors.name).read_text()
        return Path(output.name).read_text()


def run_on_two_ranks(script: Path, *arguments: str) -> str:
    """Run a program in two processes with the environment that torchrun gives them; return what rank 0 prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def one(rank: str) -> str:
        return run_script(script, *arguments, **group, RANK=rank, LOCAL_RANK=rank, OMP_NUM_THREADS="1")

    with ThreadPoolExecutor(2) as pool:
        first, _ = pool.map(one, "01")
    return first


def _main(
    script: Path | str, arguments: tuple[str, ...], environment: dict[str, str], output: str, errors: str
) -> None:
    for number, name in ((1, output), (2, errors)):
        file = os.open(name, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(environment)
    torch = sys.modules.get("torch")
    if torch is not None and "OMP_NUM_THREADS" in environment:  # which torch has already read
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = [str(script), *arguments]
    try:
        if isinstance(script, str):
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
