"""The emulator of machine code: its integers against Python's, its clock against listings counted by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import struct
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from fastiter import _nvrtc
from fastiter._backend import BackendError
from tests.gpu.emulator import recurrence
from tests.gpu.emulator.latencies import Latencies
from tests.gpu.emulator.sass import Program, disassemble, parse
from tests.gpu.emulator.thread import EmulatorError, Thread, Trace
from tests.gpu.emulator.values import State

try:
    _nvrtc.version()
except BackendError:
    pytest.skip("no NVRTC, which compiles the kernels", allow_module_level=True)

# ---- integers: a kernel's stores, compared with Python ---------------------------------------------------------------

KERNEL = """
extern "C" __global__ void f(long long a, int b, unsigned c, unsigned d, long long* out) {
    long long s = a;
    for (int i = 0; i < b; ++i) s += (long long)i * (c % 7u) - (a >> (i & 31)) + (i < 3 ? b : -b);
    out[threadIdx.x + blockIdx.x * blockDim.x] = s;
    out[1000] = s * a ^ b;
    out[1001] = (unsigned)s % d;
    out[1002] = c / d + ((unsigned long long)a >> 7);
    out[1003] = a < s ? b : c;
    out[1004] = (a & 0xff00ff) | (s << 9);
    out[1005] = b * 12345 + (b >> 3) - min(b, int(d)) + max(int(c >> 1), b) + abs(b);
    out[1006] = (unsigned long long)a < (unsigned long long)s;
    out[1007] = (long long)c * 5000000000ll + d;
}
"""
OUT = 0x7F00_0000_0000


def wrapped(x: int, bits: int = 64) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def expected(a: int, b: int, c: int, d: int, index: int) -> dict[int, int]:
    """Return what the kernel stores, by the index in `out`."""
    s = a
    for i in range(b):
        s = wrapped(s + i * (c % 7) - (a >> (i & 31)) + (b if i < 3 else -b))
    few = wrapped(b * 12345, 32) + (b >> 3) - min(b, wrapped(d, 32)) + max(c >> 1, b) + abs(b)
    unsigned = (1 << 64) - 1
    found = {
        index: s, 1000: s * a ^ b, 1001: (s & 0xFFFFFFFF) % d, 1002: (c // d) + ((a & unsigned) >> 7),
        1003: wrapped(b, 32) if a < s else c, 1004: (a & 0xFF00FF) | (s << 9), 1005: wrapped(few, 32),
        1006: int(a & unsigned < s & unsigned), 1007: c * 5000000000 + d,
    }  # fmt: skip
    return {at: value & unsigned for at, value in found.items()}


def stores_of(program: Program, arguments: bytes, block: int, thread: int) -> Trace:
    special = {"SR_TID.X": thread, "SR_CTAID.X": block}
    return Thread(program, State(arguments, {0: 128}, special), Latencies()).run()


def test_integers_equal_pythons() -> None:
    program = parse(disassemble(_nvrtc.compile_source(KERNEL, "f", "sm_90")))
    rng = random.Random(3)
    numbers = [(0, 0, 0, 1), (-1, 1, 2**32 - 1, 2**32 - 1), (-(2**63), 9, 1, 3), (2**63 - 1, 31, 2**31, 7)]
    numbers += [
        (rng.randrange(-(2**63), 2**63), rng.randrange(40), rng.randrange(2**32), rng.randrange(1, 2**32))
        for _ in range(40)
    ]
    for a, b, c, d in numbers:
        block, thread = rng.randrange(5), rng.randrange(128)
        trace = stores_of(program, struct.pack("<qiIIxxxxQ", a, b, c, d, OUT), block, thread)
        told = {(at - OUT) // 8: value for at, value in trace.stores if at is not None}
        assert told == expected(a, b, c, d, 128 * block + thread), (a, b, c, d)
        assert not trace.assumed and len(trace.stores) == 9


def test_values_from_memory_stay_unknown() -> None:
    source = """extern "C" __global__ void f(const int* x, int* out) {
        out[0] = x[0] + 1;
        out[1] = 2;
        if (x[1] == 5) out[2] = 3;
        out[x[2]] = 4;
    }"""
    program = parse(disassemble(_nvrtc.compile_source(source, "f", "sm_90")))
    stores = stores_of(program, struct.pack("<QQ", OUT + 4096, OUT), 0, 0).stores
    assert (OUT, None) in stores and (OUT + 4, 2) in stores
    assert stores[2:] == [(None, None)] * 2  # under an unknown condition, and to an unknown address


# ---- the clock -------------------------------------------------------------------------------------------------------


def listing(*lines: tuple[str, int, int, int, int]) -> str:
    """Return a listing of instructions with (stall, write, read, wait): the upper word's bits from 41 on."""
    parts = []
    for number, (text, stall, write, read, wait) in enumerate(lines):
        word = (stall | write << 5 | read << 8 | wait << 11) << 41
        if text.endswith(":"):
            parts.append(f"{text}")
            continue
        parts.append(f"        /*{16 * number:04x}*/  {text} ;  /* 0x{0:016x} */")
        parts.append(f"                               /* 0x{word:016x} */")
    return "\n".join(parts)


