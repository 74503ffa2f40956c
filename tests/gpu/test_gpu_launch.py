"""A kernel's limit of dynamic shared memory, the libraries that NVRTC needs, and the tests' settings on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastiter import _cuda, _nvrtc
from fastiter._backend import BackendError, is_installed

torch = pytest.importorskip("torch")

from fastiter._torch import launch  # noqa: E402
from fastiter.mdp._torch import gpu as mdp  # noqa: E402
from fastiter.rnn._cells import CELLS  # noqa: E402
from fastiter.rnn._torch._gpu import cuda as rnn_cuda  # noqa: E402
from fastiter.rnn._torch._gpu import kernels, launch_plan  # noqa: E402
from fastiter.rnn._torch._gpu import triton as rnn  # noqa: E402
from fastiter.tune import DEVICES  # noqa: E402

H100 = DEVICES["H100"]


class OnSecondCard(torch.Tensor):  # type: ignore[misc]
    """A tensor that says that it is on the second card."""

    device, is_cuda = torch.device("cuda:1"), True


class Function:
    """A function of a loaded module that refuses a launch with more dynamic shared memory than its limit."""

    shared_size_bytes = 128  # static

    def __init__(self) -> None:
        self._limit = 48 << 10
        self.kernel = types.SimpleNamespace(ptr=id(self))

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._limit

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, limit: int) -> None:
        if limit + self.shared_size_bytes > H100.block_shared:
            raise ValueError("CUDA_ERROR_INVALID_VALUE: more than the device allows")
        self._limit = limit

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int) -> None:
        if shared_mem > self._limit:
            raise ValueError(f"CUDA_ERROR_INVALID_VALUE: {shared_mem} bytes with a limit of {self._limit}")


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """Return a stand-in for CuPy on an H100, which keeps one module for each path as CuPy does."""
    module, modules = types.ModuleType("cupy"), dict[tuple[str, bool], Function]()
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]

    def raw_module(path: str, enable_cooperative_groups: bool) -> Any:
        function = modules.setdefault((path, enable_cooperative_groups), Function())
        return types.SimpleNamespace(get_function=lambda name: function)

    class Device(contextlib.nullcontext[None]):
        compute_capability = "90"
        attributes = types.MappingProxyType({"MaxSharedMemoryPerBlockOptin": H100.block_shared})

    module.RawModule = raw_module  # type: ignore[attr-defined]
    module.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        Device=Device,
        Stream=types.SimpleNamespace(from_external=contextlib.nullcontext),
        driver=types.SimpleNamespace(CUDADriverError=RuntimeError),
    )
    module.attributes = {}  # type: ignore[attr-defined]
    module.cuda.driver.funcSetAttribute = lambda ptr, name, value: module.attributes.update({ptr: (name, value)})
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(_cuda, "is_installed", lambda package: True)
    monkeypatch.setattr(_nvrtc, "cubin", lambda stem, arch, defines: f"{stem}-{arch}-{sorted(defines.items())}")
    for cache in (_cuda.architecture, _cuda._function):
        cache.cache_clear()
    yield module
    for cache in (_cuda.architecture, _cuda._function):
        cache.cache_clear()


def test_the_limit_serves_every_size(cupy: types.ModuleType) -> None:
    """Sizes in any order, with one kernel: no launch may lower the limit for another."""
    for sizes in itertools.permutations((50_000, 7, 231_000, 120_001, 0)):
        for shared in sizes:
            _cuda.launch("rnn/forward", "rnn_fwd", (1,), (32,), (), device=0, stream=0, shared=shared)


def test_widths_that_share_a_kernel(cupy: types.ModuleType) -> None:
    """Width is not a macro: some widths have the same kernel, and these need the same amount of shared memory."""
    shared: dict[tuple[tuple[str, object], ...], dict[int, int]] = {}
    for width, backward in itertools.product(range(560, 800, 16), (False, True)):
        plan = launch_plan.plan(launch_plan.Problem("lstm", width, 1, 8, 2, True, backward), H100)
        if plan is not None:
            shared.setdefault(tuple(sorted(plan.defines().items())), {})[width] = plan.shared
    assert any(len(widths) > 1 for widths in shared.values())
    for kernel, widths in shared.items():
        assert len(set(widths.values())) == 1, widths
        for size in widths.values():
            _cuda.launch("k", "k", (1,), (32,), (), device=0, stream=0, shared=size, defines=dict(kernel))


def test_a_card_without_room_for_all_blocks_is_named(cupy: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the multi-process service, which gives a process some multiprocessors while the driver reports all."""

    def refuse(self: Function, *args: Any, **options: Any) -> None:
        raise RuntimeError("CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE: too many blocks in cooperative launch")

    monkeypatch.setattr(Function, "__call__", refuse)
    given: dict[str, Any] = {"device": 0, "stream": 0, "cooperative": True}
    with pytest.raises(BackendError, match=r"rnn/forward.cu needs all of its 96 blocks at once on device 0, .*MPS"):
        _cuda.launch("rnn/forward", "rnn_fwd", (96,), (256,), (), **given)
    with pytest.raises(RuntimeError, match=r"^CUDA_ERROR_COOP"):  # not a cooperative launch: re-raised unchanged
        _cuda.launch("rnn/forward", "rnn_fwd", (96,), (256,), (), **{**given, "cooperative": False})


