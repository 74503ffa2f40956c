"""The library of fastiter's private torch ops, and helpers for them: dispatch, strides, allocation, tensor checks."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from .. import _core
from .._backend import BackendError
from .._check import at_index, integers
from .._sequences import check_bounds, check_bounds_shape, check_lengths, check_reset_shape

Result = TypeVar("Result")
MaybeTensor = TypeVar("MaybeTensor", bound="Tensor | None")

_core.use_tensors(Tensor.__dlpack_c_exchange_api__, Tensor, torch.nn.Parameter)  # type: ignore[attr-defined]


class _Library(torch.library.Library):
    """A Library that hides its CPU and CUDA kernels from Dynamo after a graph break.

    Dynamo would compile parts of them and, under torch.func, pass wrapper tensors, which have no memory, to kernels.
    """

    def impl(self, op_name: Any, fn: Any, dispatch_key: str = "", **more: Any) -> Any:
        its = _untraced(op_name, fn) if dispatch_key in ("CPU", "CUDA") else fn
        return super().impl(op_name, its, dispatch_key, **more)

    def _register_fake(self, op_name: str, fn: Any, _stacklevel: int = 1, **more: Any) -> Any:
        return super()._register_fake(op_name, _falling_back(op_name, fn), _stacklevel + 1, **more)  # type: ignore[misc]


@functools.cache
def _list_arguments(op_name: str) -> frozenset[int]:
    """Return the positions of an op's list arguments."""
    arguments = getattr(torch.ops.fastiter, op_name).default._schema.arguments
    return frozenset(at for at, one in enumerate(arguments) if isinstance(one.type, torch.ListType))


def _untraced(op_name: str, implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Hide an implementation from Dynamo, and pass it [] for the None that AOTInductor passes for an empty list."""

    @functools.wraps(implementation)
    def with_lists(*args: Any) -> Any:
        lists = _list_arguments(op_name)
        return implementation(*[[] if x is None and at in lists else x for at, x in enumerate(args)])

    return untraced(with_lists)


def untraced(function: Callable[..., Result]) -> Callable[..., Result]:
    """Hide a function that runs eagerly, after a graph break, from Dynamo, which would compile parts of it."""
    disabled: list[Callable[..., Result]] = []

    @functools.wraps(function)
    def call(*args: Any) -> Result:
        dynamo = sys.modules.get("torch._dynamo")  # not imported here, as that takes longer than everything else
        if dynamo is None:
            return function(*args)
        if not disabled:
            disabled.append(dynamo.disable(function))
        return disabled[0](*args)

    return call


def _falling_back(op_name: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the fake version of an op so that it registers a fallback in Inductor, if Inductor is loaded.

    Inductor falls back by itself unless ``torch._inductor.config.implicit_fallbacks`` is off. It traces with the fake
    versions before it looks up an op's lowering. It is not imported just for this.
    """

    @functools.wraps(fake)
    def call(*args: Any, **named: Any) -> Any:
        lowering: Any = sys.modules.get("torch._inductor.lowering")
        if hasattr(lowering, "make_fallback"):
            op = getattr(torch.ops.fastiter, op_name).default
            if op not in lowering.lowerings:
                # the generated code assumes the strides of the fake outputs, so inputs must keep their strides as well
                lowering.make_fallback(op, layout_constraint=lowering.constrain_to_fake_tensors, warn=False)
        return fake(*args, **named)

    return call


#: The library of all ops; each family defines its own in it.
LIBRARY = _Library("fastiter", "DEF")

FLOATS = (torch.float32, torch.float64)
#: The dtypes of GPU kernels that also take 16-bit floats.
GPU_FLOATS = (*FLOATS, torch.bfloat16, torch.float16)
#: The device types of a family's tensors: without and with GPU kernels.
CPU, CPU_AND_CUDA = ("cpu", "meta"), ("cpu", "cuda", "meta")
_ORDINARY = (Tensor, torch.nn.Parameter)


def check_tensors(
    function: str,
    names: Sequence[str],
    tensors: Sequence[Any],
    dtypes: Sequence[torch.dtype] = FLOATS,
    devices: Sequence[str] = CPU,
) -> None:
    """Check that all are tensors with the dtype and device of the first one, which the kernels must support."""
    dtype = getattr(tensors[0], "dtype", None)
    for x in tensors:
        if not isinstance(x, Tensor) or x.dtype != dtype or not x.is_cpu or x.layout != torch.strided or x.is_nested:
            break
    else:
        if dtype in dtypes:
            return
    _explain(function, names, tensors, dtypes, devices)


def check_entries(function: str, name: str, x: Tensor, good: Tensor, expected: str) -> None:
    """Check that ``good`` is True for all entries of ``x``, as for arrays; synchronizes."""
    if not bool(good.all()):
        where = tuple(torch.nonzero(~good)[0].tolist())
        raise ValueError(f"{function}: {name} must {expected}, got {x[where].item()}{at_index(where)}")


def check_dense(function: str, name: str, x: Tensor) -> None:
    """Refuse a tensor that is sparse, nested or has any other layout than strided."""
    if x.layout is not torch.strided or x.is_nested:
        got = "a nested one" if x.is_nested else f"layout {x.layout}"
        raise TypeError(f"{function}: {name} must be a dense tensor, got {got}")


def _explain(
    function: str,
    names: Sequence[str],
    tensors: Sequence[Any],
    dtypes: Sequence[torch.dtype],
    devices: Sequence[str],
) -> None:
    for name, x in zip(names, tensors, strict=False):
        if not isinstance(x, Tensor):
            raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type(x).__qualname__}")
        check_dense(function, name, x)
        if x.dtype not in dtypes:
            *others, last = map(str, dtypes)
            expected = f"{', '.join(others)} or {last}" if others else last
            raise TypeError(f"{function}: {name} must have dtype {expected}, got {x.dtype}")
        if x.dtype != tensors[0].dtype:
            raise TypeError(f"{function}: {name} must have dtype {tensors[0].dtype} like {names[0]}, got {x.dtype}")
        if x.device.type not in devices:
            expected = "the CPU or a CUDA device" if "cuda" in devices else "the CPU, as it has no GPU kernels yet"
            raise BackendError(f"{function}: {name} must be on {expected}; got device {x.device}")
        if x.device != tensors[0].device:
            raise BackendError(
                f"{function}: {name} must be on device {tensors[0].device} like {names[0]}, got {x.device}"
            )


