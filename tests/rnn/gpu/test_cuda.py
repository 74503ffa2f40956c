"""The CUDA kernels of the recurrent cells agree with the specification: on a card, or on a CPU under sanitizers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastiter._backend import BackendError  # noqa: E402
from fastiter._torch import launch as gpu  # noqa: E402
from fastiter.rnn._cells import CELLS  # noqa: E402
from fastiter.rnn._torch._gpu import kernels as rnn_gpu  # noqa: E402
from fastiter.rnn._torch._gpu import launch_plan, launch_shape, stepwise  # noqa: E402
from fastiter.rnn._torch._gpu.launch_shape import Exchange  # noqa: E402
from fastiter.tune import DEVICES, rnn_plan  # noqa: E402
from tests.gpu.host.host import KERNELS, Host, program  # noqa: E402
from tests.rnn.gpu.gpu_calls import array, check, check_options, check_packed, make, run, specified  # noqa: E402
from tests.support.cases import RNN_CELLS  # noqa: E402

every_cell = pytest.mark.parametrize(("cell", "activation"), RNN_CELLS, ids=[*map("".join, RNN_CELLS)])

STEPWISE: dict[str, dict[str, Any]] = {"forward": {"backend": "stepwise"}, "backward": {"backend": "stepwise"}}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rnn")


@pytest.fixture
def launch(device: str, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a launcher on the CPU under a sanitizer; uninitialised memory is NaN."""

    def under(sanitizer: str = "none") -> Host:
        host = Host(programs, sanitizer)
        if device == "cpu":
            monkeypatch.setattr(gpu, "launch_cuda", host)
            monkeypatch.setattr(stepwise, "_THREADS", 64)
        return host

    torch.use_deterministic_algorithms(True, warn_only=True)
    yield under
    torch.use_deterministic_algorithms(False)