def test_large_clusters_are_requested(cupy: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel whose cluster has more than 8 blocks needs an attribute, CUfunction_attribute 14; others do not."""
    given: dict[str, Any] = {"device": 0, "stream": 0}
    for size in (1, 2, 8, 12, 16):
        cupy.attributes.clear()
        _cuda.launch("rnn/forward", "rnn_fwd", (48,), (256,), (), **given, defines={"CLUSTER": size})
        assert list(cupy.attributes.values()) == ([(14, 1)] if size > 8 else [])

    def refuse(self: Function, *args: Any, **options: Any) -> None:
        raise RuntimeError("CUDA_ERROR_INVALID_CLUSTER_SIZE: invalid cluster size")

    monkeypatch.setattr(Function, "__call__", refuse)
    with pytest.raises(BackendError, match=r"rnn/forward.cu needs clusters of 16 blocks of 256 threads, .*MIG"):
        _cuda.launch("rnn/forward", "rnn_fwd", (48,), (256,), (), **given, defines={"CLUSTER": 16})


@pytest.mark.parametrize(("code", "found"), [(0, 5), (912, 0)])
def test_the_driver_tells_how_many_clusters_fit(
    cupy: types.ModuleType, monkeypatch: pytest.MonkeyPatch, code: int, found: int
) -> None:
    asked: list[tuple[Any, ...]] = []

    def query(count: Any, function: Any, config: Any) -> int:
        config = config._obj
        asked.append((list(config.grid), list(config.block), config.shared, config.attributes, config.count))
        count._obj.value = 5
        return code

    monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace(cuOccupancyMaxActiveClusters=query))
    _cuda.active_clusters.cache_clear()
    arguments = ("rnn/forward", "rnn_fwd", 256, 1000, (("CLUSTER", "16"),))
    assert [_cuda.active_clusters(*arguments, 0) for _ in range(2)] == [found, found]
    assert asked == [([16, 1, 1], [256, 1, 1], 1000, None, 0)]
    code = 3
    with pytest.raises(BackendError, match=r"cannot tell how many clusters of rnn/forward.cu fit: error 3"):
        _cuda.active_clusters(*arguments, 1)
    _cuda.active_clusters.cache_clear()


@pytest.mark.parametrize("backward", [False, True])
def test_heads_exchange_through_memory_where_no_cluster_fits(monkeypatch: pytest.MonkeyPatch, backward: bool) -> None:
    """As on a part of a card, by MIG."""
    work = rnn_cuda.Work(CELLS["lstm"], 16, 64, 3, 256, 64, 1, *[None] * 6, False)
    r = torch.empty(4, 3, 256, 256, dtype=torch.bfloat16).as_subclass(OnSecondCard)
    monkeypatch.setattr(rnn_cuda, "card", lambda r: H100)
    fit = 0
    monkeypatch.setattr(launch, "active_clusters", lambda *kernel, **options: fit)
    shape = rnn_cuda.fused(work, r, backward)
    assert shape is not None and not shape.clustered and shape.blocks > 1
    fit = 1
    shape = rnn_cuda.fused(work, r, backward)
    assert shape is not None and shape.clustered


def test_builtins_are_loaded_before_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVRTC 13.0 opens them by name, without a folder, and so finds them only if they are already loaded."""
    names = ["libnvrtc.so.99", "libnvrtc-builtins.so.99.7"]
    for name in names:
        (tmp_path / name).touch()
    loaded: list[str] = []

    def load(name: str) -> Any:
        loaded.append(Path(name).name)
        return types.SimpleNamespace(nvrtcGetErrorString=types.SimpleNamespace())

    monkeypatch.setattr(_nvrtc, "_libraries", lambda: iter([str(tmp_path / names[0])]))
    monkeypatch.setattr(ctypes, "CDLL", load)
    _nvrtc._nvrtc.__wrapped__()
    assert loaded == names[::-1]


def test_tests_on_a_gpu_request_deterministic_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some enable torch's deterministic mode, where each product warns unless cuBLAS was configured before."""
    configure: Any = importlib.import_module("tests.conftest").pytest_configure
    for before, after in ((None, ":4096:8"), (":16:8", ":16:8")):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        if before:
            monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before)
        configure(types.SimpleNamespace(option=types.SimpleNamespace(markexpr="gpu", collectonly=True)))
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == after


