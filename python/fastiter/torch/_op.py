"""The private torch ops of fastiter, and what their implementations share: pointers, strides, checks of tensors."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_exporting

from .. import _core
from .._backend import BackendError
from .._check import integers
from .._rnn import check_lengths
from .._scan import check_bounds, check_bounds_shape, check_reset_shape

if hasattr(Tensor, "__dlpack_c_exchange_api__"):  # from torch 2.10 on
    _core.use_tensors(Tensor.__dlpack_c_exchange_api__, Tensor, torch.nn.Parameter)


class _Library(torch.library.Library):
    """A library whose implementations are not traced when they run inside of what torch.compile has given up on.

    It would compile the parts of them, and under torch.func hand wrappers of tensors, which have no memory, to kernels.
    """

    def impl(self, op_name: Any, fn: Any, dispatch_key: str = "", **more: Any) -> Any:
        its = _untraced(op_name, fn) if dispatch_key in ("CPU", "CUDA") else fn
        return super().impl(op_name, its, dispatch_key, **more)

    def _register_fake(self, op_name: str, fn: Any, _stacklevel: int = 1, **more: Any) -> Any:
        return super()._register_fake(op_name, _falling_back(op_name, fn), _stacklevel + 1, **more)  # type: ignore[misc]


@functools.cache
def _list_arguments(op_name: str) -> frozenset[int]:
    """Return the places of an op's arguments that are lists."""
    arguments = getattr(torch.ops.fastiter, op_name).default._schema.arguments
    return frozenset(at for at, one in enumerate(arguments) if isinstance(one.type, torch.ListType))