def shapes(
    case: Any,
    warps: tuple[int, int, int],
    held: int,
    tensor_cores: bool = False,
    units: int | None = None,
    cluster: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return plans of ``warps`` (by units, terms, tiles of rows), with all but one tile of r or none in registers."""
    r, told = case.inputs[1], {}
    G, N, D, _ = r.shape
    for backward in (False, True):
        cores = tensor_cores or r.element_size() == 2
        problem = launch_plan.Problem(case.name, D, N, 16, r.element_size(), cores, backward)
        rows = (16 * warps[0] if backward or units is None else units), *warps
        least = 1 if backward or G == 1 or held == 0 else held * G - 1
        blocks = -(-D // rows[0]) if cluster else 0
        plan = launch_plan.shape(problem, *rows, min(held, 1) * least, cluster=blocks)
        told["backward" if backward else "forward"] = {"plan": plan}
    return told


@every_cell
def test_blocks_that_meet_every_step(cell: str, activation: str, device: str, launch: Any) -> None:
    launch()
    units = 12 if cell in {"lstm", "slstm"} else 16
    for sizes, how in [
        ((9, 3, 2, 19), {}),
        ((4, 5, 1, 19), {"reverse": True, "lengths": [2, 5, 0, 4]}),
        ((4, 5, 1, 19), {"lengths": [2, 4, 0, 1]}),
        ((2, 0, 1, 19), {}),
    ]:
        case = make(cell, activation, sizes, torch.float32, device)
        check(case, **how, **shapes(case, (1, 2, 1), 1, units=units))
    case = make(cell, activation, (2, 3, 1, 19), torch.float32, device, bare=True)
    check(case, **shapes(case, (1, 2, 1), 1, units=units))


@pytest.mark.parametrize(("cell", "activation"), [("lstm", ""), ("gru", ""), ("slstm", ""), ("elman", "tanh")])
def test_blocks_of_a_cluster(cell: str, activation: str, device: str, launch: Any) -> None:
    """Blocks send each other their results, for 2 to 4 blocks, including places for units that do not exist."""
    host = launch()
    units = 12 if cell in {"lstm", "slstm"} else 16
    checked: list[tuple[tuple[int, int, int, int], dict[str, Any]]] = [
        ((9, 3, 2, 19), {}),
        ((4, 5, 1, 19), {"reverse": True, "lengths": [2, 5, 0, 4]}),
    ]
    if cell in {"slstm", "elman"}:
        checked = checked[cell == "slstm" :][:1]  # one of the two kernels, with and without the ends of rows
    if cell == "lstm":
        checked += [((3, 4, 1, 41), {}), ((4, 1, 1, 19), {}), ((2, 0, 1, 19), {})]
    for sizes, how in checked:
        case = make(cell, activation, sizes, torch.float32, device)
        check(case, **how, **shapes(case, (1, 2, 1), 1, units=units, cluster=True))
    if cell == "gru":
        like = make(cell, activation, (4, 1, 1, 19), torch.float32, device)
        check_options(cell, activation, device, **shapes(like, (1, 2, 1), 1, units=units, cluster=True))
    assert set(host.launched) == ({"rnn_fwd", "rnn_bwd"} if device == "cpu" else set())


@pytest.mark.parametrize(
    ("cell", "dtype", "width", "warps"),
    [
        ("lstm", torch.bfloat16, 37, (3, 1, 2)),
        ("gru", torch.float16, 33, (1, 2, 1)),
        ("slstm", torch.float64, 17, (1, 1, 1)),
    ],
)
def test_clusters_of_other_dtypes(
    cell: str, dtype: torch.dtype, width: int, warps: tuple[int, int, int], device: str, launch: Any
) -> None:
    """8 bytes, which are sent at a time, are four numbers of 16 bits, or one of 64.

    Each kernel is compiled with and without the ends of rows, here for 16 bits with both and for 64 with the ends.
    """
    launch()
    case = make(cell, "", (11, 4, 1, width), dtype, device)
    how = shapes(case, warps, 1, units=12 if cell != "gru" else None, cluster=True)
    if warps[0] == 3:
        how["backward"] = shapes(case, (1, 2, 2), 1, cluster=True)["backward"]
    if cell != "gru":
        check(case, lengths=[4, 3, 2, 4, 1, 0, 4, 4, 2, 3, 1], **how)
    if cell != "slstm":
        check(case, reverse=True, **how)


@pytest.mark.parametrize(
    ("sanitizer", "dtype", "units"), [("address", torch.bfloat16, 4), ("thread", torch.float32, 12)]
)
def test_clusters_under_sanitizers(sanitizer: str, dtype: torch.dtype, units: int, device: str, launch: Any) -> None:
    launch(sanitizer)
    case = make("lstm", "", (3, 4, 1, 20), dtype, device)
    check(case, reverse=True, lengths=[4, 1, 2], **shapes(case, (1, 2, 1), 1, units=units, cluster=True))


@every_cell
def test_clips_resets_and_cut_rows(cell: str, activation: str, device: str, launch: Any) -> None:
    launch()
    like = make(cell, activation, (4, 1, 1, 19), torch.float32, device)
    units = 12 if cell in {"lstm", "slstm"} else 16
    check_options(cell, activation, device, **shapes(like, (1, 2, 1), 1, units=units))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_clips_resets_and_cut_rows_a_step_at_a_time(cell: str, device: str, launch: Any) -> None:
    launch()
    check_options(cell, "", device, **STEPWISE)


@pytest.mark.parametrize(
    ("cell", "dtype", "width", "warps", "held", "ends"),
    [
        ("lstm", torch.bfloat16, 24, (2, 2, 2), 1, (True, False)),
        ("lstm", torch.bfloat16, 18, (1, 12, 1), 1, (True,)),
        ("slstm", torch.bfloat16, 40, (3, 1, 1), 1, (False,)),
        ("gru", torch.float16, 33, (1, 2, 2), 0, (True, False)),
        ("slstm", torch.float64, 17, (2, 1, 1), 1, (False,)),
        ("gru", torch.float64, 17, (1, 1, 1), 1, (True,)),
    ],
)
def test_dtypes(
    cell: str,
    dtype: torch.dtype,
    width: int,
    warps: tuple[int, int, int],
    held: int,
    ends: tuple[bool, ...],
    device: str,
    launch: Any,
) -> None:
    """Kernels are compiled with and without the ends of rows: each dtype with both."""
    launch()
    # in 8 bits another gate may win the max in m, which changes a loss on m but not one on h alone
    case = make(cell, "", (11, 4, 1, width), dtype, device, bare=cell == "slstm" and dtype == torch.bfloat16)
    for ragged in ends:
        how: dict[str, Any] = {"lengths": [4, 3, 2, 4, 1, 0, 4, 4, 2, 3, 1]} if ragged else {"reverse": True}
        check(case, **how, **shapes(case, warps, held))


@pytest.mark.parametrize(
    ("cell", "dtype", "width", "warps", "units", "held"),
    [
        ("lstm", torch.bfloat16, 11, (3, 1, 1), 12, 1),  # two lanes exchange sums
        ("slstm", torch.float16, 20, (1, 1, 2), 20, 5),
        ("lstm", torch.bfloat16, 21, (3, 1, 1), 12, 2),  # the same, with two blocks
        ("gru", torch.float16, 31, (2, 1, 2), 32, 2),
        ("elman_relu", torch.bfloat16, 128, (8, 1, 1), 128, 8),  # two chains
        ("elman_tanh", torch.bfloat16, 160, (5, 1, 1), 160, 17),  # two chains, with a rest in shared memory
    ],
)
def test_sums_in_lanes(
    cell: str,
    dtype: torch.dtype,
    width: int,
    warps: tuple[int, int, int],
    units: int,
    held: int,
    device: str,
    launch: Any,
) -> None:
    """A lane has all sums of its elements: with rows of r in each order, and without a cut, and with one."""
    launch()
    name, _, activation = cell.partition("_")
    case = make(name, activation, (11, 3, 1, width), dtype, device, bare=name == "slstm")
    how = shapes(case, warps, 1, units=units)
    plan = how["forward"]["plan"]
    problem = launch_plan.Problem(cell, width, 1, 16, 2, True, False)
    assert launch_shape.sums_in_lanes(problem, plan.units, plan.row_warps, plan.split)
    how["forward"] = {"plan": dataclasses.replace(plan, in_registers=held)}
    check(case, **how)
    if width < 30:
        check(case, reverse=True, lengths=[3, 3, 2, 3, 1, 0, 3, 3, 2, 3, 1], **how)


def tagged(case: Any, warps: tuple[int, int, int], units: int) -> dict[str, dict[str, Any]]:
    """Return a forward plan whose blocks exchange packets, and a backward plan with a barrier."""
    heads, width = case.inputs[1].shape[1:3]
    forward, backward = (launch_plan.Problem(case.name, width, heads, 16, 2, True, back) for back in (False, True))
    barrier = launch_plan.shape(backward, 16 * warps[0], *warps, 1)
    assert launch_shape.tagged(backward, barrier, 1) is None
    plan = launch_shape.tagged(forward, launch_plan.shape(forward, units, *warps, 1), 1)
    assert plan is not None and plan.defines()["TAGGED"] == 1 and plan.blocks > 1
    return {"forward": {"plan": plan}, "backward": {"plan": barrier}}


@pytest.mark.parametrize(
    ("sanitizer", "cell", "dtype", "width", "warps", "units", "ends"),
    [
        ("none", "lstm", torch.bfloat16, 37, (2, 2, 1), 16, False),
        ("none", "gru", torch.float16, 29, (1, 2, 1), 16, True),
        ("none", "slstm", torch.bfloat16, 19, (1, 1, 2), 8, False),  # sums in lanes
        ("none", "elman_tanh", torch.float16, 41, (2, 1, 1), 32, True),
        ("address", "lstm", torch.float16, 17, (1, 2, 1), 16, True),
        ("thread", "lstm", torch.bfloat16, 17, (1, 2, 1), 16, True),
        ("thread", "lstm", torch.bfloat16, 17, (1, 1, 1), 8, False),
    ],
)
def test_packets_with_tags(
    sanitizer: str,
    cell: str,
    dtype: torch.dtype,
    width: int,
    warps: tuple[int, int, int],
    units: int,
    ends: bool,
    device: str,
    launch: Any,
) -> None:
    """Blocks take each other's states from packets with the number of the step, over several uses of each buffer."""
    launch(sanitizer)
    name, _, activation = cell.partition("_")
    case = make(name, activation, (5, 5, 1, width), dtype, device, bare=name == "slstm")
    how = tagged(case, warps, units)
    check(case, **({"reverse": True, "lengths": [2, 5, 0, 4, 1]} if ends else {}), **how)
    if sanitizer == "none" and name == "gru":
        check(case, reset=[[(row + step) % 3 == 1 for step in range(5)] for row in range(5)], **how)
    if sanitizer == "none" and name == "lstm":
        for time in (0, 1):
            check(make(name, activation, (3, time, 1, width), dtype, device), **how)


def test_tags_differ_from_those_before(launch: Any, programs: Path) -> None:
    """A buffer holds zeros or the packets of two steps before; as a term of a product, a tag is a finite number."""
    headers = (f'#include "{KERNELS / "rnn" / name}.cuh"' for name in ("cells", "products", "tiles"))
    kernel = "KERNEL tags(int32* x, int64 size) { for (int i = 0; i < size; ++i) x[i] = int32(tag_of(i)); }"
    source = programs / "tags.cu"
    source.write_text("\n".join([*headers, kernel, ""]))
    sizes = {"UNITS": 16, "ROW_WARPS": 1, "SPLIT": 1, "COLUMNS": 1, "HELD": 0, "JOINED": 1, "RESIDENT": 1, "TF32": 0}
    binary = program(source, programs, defines={"ELEMENT": "Half", "CELL": 0, "TAGGED": 1, **sizes})
    found = torch.full((3000,), -1, dtype=torch.int32)
    Host(programs).run(binary, "tags", (1,), (1,), (found, np.int64(len(found))))
    assert torch.all(found[:2] != 0) and torch.all(found[2:] != found[:-2])
    assert int(found.min()) >= 0 and int(found.max()) < 0x7C00


@pytest.mark.parametrize(("option", "on", "off"), [("allow_tf32", True, False), ("fp32_precision", "tf32", "ieee")])
def test_tf32_only_when_asked(option: str, on: Any, off: Any, device: str, launch: Any) -> None:
    launch()
    case = make("lstm", "", (3, 3, 1, 18), torch.float32, device)
    setattr(torch.backends.cuda.matmul, option, on)
    try:
        (h, *_), (dwx, *_) = run(case, **shapes(case, (2, 1, 1), 1, tensor_cores=True))
    finally:
        setattr(torch.backends.cuda.matmul, option, off)
    (expected, *_), (gradient, *_) = specified(case)
    assert 1e-6 < abs(array(h) - expected).max() < 4e-3
    assert 1e-6 < abs(array(dwx) - gradient).max() < 2e-2
    check(case, **shapes(case, (1, 2, 1), 1, units=12))


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize(("dtype", "warps"), [(torch.float32, (1, 2, 1)), (torch.bfloat16, (2, 1, 1))])
def test_under_sanitizers(
    sanitizer: str, dtype: torch.dtype, warps: tuple[int, int, int], device: str, launch: Any
) -> None:
    """Kernels with and without the ends of rows: under each sanitizer, and in each dtype."""
    launch(sanitizer)
    case = make("lstm", "", (3, 3, 1, 20), dtype, device)
    with_ends = (sanitizer == "address") == (dtype == torch.float32)
    check(case, **({"reverse": True, "lengths": [3, 1, 2]} if with_ends else {}), **shapes(case, warps, 1))
    if dtype == torch.float32:
        check(case, reverse=True, lengths=[3, 1, 2], **STEPWISE)


@every_cell
def test_a_step_at_a_time(cell: str, activation: str, device: str, launch: Any) -> None:
    launch()
    for how in ({}, {"lengths": [2, 0, 3], "reverse": True}, {"lengths": [2, 3, 1]}):
        check(make(cell, activation, (3, 3, 2, 17), torch.float32, device), **how, **STEPWISE)
    if cell in {"lstm", "slstm"}:
        check(make(cell, activation, (3, 2, 2, 17), torch.bfloat16, device, bare=True), **STEPWISE)
    check(make(cell, activation, (2, 0, 1, 5), torch.float32, device), **STEPWISE)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_packed_rows(reverse: bool, fused: bool, device: str, launch: Any) -> None:
    launch()
    like = make("gru", "", (4, 1, 1, 19), torch.float32, device)
    check_packed("gru", reverse, device, **(shapes(like, (1, 2, 1), 1) if fused else STEPWISE))


def test_which_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    installed, capability = {"cupy", "triton"}, (8, 0)
    monkeypatch.setattr(rnn_gpu, "is_installed", lambda name: name in installed)
    monkeypatch.setattr(rnn_gpu, "card", lambda r: SimpleNamespace(capability=capability))
    lstm, halves = CELLS["lstm"], torch.empty(0, dtype=torch.bfloat16)
    assert rnn_gpu.choose(lstm, halves, 64) == "cuda"
    capability = (7, 5)
    assert rnn_gpu.choose(lstm, halves, 128) == "triton"
    with pytest.raises(BackendError, match=r"^lstm: the CUDA kernels need .* 8.0 or more, got 7.5, and [^(]*$"):
        rnn_gpu.choose(lstm, halves, 129)
    installed.remove("cupy")
    assert rnn_gpu.choose(lstm, halves, 128) == "triton"
    for dtype, width in ((torch.float64, 16), (torch.bfloat16, 129), (torch.float32, 129)):
        with pytest.raises(
            BackendError, match=rf"lstm: .* CuPy, .* not installed, and Triton's do not reach {dtype} with D = {width}"
        ):
            rnn_gpu.choose(lstm, torch.empty(0, dtype=dtype), width)
    installed.clear()
    with pytest.raises(BackendError, match=r"CuPy, .*, nor is Triton .* \(pip install fastiter-kernels\[gpu\]\)"):
        rnn_gpu.choose(lstm, torch.empty(0), 16)


def test_every_width_has_a_launch() -> None:
    """The launch is fused if r fits on the card: a block in its shared memory, a head in its multiprocessors."""
    for (size, cell), D, backward in itertools.product(
        ((2, "slstm"), (4, "gru"), (8, "elman_relu")), (1, 100, 257, 768), (False, True)
    ):
        device, problem = DEVICES["H100"], launch_plan.Problem(cell, D, 1, 16, size, size == 2, backward)
        plan = launch_plan.plan(problem, device)
        if size == 8 and D > 64 and plan is None:
            continue  # a step at a time, since its sums alone fill the shared memory
        assert plan is not None, problem
        assert plan.shared <= device.block_shared and plan.blocks <= device.sms * plan.resident
        assert plan.padded >= problem.terms and plan.units * plan.blocks >= D
        assert launch_plan.plan(launch_plan.Problem(cell, 8192, 1, 16, size, size == 2, backward), device) is None


@pytest.mark.parametrize("cell", ["lstm", "slstm", "gru", "elman_tanh"])
def test_a_fused_plan_is_launched_fused(cell: str) -> None:
    """The kernel needs more registers than the tuner counts; where its plan does not fit, another one is found."""
    sizes = itertools.product((4, 32), (False, True))
    for (k, (rows, backward)), D in itertools.product(enumerate(sizes), range(152, 400, 24)):
        if k % 3 != D // 24 % 3:
            continue  # a third of the widths for each pair, some on each device
        device = DEVICES["A100" if D % 16 == 0 else "H100"]  # without clusters, and with
        problem = launch_plan.Problem(cell, D, 2, rows, 2, True, backward)
        promised = rnn_plan(device, **launch_plan._requested(problem)).variant == "fused"
        plan = launch_plan.plan(problem, device)
        assert plan is not None or not promised, problem
        if plan is not None:
            held = (plan.units, plan.row_warps, plan.split, plan.columns, plan.resident)
            exchange: Exchange = "cluster" if plan.clustered else "memory" if plan.blocks > 1 else "none"
            assert 0 <= plan.in_registers <= max(launch_plan.room(problem, *held, exchange), 0)
            assert plan.resident * (plan.shared + 1024) <= device.shared and plan.shared <= device.block_shared
            places = -(-D // 7) * 8 if plan.tagged else D
            assert plan.padded >= problem.terms
            assert plan.blocks == -(-places // plan.units) <= device.sms * plan.resident
            assert not plan.clustered or (device.capability >= (9, 0) and 2 <= plan.blocks <= 16)


def test_heads_above_96_are_clusters_where_there_are() -> None:
    """The blocks of a head meet in a cluster in a fourth of the time that a barrier of the grid takes."""
    small = dataclasses.replace(DEVICES["H100"], capability=(12, 0))  # not sure to run more than 8 blocks
    for D, backward in itertools.product((104, 128, 192, 256, 384, 512), (False, True)):
        problem = launch_plan.Problem("lstm", D, max(1, 768 // D), 16, 2, True, backward, True)
        plans = [launch_plan.plan(problem, device) for device in (DEVICES["A100"], DEVICES["H100"], small)]
        assert [plan is not None and plan.clustered for plan in plans[:2]] == [False, True]
        for plan in plans:
            assert plan is not None and (plan.blocks <= 8 or plan is not plans[2] or not plan.clustered)
            assert plan.defines()["JOINED"] == (plan.blocks > 1 and not plan.clustered)
            assert plan.defines().get("CLUSTER", 1) == (plan.blocks if plan.clustered else 1)


@pytest.mark.parametrize("cell", ["lstm", "slstm", "gru", "elman_tanh"])
def test_small_heads_have_one_block_of_many_warps(cell: str) -> None:
    """A barrier between blocks takes longer than the cells of two elements."""
    for D, backward, plain in itertools.product((7, 16, 40, 64), (False, True), (False, True)):
        plan = launch_plan.plan(launch_plan.Problem(cell, D, 12, 16, 2, True, backward, plain), DEVICES["H100"])
        assert plan is not None and plan.blocks == 1 and plan.units * plan.rows <= 2 * plan.threads
