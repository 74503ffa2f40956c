"""The path from a call to a GPU, as far as it can be tested without one: CuPy arrays, launches, the cache."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.util
import inspect
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastiter
import fastiter.quant
import fastiter.relax
from fastiter import _backend, _cuda, _nvrtc
from fastiter._backend import BackendError, availability

torch = pytest.importorskip("torch")
_gpu = pytest.importorskip("fastiter._torch.launch")


class Array:
    """The part of CuPy's array that fastiter uses, in CPU memory."""

    __module__ = "cupy"

    device = types.SimpleNamespace(id=1)

    def __init__(self, values: Any) -> None:
        self.values = np.array(values)

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.values.__dlpack_device__()


class DriverError(Exception):
    """Stand-in for CuPy's driver error."""


class Function:
    """Stand-in for CuPy's RawKernel that records its launches."""

    max_dynamic_shared_size_bytes = shared_size_bytes = 0

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int) -> None:
        self.launched = (grid, block, args, shared_mem)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return a stand-in for the module cupy that needs no GPU."""
    module = types.ModuleType("cupy")
    module.__spec__ = types.SimpleNamespace()
    module.from_dlpack = lambda x: Array(x.numpy())
    module.function = Function()
    module.loaded = []

    def raw_module(**options: Any) -> Any:
        module.loaded.append(options)
        return types.SimpleNamespace(get_function=lambda name: module.function)

    module.RawModule = raw_module

    class Device(contextlib.nullcontext):
        compute_capability = "90"
        attributes = types.MappingProxyType({"MaxSharedMemoryPerBlockOptin": 227 << 10})

    module.cuda = types.SimpleNamespace(
        get_current_stream=lambda device: types.SimpleNamespace(ptr=0),
        Device=Device,
        Stream=types.SimpleNamespace(from_external=contextlib.nullcontext),
        driver=types.SimpleNamespace(CUDADriverError=DriverError),
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    module.streams = []
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer, device: module.streams.append((pointer, device)))
    for guard in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, guard, contextlib.nullcontext)
    monkeypatch.setattr(_cuda, "is_installed", lambda package: True)
    _cuda.architecture.cache_clear()
    _cuda._function.cache_clear()
    yield module
    _cuda.architecture.cache_clear()
    _cuda._function.cache_clear()


def test_arrays_of_cupy_go_through_torch(cupy: types.ModuleType) -> None:
    rng = np.random.default_rng(0)
    wx, r, c = rng.standard_normal((2, 3, 4, 1, 5)), rng.standard_normal((4, 1, 5, 5)), rng.standard_normal((2, 1, 5))
    h, (last_h, last_c) = fastiter.lstm(Array(wx), r=Array(r), state=(Array(c), Array(c)), lengths=[3, 2])
    expected, states = fastiter.lstm(wx, r, state=(c, c), lengths=[3, 2])
    assert isinstance(h, Array) and cupy.streams == [(0, 1)]
    for found, array in zip((h, last_h, last_c), (expected, *states), strict=True):
        np.testing.assert_array_equal(found.values, array)


def test_codes_of_cupy_are_packed(cupy: types.ModuleType) -> None:
    codes = np.arange(13, dtype=np.uint8) % 4
    packed = fastiter.quant.pack(Array(codes), "fixed<3,1>")
    np.testing.assert_array_equal(packed.values, fastiter.quant.pack(codes, "fixed<3,1>"))
    np.testing.assert_array_equal(fastiter.quant.unpack(packed, "fixed<3,1>", 13).values, codes)


def test_statistics_of_newtons_method_are_cupy_arrays(cupy: types.ModuleType) -> None:
    wx, a = np.zeros((2, 3, 3, 4)), np.zeros((3, 4))
    *_, info = fastiter.paragru(Array(wx), Array(a), method="newton", return_info=True)
    assert info.steps.values.tolist() == [1, 1] and info.fallbacks.values.tolist() == [0, 0]


class Matrix:
    """The part of CuPy's sparse matrix that fastiter uses."""

    __module__ = "cupyx.scipy.sparse"

    def __init__(self, dense: Any) -> None:
        row, column = np.nonzero(dense)
        self.shape = dense.shape
        self.indptr = Array(np.searchsorted(row, np.arange(len(dense) + 1)).astype(np.int32))
        self.indices, self.data = Array(column.astype(np.int32)), Array(dense[row, column])

    def tocsr(self) -> Matrix:
        return self