#: Whether all tensors in a tuple of arguments, including its lists and tuples, are plain tensors in CPU memory
are_ordinary = _core.are_ordinary

_modes, _level = torch._C._len_torch_dispatch_stack, torch._C._functorch.maybe_current_level
_trace = torch._C._get_tracing_state


def unwatched() -> bool:
    """Return whether no tracing, dispatch mode or torch.func transform is active."""
    return not is_compiling() and _modes() == 0 and _level() is None and _trace() is None


def is_exporting() -> bool:
    """Return whether torch.export is tracing.

    Before torch 2.13, Dynamo evaluates ``torch.compiler.is_exporting()`` as True also under torch.compile, where the
    underlying flag is False.
    """
    return bool(torch.compiler._is_exporting_flag)


def exports_to_onnx() -> bool:
    """Return whether torch.onnx.export is recording."""
    records = is_exporting() if is_compiling() else _trace() is not None
    return records and torch.onnx.is_in_onnx_export()


def is_proxy(x: object) -> bool:
    """Return whether x is a Proxy, which torch.fx.symbolic_trace passes in place of a tensor."""
    from torch.fx import Proxy

    return isinstance(x, Proxy)


def grad_enabled() -> bool:
    """Return whether gradients may be requested. Exported graphs have none, and saving tensors would cost memory."""
    return torch.is_grad_enabled() and not torch.compiler._is_exporting_flag


def transformed() -> bool:
    """Return whether a transform of torch.func, such as grad or vmap, is active."""
    return _level() is not None


def refuse_transforms(function: str, reason: str = "") -> None:
    """Refuse a call inside a torch.func transform and, if a reason is given, inside torch.export.

    torch's own messages address the op's author, not the user.
    """
    if reason and torch.compiler._is_exporting_flag:
        raise RuntimeError(
            f"{function}: torch.export is not supported, {reason}; export what comes before and after it"
        )
    if _level() is not None:
        because = reason and f", {reason}"
        raise RuntimeError(
            f"{function}: torch.func transforms such as grad and vmap are not supported{because}; "
            "use torch.autograd.grad instead"
        )


