"""Memory over many calls, calls from many threads and in child processes, and calls without enough memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.public import soak
from tests.public.soak import Together, growth

ROOT = Path(__file__).parents[2]
#: AddressSanitizer keeps freed memory, and needs terabytes of address space.
PLAIN = sys.platform == "linux" and "asan" not in os.environ.get("LD_PRELOAD", "")
on_linux = pytest.mark.skipif(not PLAIN, reason="reads /proc, and limits the address space")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@on_linux
@pytest.mark.parametrize("name", ["fastiter.lstm", "fastiter.quant.parse", "fastiter.relax.sor", "fastiter.ssm.ssd"])
def test_memory_does_not_grow(name: str) -> None:
    """A few functions; ``make soak`` runs all. A leak grows with each try, caches and pools only once."""
    found: list[str] = []
    while len(found) < 3 and "" not in found:
        found.append(soak.leaks(name, 600, 1.5))
    assert "" in found, found


@on_linux
def test_growth_is_found() -> None:
    kept: list[Any] = []
    tracemalloc.start()
    made, (_, _, of_python) = growth(lambda: kept.append(np.zeros(1000)), 5.0, 300)
    tracemalloc.stop()
    assert made == 300 and 100 * 8000 <= of_python < 110 * 8000
    blocks: list[Any] = []
    _, (_, of_malloc, _) = growth(lambda: blocks.append(ctypes.create_string_buffer(5000)), 5.0, 300)
    assert of_malloc >= 100 * 5000


def test_eight_threads_give_the_serial_results() -> None:
    together = Together(8, each=1)
    together.run(3.0)
    assert not together.wrong
    assert min(together.made) > 0


def test_a_different_result_is_found() -> None:
    together = Together(2, each=1)
    call, (value, *more) = next((call, found) for call, found in together.known if call.name == "fastiter.lstm")
    together.known = [(call, ((value[0] + 1, *value[1:]), *more))]
    together.run(3.0)
    assert "fastiter.lstm: AssertionError" in together.wrong[0]


@on_linux
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_children_give_the_same_results_while_threads_work(start: str) -> None:
    """The parent has used a team of threads, and its Python threads are in calls when the child is created."""
    program = f"""
import multiprocessing, threading, warnings, fastiter
from tests.public.soak import Together, digest
warnings.simplefilter("ignore")
if __name__ == "__main__":
    fastiter.set_num_threads(2)
    expected = digest()
    together = Together(2, each=1)
    worker = threading.Thread(target=together.run, args=(1.0,))
    with multiprocessing.get_context({start!r}).Pool(1) as pool:
        worker.start()
        found = pool.starmap(digest, [()] * 2)
        worker.join()
    assert found == [expected] * 2 and not together.wrong, (found, expected, together.wrong)
"""
    run(program)


# ---- No memory ------------------------------------------------------------------------------------------------------

#: Calls whose results far exceed the memory; their inputs repeat one row.
LARGE = """
import resource, numpy as np, fastiter
from fastiter import quant, ssm
B, T = 4096, 4096
def rows(*shape, dtype=np.float32):
    return np.broadcast_to(np.full(shape[2:], 0.25, dtype), (B, T, *shape[2:]))
few = np.full((1, 4, 4), 0.1, np.float32)
CALLS = {
    "lstm": lambda: fastiter.lstm(rows(B, T, 4, 1, 4), np.repeat(few[None], 4, 0)),
    "gru": lambda: fastiter.gru(rows(B, T, 3, 1, 4), np.repeat(few[None], 3, 0)),
    "linear_scan": lambda: fastiter.linear_scan(rows(B, T, 8), rows(B, T, 8)),
    "block_scan": lambda: fastiter.block_scan(rows(B, T, 2, 4, 4), rows(B, T, 2, 4)),
    "delta_scan": lambda: fastiter.delta_scan(*(rows(B, T, 1, 8),) * 3, rows(B, T, 1)),
    "paragru": lambda: fastiter.paragru(rows(B, T, 3, 8), np.full((3, 8), 0.1, np.float32)),
    "causal_conv1d": lambda: ssm.causal_conv1d(rows(B, T, 8).swapaxes(1, 2), np.ones((8, 2), np.float32)),
    "linear_attention": lambda: ssm.linear_attention(*(rows(B, T, 1, 8),) * 3),
    "mlstm": lambda: ssm.mlstm(*(rows(B, T, 1, 8),) * 3, *(rows(B, T, 1),) * 2),
    "ssd": lambda: ssm.ssd(rows(B, T, 1, 8), rows(B, T, 1), -np.ones(1, np.float32), *(rows(B, T, 1, 4),) * 2),
    "quantize": lambda: quant.quantize(rows(B, T, 8), "e4m3fn"),
    "encode": lambda: quant.encode(rows(B, T, 32), "mxfp8_e4m3"),
    "FixedArray": lambda: quant.FixedArray(rows(B, T, 8), "fixed<8,4>"),
    "quant_matmul": lambda: quant.quant_matmul(rows(B, T, 8)[:, 0], rows(B, T, 8)[:, 0].T, "int8", "int8"),
}
"""
LIMITED = """
from tests.public.soak import digest
fastiter.set_num_threads(2)
expected = digest()
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (48 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
for name, call in CALLS.items():
    try:
        call()
        print(name, "had room")
    except MemoryError:
        pass
assert digest() == expected
"""


@on_linux
def test_no_memory_is_a_memory_error_and_the_next_call_works() -> None:
    assert run(LARGE + LIMITED) == ""