@pytest.mark.parametrize("name", ["jacobi", "block_jacobi", "gauss_seidel", "sor", "ssor", "kaczmarz", "chebyshev"])
def test_systems_of_cupy_go_through_torch(cupy: types.ModuleType, name: str) -> None:
    A, b = 2 * np.eye(9) - np.eye(9, k=1) - np.eye(9, k=-1), np.random.default_rng(0).standard_normal((9, 2))
    solve = getattr(fastiter.relax, name)
    options: dict[str, Any] = {"max_steps": 40, **({"block_size": 2} if name == "block_jacobi" else {})}
    with pytest.warns(fastiter.ConvergenceWarning, match=f"^{name}: "):
        expected = solve(A, b, **options)
    for matrix in (Matrix(A), Array(A)):
        with pytest.warns(fastiter.ConvergenceWarning, match=f"^{name}: "):
            found = solve(matrix, b=Array(b), x0=Array(np.zeros_like(b)), **options)
        np.testing.assert_allclose(found.value.values, expected.value, rtol=1e-12, atol=1e-12)
        assert np.array_equal(found.steps, expected.steps) and isinstance(found.residual, np.ndarray)
    assert cupy.streams == [(0, 1)] * 2


def test_other_relaxations_name_the_functions_that_accept_cupy(cupy: types.ModuleType) -> None:
    A = Matrix(np.eye(3))
    for name, call in (
        ("Relaxation", lambda: fastiter.relax.Relaxation(A)),
        ("ssor_cg", lambda: fastiter.relax.ssor_cg(A, np.ones(3))),
        ("flexible_cg", lambda: fastiter.relax.flexible_cg(A, np.ones(3))),
    ):
        with pytest.raises(BackendError, match=rf"^{name}: A must be NumPy's or SciPy's, got Matrix of CuPy"):
            call()


NAMES = ["lstm", "gru", "elman", "slstm", "linear_scan", "block_scan", "delta_scan", "paragru", "paralstm", "paraslstm"]


@pytest.mark.parametrize("name", [*NAMES, "quantize", "encode"])
def test_functions_accept_cupy(cupy: types.ModuleType, name: str) -> None:
    function = getattr(fastiter, name, None) or getattr(fastiter.quant, name)
    needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    with pytest.raises(BackendError, match=f"^{name}: backend must be None for CuPy arrays, whose device decides, got"):
        function(*[Array([1.0])] * len(needed), backend="cpu")


def test_cupy_without_torch(cupy: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "is_installed", lambda package: False)
    with pytest.raises(
        BackendError, match=r"^unpack: CuPy arrays need torch, which launches .* fastiter-kernels\[gpu\]\)$"
    ):
        fastiter.quant.unpack(Array([1]), "fixed<3,1>", 1)
    with pytest.raises(BackendError, match=r"^sor: CuPy arrays need torch"):
        fastiter.relax.sor(Matrix(np.eye(3)), np.ones(3))