def refuse_tangents(function: str, tensors: Iterable[Any]) -> None:
    """Refuse tensors of forward-mode derivatives, which a solver that has none would drop in silence."""
    able = (x for x in tensors if isinstance(x, Tensor) and x.layout == torch.strided)
    if any(forward_ad.unpack_dual(x).tangent is not None for x in able):
        raise NotImplementedError(f"{function}: forward-mode derivatives are not supported; use torch.autograd.grad")


def needs_no_dispatch(arguments: tuple[Any, ...]) -> bool:
    """Return whether an op's CPU implementation may be called directly.

    The dispatcher would take half the time of a small layer. It is needed only for tracing, transforms and wrapper
    tensors.
    """
    return unwatched() and are_ordinary(arguments)


def autocast_device(x: object) -> str:
    """Return the device type whose autocast applies to ``x``."""
    return "cuda" if isinstance(x, Tensor) and x.is_cuda else "cpu"


def autocast_dtype(x: object) -> torch.dtype | None:
    """Return autocast's dtype for the device of ``x``, None if autocast is off."""
    device = autocast_device(x)
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def autocast_to(x: Any, dtype: torch.dtype) -> Any:
    """Cast ``x`` to ``dtype`` as autocast does: unchanged if it is float64 or not a floating-point tensor."""
    is_cast = isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
    return x.to(dtype) if is_cast else x


def cast(x: MaybeTensor, dtype: torch.dtype) -> MaybeTensor:
    """Return x in a dtype; faster than ``x.to(dtype)`` if it has that dtype, as torch takes a microsecond to see it.

    None stays None.
    """
    return x if x is None or x.dtype is dtype else x.to(dtype)  # type: ignore[return-value]


def contiguous(x: MaybeTensor) -> MaybeTensor:
    """Return ``x``, or a copy, contiguous and with pending conjugation and negation resolved; None stays None."""
    if x is None:
        return x
    y: Any = x.resolve_conj().resolve_neg() if x.is_neg() or x.is_conj() else x
    return y.contiguous()  # type: ignore[no-any-return]


def all_contiguous(*tensors: Tensor | None) -> list[Any]:
    """Return the tensors, or copies, like :func:`contiguous`."""
    return list(map(contiguous, tensors))


def unit_stride(x: Tensor) -> Tensor:
    """Do the same, but require only the last axis to be contiguous (an axis of size 1 may have any stride)."""
    is_plain = not x.is_neg() and not x.is_conj()
    return x if is_plain and (x.stride()[-1] == 1 or x.shape[-1] == 1) else contiguous(x)


def checked_lengths(
    function: str, lengths: Tensor | Sequence[int], batch: int, time: int, device: torch.device
) -> Tensor:
    """Return a copy of the lengths of a batch's rows as an int64 tensor, checked.

    It may be on the CPU or on ``device``, the batch's device. Values on a GPU are not read, as that would synchronize:
    the op clamps them into range.
    """
    whole = checked_integers(function, "lengths", lengths, device)
    if is_compiling():
        return whole  # the values are unknown while tracing: the op checks them
    if not whole.is_cpu:
        check_lengths(function, tuple(whole.shape), 0, 0, batch, time)
        return whole
    shortest, longest = (int(whole.min()), int(whole.max())) if whole.numel() else (0, 0)
    check_lengths(function, tuple(whole.shape), shortest, longest, batch, time)
    return whole


def checked_bounds(function: str, cu_seqlens: Tensor | Sequence[int], time: int, device: torch.device) -> Tensor:
    """Return the bounds of concatenated sequences, checked like lengths by :func:`checked_lengths`."""
    bounds = checked_integers(function, "cu_seqlens", cu_seqlens, device)
    check_bounds_shape(function, bounds.shape)
    if bounds.is_cpu and not is_compiling():
        falls = bool((bounds[1:] < bounds[:-1]).any())
        check_bounds(function, bounds.shape, int(bounds[0]), int(bounds[-1]), falls, time)
    return bounds


