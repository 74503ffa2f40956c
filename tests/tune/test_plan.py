"""fastiter.tune's plans: each is checked by independent arithmetic, some against all possible launches."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import itertools
import math
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fastiter import BackendError, tune
from fastiter.tune.__main__ import table

GATES = {"elman": 1, "gru": 3, "lstm": 4, "slstm": 4}
EXTRA_STATES = {"elman": 0, "gru": 0, "lstm": 1, "slstm": 3}
CELL_CYCLES = {"elman": (450, 220), "gru": (600, 340), "lstm": (770, 440), "slstm": (890, 960)}
SIZE = {"bfloat16": 2, "float16": 2, "float32": 4}


def up(a: int, b: int) -> int:
    return -(-a // b)


def launch(plan: tune.RnnPlan) -> dict[str, Any]:
    """Return the resources and cost of a launch of this shape, derived from the kernel's design alone."""
    size, gates = SIZE[plan.dtype], GATES[plan.cell]
    width = 16 * up(plan.width, 16)
    row_gates, depth = (1, gates * width) if plan.backward else (gates, width)
    rows, tiles, warps = row_gates * plan.units, depth // 16, plan.row_warps * plan.depth_warps
    columns = plan.batch_tile // 8
    per_warp = rows // 16 // plan.row_warps * up(tiles, plan.depth_warps)
    in_shared = per_warp - plan.fragments_registers
    registers = (
        56 + 2 * size * plan.fragments_registers + 4 * (rows // 16 // plan.row_warps) * columns + 2 * size * columns
    )
    h = (depth + 8) * size * plan.batch_tile
    sums = 4 * plan.depth_warps * rows * plan.batch_tile
    state = (4 * EXTRA_STATES[plan.cell] + 2 * gates * size) * plan.units * plan.batch_tile
    threads, way = 32 * warps, int(plan.backward)
    elements = up(plan.units * plan.batch_tile, threads)  # processed in sequence by one thread
    products = per_warp * columns
    words = up(plan.batch_tile * depth * size // 8, threads) if plan.blocks > 1 else 0
    exact = 80 if plan.dtype == "float32" else 0
    latency = (
        (128, 354)[way]
        + (CELL_CYCLES[plan.cell][way] + (4, 9)[way] * row_gates * plan.depth_warps) * elements
        + (exact * warps / 4 or (10, 36)[way]) * products
        + (3, 0)[way] * in_shared
        + (plan.blocks > 1) * ((1670, 1560)[way] + 750 + 4 * plan.blocks)
        + (33, 22)[way] * words
    )
    issue = warps / 4 * (290 * elements + 20 * words + (2 + exact) * products)
    return {
        "rows": rows,
        "in_shared": in_shared,
        "registers": registers,
        "shared": 256 * size * warps * in_shared + h + sums + state,
        "cycles": math.floor(plan.passes * max(latency, plan.blocks_per_sm * issue)),
    }


def fits(plan: tune.RnnPlan) -> bool:
    """Return whether the card can run the launch and the launch covers the problem."""
    device, need = plan.device, launch(plan)
    warps = plan.row_warps * plan.depth_warps
    on_an_sm = min(
        device.registers // (32 * warps * need["registers"]),
        device.shared // (need["shared"] + 1024),
        device.threads // (32 * warps),
    )
    return (
        need["rows"] % (16 * plan.row_warps) == 0
        and need["in_shared"] >= 0
        and need["registers"] <= 255
        and need["shared"] <= device.block_shared
        and plan.blocks_per_sm <= on_an_sm
        and plan.blocks == up(plan.width, plan.units)
        and math.prod(plan.grid) <= device.sms * plan.blocks_per_sm
        and plan.batch_tiles == up(plan.batch, plan.batch_tile)
        and plan.passes == up(plan.heads, plan.heads_per_pass) * up(plan.batch_tiles, plan.tiles_per_pass)
    )


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", tune.DEVICES)
def test_plans_of_all_widths_fit_their_card(name: str, backward: bool) -> None:
    kinds = itertools.islice(itertools.cycle(itertools.product(GATES, SIZE)), backward, None)
    for width in [16, 2048, *range(17, 2049, 227)]:
        cell, dtype = next(kinds)
        heads, batch = max(1, 768 // width), 16 if width % 2 else 3
        plan = tune.rnn_plan(
            tune.DEVICES[name], cell=cell, heads=heads, width=width, batch=batch, dtype=dtype, backward=backward
        )
        if plan.variant == "alternating":
            assert "no fused launch fits" in plan.reason and plan.grid == (0, 0, 0)
            continue
        assert fits(plan), plan
        need = launch(plan)
        assert plan.padded % 16 == 0 and plan.width <= plan.padded < plan.width + 16
        assert (plan.fragments_shared, plan.registers) == (need["in_shared"], need["registers"])
        assert (plan.shared, plan.cycles) == (need["shared"], need["cycles"])
        assert plan.threads == 32 * plan.row_warps * plan.depth_warps and plan.reason == ""


@pytest.mark.parametrize(
    ("name", "cell", "heads", "width", "batch", "dtype", "backward"),
    [
        ("H100", "lstm", 1, 768, 16, "bfloat16", False),
        ("A100", "gru", 3, 250, 40, "bfloat16", True),
        ("RTX 4090", "elman", 2, 500, 8, "float32", False),
        ("B200", "slstm", 12, 64, 16, "float16", True),
        ("H100", "lstm", 10**6, 256, 1, "bfloat16", True),
        ("RTX 4090", "lstm", 10**5, 768, 16, "float32", False),
    ],
)
def test_no_other_launch_is_cheaper(
    name: str, cell: str, heads: int, width: int, batch: int, dtype: str, backward: bool
) -> None:
    device = tune.DEVICES[name]
    plan = tune.rnn_plan(device, cell=cell, heads=heads, width=width, batch=batch, dtype=dtype, backward=backward)
    assert plan.variant == "fused"
    row_gates = 1 if backward else GATES[cell]
    tiles = [t for t in (8, 16, 32, 64) if t == 8 or t < 2 * batch]
    warps = [(r, d) for r in (1, 2, 4, 8, 16) for d in (1, 2, 4, 8, 16) if r * d in (4, 8, 16)]
    least = plan.cycles
    step = 16 // math.gcd(16, row_gates)
    for units, tile, (row, deep), on_sm in itertools.product(range(step, width + 64, step), tiles, warps, (1, 2)):
        row_tiles = row_gates * units // 16
        blocks, batch_tiles = up(width, units), up(batch, tile)
        resident = device.sms * on_sm // blocks
        if resident == 0 or (row_gates * units) % (16 * row) or row_tiles > 64:
            continue
        n = max(1, min(heads, resident // batch_tiles))
        t = min(batch_tiles, resident)
        other = dataclasses.replace(
            plan, units=units, blocks=blocks, batch_tile=tile, batch_tiles=batch_tiles, row_warps=row, depth_warps=deep,
            blocks_per_sm=on_sm, heads_per_pass=n, tiles_per_pass=t, passes=up(heads, n) * up(batch_tiles, t),
            fragments_registers=0,
        )  # fmt: skip
        empty = launch(other)["registers"]
        most = min(255, device.registers // (32 * row * deep * on_sm))
        held = min(launch(other)["in_shared"], (most - empty) // (2 * SIZE[dtype]))
        if held >= 0:
            other = dataclasses.replace(other, fragments_registers=held)
            least = min(least, launch(other)["cycles"] if fits(other) else least)
    assert plan.cycles == least


@pytest.mark.parametrize("size", [10**6, 2**31 - 1])
@pytest.mark.parametrize("name", ["heads", "width", "batch"])
def test_plans_of_large_sizes_end(name: str, size: int) -> None:
    """The search tries as many numbers of passes as there are resident blocks, not as there are heads."""
    large = size > 2**30  # every two of a cell, a direction and a size
    for cell, dtype, backward in (("lstm", "bfloat16", large), ("elman", "float32", not large)):
        shape = {"heads": 2, "width": 256, "batch": 4, name: size}
        plan = tune.rnn_plan(tune.DEVICES["H100"], cell=cell, dtype=dtype, backward=backward, **shape)
        assert fits(plan) if plan.variant == "fused" else plan.reason, plan
        assert plan.variant == "fused" or name != "heads"


def test_the_plan_solves_the_constraints() -> None:
    shape: dict[str, Any] = {"cell": "lstm", "heads": 2, "width": 384, "batch": 16, "dtype": "bfloat16"}
    plan = tune.rnn_plan(tune.DEVICES["H100"], **shape)
    text, cost = tune.rnn_constraints(tune.DEVICES["H100"], **shape)
    (found,) = tune.solve(text, minimize=cost)
    assert {name: getattr(plan, name) for name in found if hasattr(plan, name)}.items() <= found.items()
    # a launch that failed to compile is excluded, and the next one is returned
    (other,) = tune.solve(text, minimize=cost, exclude=[{"units": plan.units, "batch_tile": plan.batch_tile}])
    assert (other["units"], other["batch_tile"]) != (plan.units, plan.batch_tile)


def test_plans_have_text() -> None:
    shape: dict[str, Any] = {"cell": "lstm", "heads": 1, "batch": 16, "dtype": "bfloat16"}
    fused = str(tune.rnn_plan(tune.DEVICES["H100"], width=100, **shape))
    assert fused.startswith("lstm forward, 1 heads of 100, batch 16, bfloat16 on H100: fused, ")
    assert "units of width 112" in fused and "fragments a warp in registers" in fused
    alternating = str(tune.rnn_plan(tune.DEVICES["RTX 4090"], width=2048, **shape))
    assert ": alternating, " in alternating and "r of a head has 32.0 MiB and RTX 4090" in alternating


def test_the_table_in_the_docs_is_the_command_s() -> None:
    docs = Path(__file__).parents[2] / "docs" / "tune" / "theory.md"
    assert table("H100", "lstm", 16, "bfloat16", 768) in docs.read_text()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "H100"}, TypeError, "rnn_plan: device must be a Device, got str"),
        ({"cell": "rnn"}, ValueError, "rnn_plan: cell must be one of 'elman', 'gru', 'lstm', 'slstm', got 'rnn'"),
        (
            {"dtype": "float64"},
            ValueError,
            "rnn_plan: dtype must be one of 'bfloat16', 'float16', 'float32', got 'float64'",
        ),
        ({"heads": 0}, ValueError, "rnn_plan: heads must be at least 1, got 0"),
        ({"heads": 2**64}, ValueError, "rnn_plan: heads must be at most 2147483647, got 18446744073709551616"),
        ({"width": 2**31}, ValueError, "rnn_plan: width must be at most 2147483647, got 2147483648"),
        ({"batch": 10**30}, ValueError, f"rnn_plan: batch must be at most 2147483647, got {10**30}"),
        ({"width": 2.0}, TypeError, "rnn_plan: width must be an int, got float"),
        ({"backward": 1}, TypeError, "rnn_plan: backward must be a bool, got int"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"device": tune.DEVICES["A100"], "cell": "lstm", "heads": 1, "width": 64, "batch": 1, "dtype": "float32"}
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        tune.rnn_plan(**{**given, **arguments})


# the current card -----------------------------------------------------------------------------------------------------


def a_module(name: str, **contents: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(contents)
    return module


class NoDriver(Exception):
    """Error raised by the stand-in CuPy of these tests."""


def a_cupy(properties: dict[str, Any] | None) -> types.ModuleType:
    def get(_: int) -> dict[str, Any]:
        if properties is None:
            raise NoDriver("no driver")
        return properties

    runtime = types.SimpleNamespace(getDeviceProperties=get, getDevice=lambda: 0, CUDARuntimeError=NoDriver)
    return a_module("cupy", cuda=types.SimpleNamespace(runtime=runtime))


def test_the_card_is_read_through_torch_where_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = types.SimpleNamespace(
        name="NVIDIA H100 80GB HBM3", major=9, minor=0, multi_processor_count=132, regs_per_multiprocessor=65536,
        shared_memory_per_multiprocessor=233472, shared_memory_per_block_optin=232448, L2_cache_size=52428800,
        max_threads_per_multi_processor=2048, clock_rate=1980000,
    )  # fmt: skip
    cuda = types.SimpleNamespace(
        is_available=lambda: True, current_device=lambda: 0, get_device_properties=lambda _: properties
    )
    monkeypatch.setitem(sys.modules, "torch", a_module("torch", cuda=cuda))
    assert tune.Device.current() == dataclasses.replace(tune.DEVICES["H100"], name=properties.name)


def test_the_card_is_read_through_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = {
        "name": b"NVIDIA GeForce RTX 4080", "major": 8, "minor": 9, "multiProcessorCount": 76,
        "regsPerMultiprocessor": 65536, "sharedMemPerMultiprocessor": 102400, "sharedMemPerBlockOptin": 101376,
        "l2CacheSize": 67108864, "maxThreadsPerMultiProcessor": 1536,
    }  # fmt: skip
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setitem(sys.modules, "cupy", a_cupy(properties))
    card = tune.Device.current()
    assert (card.sms, card.capability, card.block_shared, card.tensor_flops) == (76, (8, 9), 101376, 165 * 76 // 128)


def test_no_card_is_a_backend_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setitem(sys.modules, "cupy", a_cupy(None))
    with pytest.raises(
        BackendError, match=r"^Device.current: CuPy must see a CUDA card, got no driver; check the driver"
    ):
        tune.Device.current()
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        BackendError, match=r"^Device.current: a CUDA card .* got none .* pip install fastiter-kernels\[gpu\]"
    ):
        tune.Device.current()


def test_unknown_devices_are_refused_with_a_list_of_known_ones() -> None:
    with pytest.raises(KeyError, match=r"the name must be one of 'A100', 'H100', .*'RTX 4090', got 'H100 SXM'"):
        tune.DEVICES["H100 SXM"]
    assert tune.DEVICES.get("H100 SXM") is None and "H100 SXM" not in tune.DEVICES
    assert all(device.name == name for name, device in tune.DEVICES.items())