def test_options_reach_the_function_of_tensors(cupy: types.ModuleType) -> None:
    """No option has its default value, so that a lost one changes the result or its shape."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 6, 3))
    cut = {"reset": np.arange(6) == 3, "cu_seqlens": [0, 2, 6]}
    wx, r, p = rng.standard_normal((1, 6, 3, 3)), rng.standard_normal((3, 3)), rng.standard_normal((2, 3))
    calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
        (fastiter.elman, (wx[:, :, :1, None], r[None, None]), {"activation": "relu", "clip_state": 0.5, **cut}),
        (fastiter.gru, (wx[:, :, :, None], r[None, None].repeat(3, 0)), {"reverse": True, "return_all_states": True}),
        (fastiter.linear_scan, (x, x), {"reverse": True, **cut}),
        (fastiter.delta_scan, (wx, wx, wx, x), {"decay": x, "method": "chunk", "chunk": 3, **cut}),
        (fastiter.paralstm, (wx, r, p), {"method": "newton", "window": 2, "rtol": 0.1, "return_info": True}),
        (fastiter.paralstm, (wx, r, p), {"lengths": [4], "reverse": True}),
        (fastiter.quant.quantize, (x, fastiter.quant.Int(8)), {"scale": 0.5, "zero_point": 3, "nan": 1.0}),
        (fastiter.quant.quantize, (x, "mxfp4_e2m1"), {"axis": 1}),
        (fastiter.quant.encode, (x, "fixed<8,4,STOCHASTIC>"), {"rng": 7, "scale": 0.5}),
        (
            fastiter.quant.decode,
            (np.arange(8, dtype=np.int8), fastiter.quant.Int(8)),
            {"scale": 0.5},
        ),
    ]
    for function, arrays, options in calls:
        on_card = {name: Array(y) if isinstance(y, np.ndarray) else y for name, y in options.items()}
        given = [Array(y) if isinstance(y, np.ndarray) else y for y in arrays]
        for found, expected in zip(
            leaves(function(*given, **on_card)), leaves(function(*arrays, **options)), strict=True
        ):
            np.testing.assert_array_equal(found.values if isinstance(found, Array) else found, expected)


def leaves(x: Any) -> Iterator[Any]:
    """Yield the elements of tuples and dataclasses, at any depth."""
    if dataclasses.is_dataclass(x):
        x = tuple(vars(x).values())
    if isinstance(x, tuple):
        for part in x:
            yield from leaves(part)
    else:
        yield x


def test_options_that_tensors_do_not_have_are_refused(cupy: types.ModuleType) -> None:
    wx, r = Array(np.zeros((1, 2, 1, 1, 3))), Array(np.zeros((1, 1, 3, 3)))
    with pytest.raises(ValueError, match=r"^elman: out must have shape"):
        fastiter.elman(wx, r, out=wx)
    with pytest.raises(TypeError, match="unexpected keyword argument 'counts'"):
        fastiter.quant.quantize(wx, "e4m3fn", counts=True)


def test_gpu_backends_require_gpu_arrays() -> None:
    with pytest.raises(BackendError, match=r"elman: backend must be .* for NumPy arrays \(CuPy .*, got 'cuda'"):
        fastiter.elman(np.ones((1, 1, 1, 1, 1)), np.ones((1, 1, 1, 1)), backend="cuda")


SOURCE = "KERNEL twice(float* x, int64 n) { if (threadIdx.x < n) x[threadIdx.x] *= SCALE; }\n"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with one source file, and an empty cache."""
    for folder in ("common", "some"):
        (tmp_path / folder).mkdir()
    (tmp_path / "common" / "device.cuh").write_text((_nvrtc.SOURCES / "common" / "device.cuh").read_text())
    (tmp_path / "some" / "twice.cu").write_text(SOURCE)
    monkeypatch.setattr(_nvrtc, "SOURCES", tmp_path)
    monkeypatch.setenv("FASTITER_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_cubins_are_kept(sources: Path) -> None:
    first = _nvrtc.cubin("some/twice", "sm_90", {"SCALE": 2})
    told = first.stat().st_mtime_ns
    assert first.read_bytes()[:4] == b"\x7fELF"
    assert _nvrtc.cubin("some/twice", "sm_90", {"SCALE": 2}) == first and first.stat().st_mtime_ns == told
    others = {_nvrtc.cubin("some/twice", "sm_80", {"SCALE": 2}), _nvrtc.cubin("some/twice", "sm_90", {"SCALE": 3})}
    (sources / "some" / "twice.cu").write_text(SOURCE.replace("twice(", "twice( "))
    others.add(_nvrtc.cubin("some/twice", "sm_90", {"SCALE": 2}))
    assert len(others | {first}) == 4 and not list((sources / "cache").glob("*.part"))


def test_compile_errors_name_the_line(sources: Path) -> None:
    with pytest.raises(BackendError, match=r"some/twice.cu does not compile for sm_90: (.|\n)*twice.cu\(1\).*SCALE"):
        _nvrtc.cubin("some/twice", "sm_90")


def test_a_launch(sources: Path, cupy: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=7))
    x = torch.ones(4)
    for shared in (0, 64 << 10):
        args = (x, np.int64(4), None)
        _gpu.launch_cuda(
            "some/twice", "twice", (2,), (32, 1), args, shared=shared, cooperative=True, defines={"SCALE": 2}
        )
        grid, block, numbers, given = cupy.function.launched
        assert (grid, block, given) == ((2, 1, 1), (32, 1, 1), shared)
        assert [(int(x), x.dtype) for x in numbers] == [(x.data_ptr(), "u8"), (4, "i8"), (0, "u8")]
    assert cupy.function.max_dynamic_shared_size_bytes == 227 << 10
    assert {Path(options["path"]).parent for options in cupy.loaded} == {sources / "cache"}
    assert all(options["enable_cooperative_groups"] for options in cupy.loaded)