def test_stalls_and_scoreboards_determine_the_time() -> None:
    program = parse(
        listing(
            ("LDG.E R2, desc[UR4][R4.64]", 2, 0, 7, 0),  # issues at 0, available at 600
            ("LDS R3, [R6]", 4, 1, 7, 0),  # at 2, available at 31
            ("FADD R7, R3, R3", 5, 7, 7, 2),  # waits for board 1: at 31
            ("MUFU.EX2 R8, R7", 1, 2, 7, 0),  # at 36, available at 56
            ("FADD R9, R2, R8", 4, 7, 7, 5),  # waits for boards 0 and 2: at 600
            ("BAR.SYNC.DEFER_BLOCKING 0x0", 1, 7, 7, 0),  # at 604, the warp continues at 632
            ("STG.E desc[UR4][R4.64], R9", 3, 7, 3, 0),  # at 632, operands read at 652
            ("MOV R9, RZ", 1, 7, 7, 8),  # waits for board 3: at 652
            ("EXIT", 5, 7, 7, 0),  # at 653
        )
    )
    thread = Thread(program, State(b"", {}, {}), Latencies())
    trace = thread.run()
    assert thread.now == 658 and trace.executed == 9
    assert thread.waits == {"LDS": 25, "LDG": 563, "BAR": 28, "STG operands": 17}
    assert thread.counts["FADD"] == 2 and thread.counts["all"] == 9


def test_products_wait_only_for_their_sums() -> None:
    first = ("HMMA.16816.F32.BF16 R4, R8, R12, RZ", 2, 7, 7, 0)
    other = ("HMMA.16816.F32.BF16 R16, R8, R12, RZ", 2, 7, 7, 0)
    then = ("HMMA.16816.F32.BF16 R4, R8, R12, R4", 2, 7, 7, 0)
    last = ("EXIT", 1, 7, 7, 0)
    for lines, cycles in (((first, other, last), 5), ((first, then, last), 31), ((first, other, then, last), 31)):
        thread = Thread(parse(listing(*lines)), State(b"", {}, {}), Latencies())
        thread.run()
        assert thread.now == cycles, lines


def test_copies_are_awaited_in_groups() -> None:
    copy = ("LDGSTS.E.BYPASS.128 [R2], desc[UR4][R4.64]", 1, 7, 7, 0)
    close = ("LDGDEPBAR", 1, 7, 7, 0)
    for left, cycles in ((0, 602), (1, 600), (2, 6)):  # the copies issue at 0 and 2; the wait at 5
        lines = (copy, close, copy, ("IADD3 R9, RZ, RZ, RZ", 1, 7, 7, 0), close)
        waiting = (*lines, (f"DEPBAR.LE SB0, {left:#x}", 1, 7, 7, 0))
        thread = Thread(parse(listing(*waiting, ("EXIT", 1, 7, 7, 0))), State(b"", {}, {}), Latencies())
        thread.run()
        assert thread.now == cycles + 1, left