def _untraced(op_name: str, implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Return what torch calls: AOTInductor's packages hand over None for a list without tensors."""
    disabled: list[Callable[..., Any]] = []

    def with_lists(*args: Any) -> Any:
        lists = _list_arguments(op_name)
        return implementation(*[[] if x is None and at in lists else x for at, x in enumerate(args)])

    @functools.wraps(implementation)
    def call(*args: Any) -> Any:
        dynamo = sys.modules.get("torch._dynamo")  # importing it takes longer than all the rest
        if dynamo is None:
            return with_lists(*args)
        if not disabled:
            disabled.append(dynamo.disable(with_lists))
        return disabled[0](*args)

    return call


def _falling_back(op_name: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    """Return the fake version of an op, which tells Inductor, where it is loaded, to call the op as it is.

    Inductor does so by itself unless ``torch._inductor.config.implicit_fallbacks`` is off. It traces with fake versions
    before it looks for a way to write an op, and is not loaded for this alone.
    """

    @functools.wraps(fake)
    def call(*args: Any, **named: Any) -> Any:
        lowering: Any = sys.modules.get("torch._inductor.lowering")
        if hasattr(lowering, "make_fallback"):
            op = getattr(torch.ops.fastiter, op_name).default
            if op not in lowering.lowerings:
                # code that is generated for the strides of fake outputs has to pass on such strides, too
                lowering.make_fallback(op, layout_constraint=lowering.constrain_to_fake_tensors, warn=False)
        return fake(*args, **named)

    return call


#: The library of all ops; each family defines its own in it.
LIBRARY = _Library("fastiter", "DEF")

FLOATS = (torch.float32, torch.float64)
#: Those of GPU kernels that take halves.
GPU_FLOATS = (*FLOATS, torch.bfloat16, torch.float16)
#: Where a family's tensors may be, once it has kernels for them.
CPU, CPU_AND_CUDA = ("cpu", "meta"), ("cpu", "cuda", "meta")
_ORDINARY = (Tensor, torch.nn.Parameter)

Steps = tuple[()] | tuple[int, int, int, int, int]


def check_tensors(
    function: str,
    names: Sequence[str],
    tensors: Sequence[Any],
    dtypes: Sequence[torch.dtype] = FLOATS,
    devices: Sequence[str] = CPU,
) -> None:
    """Check that all are tensors of one of the dtypes and devices that the kernels have; the first sets both."""
    dtype = getattr(tensors[0], "dtype", None)
    for x in tensors:
        if not isinstance(x, Tensor) or x.dtype != dtype or not x.is_cpu or x.layout != torch.strided or x.is_nested:
            break
    else:
        if dtype in dtypes:
            return
    _explain(function, names, tensors, dtypes, devices)


def check_dense(function: str, name: str, x: Tensor) -> None:
    """Refuse a tensor whose numbers are not in one piece of memory, at strides."""
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
            expected = f"{', '.join(map(str, dtypes[:-1]))} or {dtypes[-1]}"
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


def are_ordinary(arguments: Sequence[Any]) -> bool:
    """Say whether all tensors among the arguments, lists and tuples included, are torch's own and have memory here."""
    for x in arguments:
        kind = type(x)
        if kind in _ORDINARY:
            if not x.is_cpu:
                return False
        elif kind is list or kind is tuple:
            if not are_ordinary(x):
                return False
        elif isinstance(x, Tensor):
            return False
    return True


_modes, _level = torch._C._len_torch_dispatch_stack, torch._C._functorch.maybe_current_level
_trace = torch._C._get_tracing_state


def unwatched() -> bool:
    """Say whether nothing traces or transforms what is called."""
    return not is_compiling() and _modes() == 0 and _level() is None and _trace() is None


def exports_to_onnx() -> bool:
    """Say whether torch.onnx.export records what is called."""
    records = is_exporting() if is_compiling() else _trace() is not None
    return records and torch.onnx.is_in_onnx_export()


def is_proxy(x: object) -> bool:
    """Say whether x is what torch.fx.symbolic_trace hands to what it records, instead of a tensor."""
    from torch.fx import Proxy

    return isinstance(x, Proxy)


def grad_enabled() -> bool:
    """Say whether gradients may be asked for. Exported graphs have none, and what is kept for them costs memory."""
    return torch.is_grad_enabled() and not is_exporting()


def transformed() -> bool:
    """Say whether one of torch.func's transforms, grad or vmap, is at work."""
    return _level() is not None


def refuse_transforms(function: str, reason: str = "as it has no rules for them") -> None:
    """Refuse a call inside of a transform of torch.func, which would refuse it with advice to us."""
    if transformed():
        expected = f"be called outside of the transforms of torch.func, {reason}"
        raise RuntimeError(
            f"{function}: it must {expected}, got a call inside of one; torch.autograd.grad differentiates it"
        )


_Op = TypeVar("_Op", bound=Callable[..., Any])


def eager(implementation: _Op, op: Any) -> _Op:
    """Return a function that calls ``implementation`` where nothing watches, else ``op``.

    The dispatcher costs a small layer half of its time. It is needed only when something traces, transforms or wraps
    tensors.
    """

    def call(*args: Any) -> Any:
        if unwatched() and are_ordinary(args):
            return implementation(*args)
        return op(*args)

    return cast(_Op, call)


def autocast_device(x: object) -> str:
    """Return the kind of device whose autocast counts for ``x``."""
    return "cuda" if isinstance(x, Tensor) and x.is_cuda else "cpu"


def autocast_dtype(x: object) -> torch.dtype | None:
    """Return the dtype that autocast asks for where ``x`` is, None where it is off."""
    device = autocast_device(x)
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def autocast_to(x: Any, dtype: torch.dtype) -> Any:
    """Return ``x`` as autocast passes it on: in ``dtype``, unless it is float64 or no tensor of floats."""
    is_cast = isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
    return x.to(dtype) if is_cast else x


def contiguous(x: Tensor) -> Tensor:
    """Return ``x``, or a copy, as plain memory: contiguous, with nothing that torch has only noted down."""
    return x.resolve_conj().resolve_neg().contiguous() if x.is_neg() or x.is_conj() else x.contiguous()


def unit_stride(x: Tensor) -> Tensor:
    """The same, where only the last axis must be contiguous (a size of 1 has any stride)."""
    is_plain = not x.is_neg() and not x.is_conj()
    return x if is_plain and (x.stride()[-1] == 1 or x.shape[-1] == 1) else contiguous(x)


def checked_lengths(
    function: str, lengths: Tensor | Sequence[int], batch: int, time: int, device: torch.device
) -> Tensor:
    """Return the lengths of the rows of a batch as an int64 tensor that nobody else can change.

    It may be on the CPU or on ``device``, where the batch is. A card's own numbers are not waited for: the op holds
    them in range.
    """
    whole = checked_integers(function, "lengths", lengths, device)
    if is_compiling():
        return whole  # its values are not known while tracing: the op checks them
    if not whole.is_cpu:
        check_lengths(function, tuple(whole.shape), 0, 0, batch, time)
        return whole
    least, most = (int(whole.min()), int(whole.max())) if whole.numel() else (0, 0)
    check_lengths(function, tuple(whole.shape), least, most, batch, time)
    return whole


def checked_bounds(function: str, cu_seqlens: Tensor | Sequence[int], time: int, device: torch.device) -> Tensor:
    """Return the bounds of sequences that lie one after the other, as :func:`checked_lengths` returns lengths."""
    bounds = checked_integers(function, "cu_seqlens", cu_seqlens, device)
    check_bounds_shape(function, bounds.shape)
    if bounds.is_cpu and not is_compiling():
        falls = bool((bounds[1:] < bounds[:-1]).any())
        check_bounds(function, bounds.shape, int(bounds[0]), int(bounds[-1]), falls, time)
    return bounds


def check_reset(function: str, reset: Any, x: Tensor, batch: int, time: int, name: str = "x") -> None:
    """Check the flags of steps that begin anew in x, an argument of this name."""
    if not isinstance(reset, Tensor):
        raise TypeError(f"{function}: reset must be a torch.Tensor of bool, got {type(reset).__qualname__}")
    if reset.dtype != torch.bool:
        raise TypeError(f"{function}: reset must be a torch.Tensor of bool, got dtype {reset.dtype}")
    if reset.device != x.device or reset.layout != torch.strided:
        expected, got = f"dense and on device {x.device} like {name}", f"{reset.layout} on {reset.device}"
        raise BackendError(f"{function}: reset must be {expected}, got {got}")
    check_reset_shape(function, reset.shape, batch, time)


def checked_integers(function: str, name: str, x: Tensor | Sequence[int], device: torch.device | None = None) -> Tensor:
    """Return ``x``, on the CPU or on ``device``, as an int64 tensor that the caller cannot change before backward."""
    if not isinstance(x, Tensor):
        x = torch.from_numpy(integers(function, name, x))
    if not x.is_cpu and x.device != device:
        expected = "the CPU" if device is None or device.type == "cpu" else f"the CPU or {device}"
        raise BackendError(f"{function}: {name} must be on {expected}, got device {x.device}")
    check_dense(function, name, x)
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{function}: {name} must be integers, got dtype {x.dtype}")
    return x.detach().resolve_neg().to(torch.int64, copy=True).contiguous()


def steps(x: Tensor) -> Steps:
    """Return the address and strides of axes (row, time, gate, head) of (B, T, G, N, D), or of packed (M, G, N, D)."""
    stride = x.stride()
    if len(stride) == 4:
        return x.data_ptr(), stride[0], 0, stride[1], stride[2]
    return x.data_ptr(), stride[0], stride[1], stride[2], stride[3]


def state_steps(x: Tensor) -> Steps:
    """The same of states (B, T, N, D), or of packed (M, N, D), which have no gates."""
    stride = x.stride()
    if len(stride) == 3:
        return x.data_ptr(), stride[0], 0, 0, stride[1]
    return x.data_ptr(), stride[0], stride[1], 0, stride[2]


#: Tensors from this size on get memory that was used before: its pages are there.
_LARGE = 1 << 20


def empty(
    x: Tensor, shape: Sequence[int], strides: Sequence[int] | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Return an uninitialised dense tensor with the device of ``x``, and its dtype unless another is given."""
    count = math.prod(shape)
    if not is_large(x, count):
        if strides is None:
            return x.new_empty(shape, dtype=dtype)
        return x.new_empty_strided(shape, strides, dtype=dtype)
    size = x.element_size() if dtype is None else dtype.itemsize
    storage = torch.frombuffer(_core.Buffer(count * size), dtype=torch.uint8).untyped_storage()
    if strides is None:
        strides = dense_strides(shape)
    # set_, as a view could not be changed in place by whoever gets it from an autograd function
    return x.new_empty(0, dtype=dtype).set_(storage, 0, shape, strides)


def is_large(x: Tensor, count: int) -> bool:
    """Say whether ``count`` numbers like those of ``x`` go where :func:`empty` finds memory that was used before."""
    if isinstance(count, int) and count < _LARGE // 8:
        return False
    ordinary = isinstance(count, int) and type(x) in _ORDINARY and x.is_cpu
    return ordinary and count * x.element_size() >= _LARGE


def own_copy(x: Tensor) -> Tensor:
    """Return the numbers of a dense tensor in memory of their own, laid out as in ``x``.

    A backward pass that reads a result reads such a copy: whoever gets the result may write to it, by ``x.data`` or
    through an array too, of which autograd would know nothing.
    """
    count = x.numel()
    if isinstance(count, int) and count >= _LARGE // 8 and not is_compiling() and is_large(x, count):
        return empty(x, x.shape, x.stride()).copy_(x)
    return x.clone()


def dense_strides(shape: Sequence[int]) -> list[int]:
    """Return the strides of a C-contiguous tensor."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return strides[::-1]


def empty_steps(x: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None, ahead: Sequence[int] = ()) -> Tensor:
    """Return a dense tensor (*ahead, B, T, ...), of B and T that one outermost in memory that it is in ``x``."""
    whole = (*ahead, *shape)
    if x.stride(1) <= x.stride(0):
        return empty(x, whole, None, dtype)
    (batch, time, *inner), at = shape, len(ahead)
    strides = dense_strides((*ahead, time, batch, *inner))
    strides[at : at + 2] = strides[at + 1], strides[at]
    return empty(x, whole, strides, dtype)


def empty_by_head(x: Tensor, lines: Sequence[int], inner: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a dense tensor (B, T, ..., N, D), or of packed lines (M, ..., N, D), with heads and then time outermost.

    What the kernels alone read lies so: a step of a head is one piece of memory then, while rows a power of two apart
    would fall into the same few sets of a cache.
    """
    *gates, heads, width = inner
    head, *along, line = dense_strides((heads, *lines[::-1], math.prod(gates) * width))[:-1]
    *across, unit = dense_strides((*gates, width))
    return empty(x, (*lines, *inner), (line, *along[::-1], *across, head, unit), dtype)