def test_old_cards_are_refused(cupy: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy.cuda.Device, "compute_capability", "75")
    with pytest.raises(BackendError, match=r"device 0 must have compute capability 8.0 or more, got 7.5; move the"):
        _cuda.architecture(0)


def test_old_drivers_are_refused(sources: Path, cupy: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise DriverError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")

    monkeypatch.setattr(cupy, "RawModule", lambda **options: types.SimpleNamespace(get_function=refuse))
    with pytest.raises(
        BackendError, match=r"the driver does not load some/twice.cu as NVRTC .*: update the driver .*VERSION"
    ):
        _cuda.launch("some/twice", "twice", (1,), (1,), (), device=0, stream=0, defines={"SCALE": 2})


def test_a_cupy_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('libcudart.so.13')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_cuda, "is_installed", lambda package: True)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.raises(BackendError, match=r"cannot be imported, check the driver with nvidia-smi .*libcudart.so.13"):
        _cuda.cupy()


def test_sources_are_compiled_in_parallel(sources: Path, cupy: types.ModuleType) -> None:
    _cuda.compile_all([("some/twice", {"SCALE": scale}) for scale in range(4)])
    assert len(list((sources / "cache").glob("some-twice-sm_90-*.cubin"))) == 4


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_cuda, _gpu):
        monkeypatch.setattr(module, "is_installed", lambda package: False)
    with pytest.raises(
        BackendError, match=r"CuPy loads the kernels and is not installed \(pip install fastiter-kernels\[gpu\]"
    ):
        _cuda.cupy()
    with pytest.raises(BackendError, match=r"lstm: Triton compiles the GPU kernels and is not installed"):
        _gpu.triton_kernels("lstm", "rnn")


class Driver:
    """Stand-in for NVIDIA's driver library on a machine with two cards."""

    def __init__(self, *capabilities: tuple[int, int]) -> None:
        self.capabilities = capabilities

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.capabilities)
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = number
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = self.capabilities[device.value][attribute - 75]
        return 0


def test_config_lists_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace())
    told = "needs a card of compute capability 8.0 or more, and finds 7.5"
    for cards, state in [
        ((), "the NVIDIA driver finds no card"),
        (((7, 0), (7, 5)), told),
        (((7, 5), (10, 0)), "available"),
    ]:
        monkeypatch.setattr(ctypes, "CDLL", lambda name, cards=cards: Driver(*cards))
        found = availability()
        assert found["cuda"] == state and found["triton"] == ("available" if cards else state)


def test_config_names_missing_packages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cupy" else find(name))
    fastiter.show_config()
    assert "backend       cuda: cupy not installed (pip install fastiter-kernels[gpu])" in capsys.readouterr().out


#: Ops for CPU tensors: on other devices their callers use torch's functions, or the original ones
CPU_ALONE = {f"fastiter::_{name}_{way}" for name in ("elementwise", "gate", "wkv") for way in ("fwd", "bwd")}


def test_the_facade_registers_every_op_for_cards() -> None:
    """In a separate process: tests import the modules that register ops, which users do not."""
    program = (
        "import torch, fastiter.torch\n"
        "names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith('fastiter::')]\n"
        "print(len(names))\n"
        "print(*[name for name in names if not torch._C._dispatch_has_kernel_for_dispatch_key(name, 'CUDA')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, without = done.stdout.splitlines()
    assert int(count) > 30
    assert set(without.split()) == CPU_ALONE