def test_stores_to_other_blocks_of_a_cluster_have_a_latency() -> None:
    send = ("STAS.64 [R10.64], R2", 3, 7, 7, 0)
    lines = (send, send, ("SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R16+UR6], R23", 1, 7, 7, 0))
    again = ("@!P1 IADD3 R9, RZ, 0x5, RZ", 4, 7, 7, 0)  # P1: they have arrived
    thread = Thread(parse(listing(*lines, again, ("EXIT", 1, 7, 7, 0))), State(b"", {}, {}), Latencies())
    thread.run()
    assert thread.now == 3 + 250 + 4 + 1 and thread.waits == {"SYNCS": 247} and thread.state.get("R9") != 5


def test_a_kernel_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(parse(listing(("MOV R1, RZ", 1, 7, 7, 0))).instructions, {})
    with pytest.raises(EmulatorError, match="no end after 1 instructions"):
        Thread(program, State(b"", {}, {}), Latencies()).run()


def test_latencies_come_from_a_cards_record(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    rows = [{"name": "memory", "cycles": 512.5}, {"name": "grid, flag of each block, 16 blocks", "cycles": 900.0}]
    path.write_text(json.dumps({"latencies": rows}))
    assert Latencies.of_record(path) == dataclasses.replace(Latencies(), memory=512.5)


# ---- the recurrence --------------------------------------------------------------------------------------------------


def test_arguments_are_those_of_the_source() -> None:
    told = recurrence.kernel_arguments("rnn/forward", "rnn_fwd")
    kinds = {name: kind for kind, name in told}
    assert kinds["wx"] == kinds["offsets"] == kinds["arrived"] == kinds["starts"] == "*"
    assert (kinds["blocks"], kinds["width"], kinds["clip_state"]) == ("int32", "int64", "Real")
    packed = recurrence.pack([("*", "x"), ("int32", "n"), ("int64", "m"), ("Real", "c")], {"x": 5, "m": -2, "c": 1.5})
    assert packed == struct.pack("<Qixxxxqf", 5, 0, -2, 1.5)


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_has_the_plans_products_and_the_cells_loads(backward: bool) -> None:
    problem = recurrence.problem_of("lstm", 32, backward)
    its = recurrence.planned(problem)
    assert its is not None
    step = recurrence.simulate(problem, its)
    each = math.ceil(its.units * its.rows / its.threads)
    tiles = problem.outs * its.units // (16 * its.row_warps) * its.tiles
    assert step.counts["HMMA"] == tiles * its.columns
    assert step.counts["LDG"] >= (4 + 2 + 1 if backward else 4) * each  # gates; c, c before and dh, where saved
    assert step.counts["STG"] >= (4 if backward else 2) * each
    assert step.issue == step.counts["all"] * math.ceil(its.threads / 128)
    assert step.bound >= step.cycles > 200 and step.counts["STAS"] == 0
    slow = recurrence.simulate(problem, its, dataclasses.replace(Latencies(), memory=20000.0))
    assert slow.counts == step.counts
    assert slow.cycles > 19000  # this step or the next waits for a load


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_of_a_cluster_sends_to_each_block(backward: bool) -> None:
    """8 bytes per store, and no grid barrier: neither its fence nor its loads."""
    problem = recurrence.problem_of("lstm", 128, backward)
    its = recurrence.planned(problem)
    assert its is not None and its.clustered
    step = recurrence.simulate(problem, its)
    numbers = 4 if backward else 1
    each = math.ceil(its.units * its.rows / its.threads)
    assert step.counts["STAS"] == numbers * each * its.blocks * 2 // 8
    assert step.counts["SYNCS"] == 2 and step.counts["MEMBAR"] == 0  # thread 0 waits, and expects the next ones
    assert step.cycles > 250