def check_reset(
    function: str, reset: Any, x: Tensor, batch: int, time: int, name: str = "x", time_major: bool = False
) -> None:
    """Check the reset flags for the steps of x, the argument called ``name``."""
    if not isinstance(reset, Tensor):
        raise TypeError(f"{function}: reset must be a torch.Tensor of bool, got {type(reset).__qualname__}")
    if reset.dtype != torch.bool:
        raise TypeError(f"{function}: reset must be a torch.Tensor of bool, got dtype {reset.dtype}")
    if reset.device != x.device or reset.layout != torch.strided:
        expected, got = f"dense and on device {x.device} like {name}", f"{reset.layout} on {reset.device}"
        raise BackendError(f"{function}: reset must be {expected}, got {got}")
    check_reset_shape(function, reset.shape, batch, time, time_major)


def checked_integers(function: str, name: str, x: Tensor | Sequence[int], device: torch.device | None = None) -> Tensor:
    """Return a copy of ``x``, on the CPU or on ``device``, as int64, so that users cannot change it before backward."""
    if not isinstance(x, Tensor):
        x = torch.from_numpy(integers(function, name, x))
    if not x.is_cpu and x.device != device:
        expected = "the CPU" if device is None or device.type == "cpu" else f"the CPU or {device}"
        raise BackendError(f"{function}: {name} must be on {expected}, got device {x.device}")
    check_dense(function, name, x)
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{function}: {name} must be integers, got dtype {x.dtype}")
    return x.detach().resolve_neg().to(torch.int64, copy=True).contiguous()


#: Tensors of at least this many bytes reuse freed memory, whose pages are already mapped.
_LARGE = 1 << 20


def empty(
    x: Tensor, shape: Sequence[int], strides: Sequence[int] | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Return an uninitialised dense tensor on the device of ``x``, with its dtype unless another is given."""
    count = math.prod(shape)
    if (isinstance(count, int) and count < _LARGE // 8) or not is_large(x, count):
        if strides is None:
            return x.new_empty(shape, dtype=dtype)
        return x.new_empty_strided(shape, strides, dtype=dtype)
    size = x.element_size() if dtype is None else dtype.itemsize
    storage = torch.frombuffer(_core.Buffer(count * size), dtype=torch.uint8).untyped_storage()
    if strides is None:
        strides = dense_strides(shape)
    # set_ instead of a view, as views that autograd functions return cannot be changed in place
    return x.new_empty(0, dtype=dtype).set_(storage, 0, shape, strides)


def is_large(x: Tensor, count: int) -> bool:
    """Return whether :func:`empty` reuses memory for ``count`` elements of the dtype of ``x``."""
    ordinary = isinstance(count, int) and type(x) in _ORDINARY and x.is_cpu
    return ordinary and count * x.element_size() >= _LARGE


def own_copy(x: Tensor) -> Tensor:
    """Return a copy of a dense tensor, with the strides of ``x``.

    A backward pass that needs a result saves such a copy, as users may write to the result without autograd noticing,
    for instance through ``x.data`` or a NumPy array.
    """
    if not is_compiling() and is_large(x, x.numel()):
        return empty(x, x.shape, x.stride()).copy_(x)
    return x.clone()


def dense_strides(shape: Sequence[int]) -> list[int]:
    """Return the strides of a C-contiguous tensor."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return strides[::-1]


def empty_steps(x: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None, ahead: Sequence[int] = ()) -> Tensor:
    """Return a dense tensor (*ahead, B, T, ...) in which B and T have the same order in memory as in ``x``."""
    whole = (*ahead, *shape)
    if x.stride(1) <= x.stride(0):
        return empty(x, whole, None, dtype)
    (batch, time, *inner), at = shape, len(ahead)
    strides = dense_strides((*ahead, time, batch, *inner))
    strides[at : at + 2] = strides[at + 1], strides[at]
    return empty(x, whole, strides, dtype)


def empty_by_head(x: Tensor, lines: Sequence[int], inner: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a dense tensor (B, T, ..., N, D), or packed (M, ..., N, D), with heads and then time outermost in memory.

    This is the layout of tensors that only the kernels read: a head's step is contiguous, whereas rows whose stride is
    a power of two would map to the same few cache sets.
    """
    *gates, heads, width = inner
    head, *along, line = dense_strides((heads, *lines[::-1], math.prod(gates) * width))[:-1]
    *across, unit = dense_strides((*gates, width))
    return empty(x, (*lines, *inner), (line, *along[::-1], *across, head, unit), dtype)
