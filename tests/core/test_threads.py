"""Thread teams: their size, their barriers, and calls when there is no free core or memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fastiter

ROOT = Path(__file__).parents[2]
SOURCES = ("load", *(f"threads/{stem}" for stem in ("openmp", "pool", "stop", "threads", "waiting")))
SANITIZERS = {"address": "address,undefined", "thread": "thread"}

# ---- The C++ alone, under sanitizers --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SANITIZERS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("threads") / str(request.param)
    sources = [ROOT / "tests/core/threads_on_host/main.cpp", *(ROOT / f"csrc/core/{stem}.cpp" for stem in SOURCES)]
    flags = ["-std=c++20", "-O0", "-g1", f"-fsanitize={SANITIZERS[request.param]}", "-fno-sanitize-recover=all"]
    command = ["g++", *flags, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(out), "-pthread", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def run(program: Path, *arguments: str) -> None:
    """Run a program without the sanitizer that `make sanitize` loads into this process: it has its own."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_threads_meet(program: Path) -> None:
    # ThreadSanitizer does not see how an OpenMP runtime compiled without it starts threads.
    for pool in ("own", "openmp") if program.name == "address" else ("own",):
        run(program, pool)


def test_late_threads_shrink_the_teams_that_follow(program: Path) -> None:
    run(program, "load")


# ---- The number of threads ------------------------------------------------------------------------------------------


def run_python(
    code: str, limit: Callable[[], None] | None = None, timeout: float | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a process without torch, whose only thread-related environment variables are the given ones."""
    cleared = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**cleared, **environment},
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=timeout,
    )


NUMBER = "import fastiter; print(fastiter.get_num_threads())"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5,2"}, 5),
        ({"FASTITER_NUM_THREADS": "7"}, 7),
        ({"FASTITER_NUM_THREADS": "7", "OMP_NUM_THREADS": "3"}, 7),
        ({"OMP_NUM_THREADS": "1000"}, 256),
        ({}, len(os.sched_getaffinity(0))),
        ({"OMP_NUM_THREADS": "many"}, len(os.sched_getaffinity(0))),  # OpenMP validates its own variable
        ({"OMP_NUM_THREADS": "-2"}, len(os.sched_getaffinity(0))),
    ],
    ids=str,
)
def test_the_environment_sets_the_number(environment: dict[str, str], expected: int) -> None:
    assert int(run_python(NUMBER, **environment).stdout) == expected


def test_the_environment_counts_beside_torch_and_below_set_num_threads() -> None:
    pytest.importorskip("torch")
    code = f"import torch; torch.set_num_threads(2); {NUMBER}; fastiter.set_num_threads(4); {NUMBER}"
    done = run_python(code + "; fastiter.set_num_threads(None); " + NUMBER, FASTITER_NUM_THREADS="3")
    assert done.stdout.split() == ["3", "4", "3"]
    assert run_python(f"import torch; torch.set_num_threads(2); {NUMBER}", OMP_NUM_THREADS="5").stdout == "2\n"


@pytest.mark.parametrize("wrong", ["0", "-1", "257", "two", "", "2.5", "2 3"])
def test_a_wrong_number_in_our_variable_is_refused(wrong: str) -> None:
    done = run_python("import fastiter", FASTITER_NUM_THREADS=wrong)
    sentence = f"ImportError: fastiter: FASTITER_NUM_THREADS must be a number from 1 to 256, got '{wrong}'"
    assert done.stderr.strip().splitlines()[-1] == sentence


# ---- No threads, or no core for them --------------------------------------------------------------------------------

BITS = """
import hashlib, numpy as np, fastiter
rng = np.random.default_rng(0)
wx, r = rng.standard_normal((8, 40, 4, 1, 96), np.float32), rng.standard_normal((4, 1, 96, 96), np.float32) / 10
a, x = rng.uniform(0, 1, (3, 700, 64)).astype(np.float32), rng.standard_normal((3, 700, 64), np.float32)
for threads in {counts}:
    fastiter.set_num_threads(threads)
    results = [fastiter.lstm(wx, r)[0], fastiter.linear_scan(a, x)[0], fastiter.gru(wx[:, :, :3], r[:3])[0]]
    print(hashlib.sha256(b"".join(y.tobytes() for y in results)).hexdigest())
"""


def no_room_for_a_stack() -> None:
    """Set a thread stack size larger than the address space."""
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 48, resource.getrlimit(resource.RLIMIT_STACK)[1]))


def test_calls_work_without_a_thread_that_cannot_be_started() -> None:
    code = "import threading\ntry: threading.Thread(target=print).start()\nexcept RuntimeError: print('none')"
    assert run_python(code, no_room_for_a_stack).stdout == "none\n"
    alone = run_python(BITS.format(counts=[1]))
    refused = run_python(BITS.format(counts=[2, 5]), no_room_for_a_stack, OPENBLAS_NUM_THREADS="1")
    assert refused.stderr == ""
    assert set(refused.stdout.split()) == set(alone.stdout.split())


def test_one_thread_of_torch_needs_no_other() -> None:
    """As docs/threads.md explains, torch's OpenMP runtime would end the process if a second thread were requested."""
    pytest.importorskip("torch")
    alone = run_python(BITS.format(counts=[1]))
    code = "import torch; torch.set_num_threads(1)\n" + BITS.format(counts=[None])
    done = run_python(code, no_room_for_a_stack, OPENBLAS_NUM_THREADS="1")
    assert done.stdout == alone.stdout != "", done.stderr


def test_far_more_threads_than_cores_give_the_same_bits() -> None:
    # The limit is far above the time that sleeping threads need, and below the time of threads that spin for a core.
    done = run_python(BITS.format(counts=[1, 2, 64, 256, 3]), timeout=60)
    assert len(done.stdout.split()) == 5 and len(set(done.stdout.split())) == 1, done.stderr


def test_busy_cores_change_no_bit() -> None:
    """Uses the default number of threads, which is reduced on a busy machine."""
    rng = np.random.default_rng(1)
    wx, r = rng.standard_normal((16, 30, 4, 1, 64), np.float32), rng.standard_normal((4, 1, 64, 64), np.float32) / 8
    fastiter.set_num_threads(1)
    expected, _ = fastiter.lstm(wx, r)
    fastiter.set_num_threads(None)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(fastiter.get_num_threads())]
    try:
        for _ in range(300):
            np.testing.assert_array_equal(fastiter.lstm(wx, r)[0], expected)
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_concurrent_python_threads_have_the_bits_of_separate_calls() -> None:
    done = run_python("from tests.core.concurrent_calls import main; main()")
    assert done.stdout.endswith("calls in 4 threads, teams of fastiter\n") and done.returncode == 0, done.stderr


def test_a_forked_child_has_its_own_threads() -> None:
    """Parent and child run at the same time; the child reports by its exit status, as their output would mix."""
    code = BITS.format(counts=[2]) + (
        "import os, sys\nsys.stdout.flush()\npid = os.fork()\nequal = []\n"
        "for threads in (2, 3):\n    fastiter.set_num_threads(threads)\n    y = fastiter.lstm(wx, r)[0]\n"
        "    equal.append(np.array_equal(y, results[0]))\n"
        "if not pid:\n    os._exit(0 if equal == [True, True] else 1)\n"
        "print(*equal, os.waitpid(pid, 0)[1])\n"
    )
    done = run_python(code)
    assert done.stdout.split()[1:] == ["True", "True", "0"], done.stderr