class Runtime:
    """Stand-in for CUDA's current device: since CUDA 12, making a device current creates a context there."""

    def __init__(self) -> None:
        self.current, self.contexts = 0, set[int]()

    def set(self, device: int) -> None:
        self.current = device
        self.contexts.add(device)

    @contextlib.contextmanager
    def guard(self, device: Any) -> Iterator[None]:
        """Torch's guard, which makes the former device current again only if it has a context."""
        before = self.current
        self.set(torch.device(device).index)
        yield
        if before in self.contexts:
            self.set(before)


def test_a_launch_creates_no_context_on_another_card(cupy: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()

    class Device(cupy.cuda.Device):  # type: ignore[misc, name-defined]
        """CuPy's guard, which always makes the former device current again."""

        def __enter__(self) -> None:
            self.before = runtime.current
            runtime.set(self.enter_result)

        def __exit__(self, *error: object) -> None:
            runtime.set(self.before)

    monkeypatch.setattr(cupy.cuda, "Device", Device)
    monkeypatch.setattr(torch.cuda, "device", runtime.guard)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=7))
    x = torch.empty(3).as_subclass(OnSecondCard)
    launch.launch_cuda("rnn/forward", "rnn_fwd", (1,), (32,), (x,))
    assert runtime.contexts == {1}


def test_the_installed_cupy_takes_streams_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a launch asks of CuPy is deprecated; without a driver the stream itself is not entered."""
    cupy = pytest.importorskip("cupy")
    launched, entered = [], []
    monkeypatch.setattr(_cuda, "_function", lambda *key: lambda *call, **options: launched.append(call))
    if not cupy.cuda.is_available():
        monkeypatch.setattr(cupy.cuda, "Device", contextlib.nullcontext)
        from_external = cupy.cuda.Stream.from_external
        taken = lambda stream: entered.append(from_external(stream).ptr) or contextlib.nullcontext()  # noqa: E731
        monkeypatch.setattr(cupy.cuda, "Stream", types.SimpleNamespace(from_external=taken))
    else:
        entered.append(0)
    _cuda.launch("rnn/forward", "rnn_fwd", (1,), (32,), (np.int64(3),), device=0, stream=0)
    assert entered == [0] and launched == [((1, 1, 1), (32, 1, 1), (np.int64(3),))]


def test_packages_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: searched.append(name))
    is_installed.cache_clear()
    for _ in range(2):
        with pytest.raises(BackendError, match="CuPy loads the kernels and is not installed"):
            _cuda.cupy()
        with pytest.raises(BackendError, match="lstm: the CUDA kernels need CuPy, which is not installed, nor is"):
            kernels.choose(CELLS["lstm"], torch.empty(1), 16)
    is_installed.cache_clear()
    assert searched == ["cupy", "triton"]


class Kernels:
    """Stands for a module of Triton kernels, and records the grids of their launches."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> Kernels:
        return self

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grids.append(grid)
        return lambda *args, **how: None


def sweep_of_many_models(models: int) -> None:
    entry, target, value = torch.empty(3, device="meta"), torch.empty(4, device="meta"), torch.empty(4, device="meta")
    model = mdp.CardModel(None, entry, target, value, torch.empty(2, device="meta"))
    v = torch.empty((models, 2), device="meta")
    model.sweep(v, v, None, torch.empty(1, device="meta"))


def steps_of_many_rows(rows: int) -> None:
    cell = types.SimpleNamespace(name="lstm", gates=4, code=2)
    names = "lengths starts offsets reset clip_state clip_grad time row step reverse"
    work = types.SimpleNamespace(cell=cell, batch=rows, heads=3, width=8, **dict.fromkeys(names.split(), 0))
    for name in ("rnn_fwd_kernel", "rnn_bwd_kernel"):
        rnn._launch(name, work, torch.empty(0, device="meta"), [])  # type: ignore[arg-type]


def test_more_heads_than_an_axis_has_are_refused() -> None:
    work = types.SimpleNamespace(cell=types.SimpleNamespace(name="gru"), heads=2**16)
    with pytest.raises(BackendError, match=r"^gru: r must have at most 65535 heads for Triton's kernels, got 65536$"):
        rnn._launch("rnn_fwd_kernel", work, torch.empty(0), [])  # type: ignore[arg-type]


@pytest.mark.parametrize(("call", "size"), [(sweep_of_many_models, 2**16 + 3), (steps_of_many_rows, 2**20 + 1)])
def test_grids_of_large_problems_are_within_the_limits(call: Any, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA allows 2**31 - 1 blocks along axis 0, and 65,535 along the others."""
    launched = Kernels()
    monkeypatch.setattr(launch, "triton_kernels", lambda function, stem: launched)
    call(size)
    assert launched.grids
    for first, *others in launched.grids:
        assert 0 < first < 2**31 and all(0 < count < 2**16 for count in others)
