"""Functions on DTensors: each rank computes its rows or heads, and the results have matching placements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from ..ops import unwatched

#: The axes of each argument: one string for each number of dimensions that it may have, with a letter for each axis.
#: "B" is the axis of rows, "N" that of heads, and "H" that of heads each of which N / H consecutive heads share.
Axes: TypeAlias = Mapping[str, Sequence[str]]
#: The axes of each result, or of each tensor of a tuple
Results: TypeAlias = "str | tuple[Results, ...]"
Kind: TypeAlias = Literal["heads", "rows", "none"]

#: The axes of the arguments that divide steps into sequences
CUTS: Axes = {"lengths": ("B",), "reset": ("T", "BT"), "cu_seqlens": ("S",)}


def is_dtensor(x: object) -> bool:
    """Return whether x is a DTensor, without importing anything unless it is."""
    if type(x).__name__ != "DTensor":
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(x, DTensor)


def on_shards(function: Callable[..., Any], arguments: Mapping[str, Any], axes: Axes, results: Results) -> Any:
    """Call a function whose arguments include a DTensor on the rows and heads of this rank.

    Each axis of the mesh shards heads, rows or nothing, depending on the placements of the arguments. Arguments that
    are replicated over the axis are sliced without communication, and Partial ones reduced. The function first runs on
    tensors without memory, which checks the unsharded shapes and determines the shapes of the results.
    """
    name = function.__name__
    if arguments.get("out") is not None:
        raise ValueError(f"{name}: out must be None if arguments are DTensors, got one")
    mesh = _mesh(name, arguments)
    if dist.get_debug_level() == dist.DebugLevel.DETAIL:  # type: ignore[attr-defined]
        _compare_ranks(name, mesh, arguments)
    whole = _whole(function, arguments)
    cut = Cut.of(name, mesh, arguments, axes)
    result = function(**{key: cut.local(key, x) for key, x in arguments.items()})
    return cut.wrapped(result, whole, results)


#: Cache of the results without memory of successful calls, by function and arguments, as a call takes milliseconds
_RESULTS: dict[Any, Any] = {}
_MAX_RESULTS = 256


def _whole(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return the results of a call on tensors without memory; errors refer to the unsharded shapes."""

    def signature(name: str, x: Any) -> Any:
        return tuple(x.shape), x.stride(), x.dtype, x.device.type

    try:
        key: Any = (function, *((name, _mapped(name, x, signature)) for name, x in arguments.items()))
    except TypeError:  # an argument is not hashable
        key = None
    if arguments.get("cu_seqlens") is not None or not unwatched():
        key = None  # bounds are checked by value, and a mode's tensors must not be kept alive
    result = None if key is None else _RESULTS.get(key)
    if result is None:
        with torch.no_grad():
            result = function(**{name: _mapped(name, x, _without_memory) for name, x in arguments.items()})
        if key is not None:
            if len(_RESULTS) >= _MAX_RESULTS:
                _RESULTS.clear()
            _RESULTS[key] = result
    return result


def _compare_ranks(function: str, mesh: Any, arguments: Mapping[str, Any]) -> None:
    """Raise an error on every rank if replicated tensors differ between ranks; used only in torch's debug mode."""
    from .collectives import Ranks

    described: dict[str, str] = {}
    for name, x in _tensors(arguments):
        one = f"{tuple(x.shape)} {x.dtype} {x.placements}"
        described[name] = f"{described[name]}, {one}" if name in described else one
    for at in range(mesh.ndim):
        Ranks(function, mesh.get_group(at)).agree(described, 0, False, None)


def _tensors(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, x in arguments.items():
        for part in x if isinstance(x, (tuple, list)) else (x,):
            if isinstance(part, Tensor):
                yield name, part


def _mapped(name: str, x: Any, change: Callable[[str, Any], Any]) -> Any:
    """Apply a function to a tensor, or to each tensor of a tuple or list."""
    if isinstance(x, (tuple, list)):
        return tuple(change(name, part) if isinstance(part, Tensor) else part for part in x)
    return change(name, x) if isinstance(x, Tensor) else x


def _without_memory(name: str, x: Any) -> Tensor:
    if name == "cu_seqlens" and x.is_cpu:
        return _local(x)
    # Some devices do not support 16-bit dtypes, which the call on shards checks; the shapes do not depend on the dtype.
    dtype = torch.float32 if x.is_cuda and x.is_floating_point() and x.dtype.itemsize == 2 else x.dtype
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype, device="meta")


def _mesh(function: str, arguments: Mapping[str, Any]) -> Any:
    """Return the mesh that all tensors are on."""
    first, mesh = next((name, x.device_mesh) for name, x in _tensors(arguments) if is_dtensor(x))
    for name, x in _tensors(arguments):
        if not is_dtensor(x):
            raise TypeError(f"{function}: {name} must be a DTensor like {first}, got a {type(x).__qualname__}")
        if x.device_mesh != mesh:
            raise ValueError(f"{function}: {name} must be on the mesh of {first}, {mesh}, got {x.device_mesh}")
    if mesh.get_coordinate() is None:
        raise ValueError(f"{function}: {first} must be on a mesh with this rank, got {mesh}")
    return mesh


def _local(x: Any, placements: Sequence[Any] | None = None) -> Tensor:
    local: Tensor = x.to_local(grad_placements=placements) if placements is not None else x.to_local()
    wait = getattr(local, "wait", None)  # a collective may have been started but not awaited
    return local if wait is None else wait()


class _Move(NamedTuple):
    """A tensor's mesh, global shape and strides; its placements, those for a call, and those of the call's gradient."""

    function: str
    mesh: Any
    shape: torch.Size
    stride: tuple[int, ...]
    placements: Sequence[Any]
    wanted: Sequence[Any]
    gradient: Sequence[Any]

    def run(self, local: Tensor, placements: Sequence[Any], needed: Sequence[Any]) -> Tensor:
        from torch.distributed.tensor import DTensor

        x = DTensor.from_local(local, self.mesh, placements, shape=self.shape, stride=self.stride)
        return _local(x.redistribute(self.mesh, needed))

    def reduced(self) -> list[Any]:
        """Return the placements of the gradient for the caller, none of which is Partial."""
        from torch.distributed.tensor import Partial, Replicate

        return [Replicate() if isinstance(p, Partial) else p for p in self.placements]


#: Before torch 2.13 the gradients of DTensor.to_local and redistribute are not differentiable.
_TWICE = torch.__version__ >= (2, 13)  # type: ignore[operator]


class _Moved(torch.autograd.Function):
    """Change placements, and refuse second derivatives that torch would drop."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, move: _Move) -> Tensor:
        ctx.move = move
        result = move.run(local.detach(), move.placements, move.wanted)
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        move: _Move = ctx.move
        if torch.is_grad_enabled() and not _TWICE:
            raise RuntimeError(
                f"{move.function}: second derivatives on DTensors need torch 2.13 or later, got {torch.__version__}"
            )
        return move.run(gradient, move.gradient, move.reduced()), None


def moved(function: str, x: Any, needed: Sequence[Any], gradient: Sequence[Any]) -> Tensor:
    """Return this rank's shard of a DTensor with other placements; ``gradient`` has the placements of its gradient."""
    move = _Move(function, x.device_mesh, x.shape, x.stride(), x.placements, needed, gradient)
    if _TWICE and list(x.placements) == list(needed) == list(gradient):
        return _local(x)
    result: Tensor = _Moved.apply(_local(x, move.reduced()), move)  # type: ignore[no-untyped-call]
    return result


class Cut(NamedTuple):
    """The sharding of a call over a mesh."""

    function: str
    mesh: Any
    axes: Axes
    #: Kind of axis that each axis of the mesh shards
    kinds: tuple[Kind, ...]
    heads: int
    rows: int

    @staticmethod
    def of(function: str, mesh: Any, arguments: Mapping[str, Any], axes: Axes) -> Cut:
        """Return the sharding that follows from the placements of the arguments."""
        sizes: dict[str, int] = {}
        for name, x in _tensors(arguments):
            for letter, size in zip(_letters(axes, name, x), x.shape, strict=True):
                sizes.setdefault(letter, size)
        packed = arguments.get("cu_seqlens") is not None
        kinds = tuple(_kind(function, mesh, at, arguments, axes, packed) for at in range(mesh.ndim))
        cut = Cut(function, mesh, axes, kinds, sizes["N"], sizes["B"])
        cut._check_groups(arguments)
        return cut

    def _axes(self, kind: Kind) -> list[int]:
        return [at for at, other in enumerate(self.kinds) if other == kind]

    def _check_groups(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a sharding that would separate heads that share a head between ranks."""
        ranks = math.prod(self.mesh.size(at) for at in self._axes("heads"))
        for name, x in _tensors(arguments):
            letters = _letters(self.axes, name, x)
            shared = x.shape[letters.index("H")] if "H" in letters else self.heads
            if shared not in (1, self.heads) and (shared % ranks or self.heads % ranks):
                raise ValueError(
                    f"{self.function}: {name} must have 1 head, {self.heads}, or a number that {ranks} ranks divide "
                    f"together with {self.heads}, got {shared}"
                )

    def _sharded(self, letters: str, size: int | None = None) -> list[Any]:
        """Return the placements of a tensor with these axes; ``size`` is the size of "H"."""
        from torch.distributed.tensor import Replicate, Shard

        heads = letters.find("N")
        if "H" in letters and (size != 1 or self.heads == 1):
            heads = letters.index("H")
        at = {"heads": heads, "rows": letters.find("B"), "none": -1}
        return [Replicate() if at[kind] < 0 else Shard(at[kind]) for kind in self.kinds]

    def _own(self, kind: Kind, size: int) -> tuple[int, int]:
        """Return the first of this rank's heads or rows out of ``size``, and their number."""
        coordinate, first = self.mesh.get_coordinate(), 0
        for at in self._axes(kind):
            each = -(-size // self.mesh.size(at)) if size else 0
            start = min(each * coordinate[at], size)
            first, size = first + start, min(each, size - start)
        return first, size

    def _empty(self) -> bool:
        """Whether this rank has no heads: it runs one head of zeros and discards the results."""
        return bool(self.heads) and self._own("heads", self.heads)[1] == 0

    def local(self, name: str, x: Any) -> Any:
        """Return this rank's shard of an argument."""
        if name == "lengths" and isinstance(x, (tuple, list)):
            first, count = self._own("rows", self.rows)
            return x[first : first + count]
        return _mapped(name, x, self._local)

    def _local(self, name: str, x: Any) -> Tensor:
        from torch.distributed.tensor import Partial, Shard

        letters = _letters(self.axes, name, x)
        sharded = self._sharded(letters, x.shape[letters.index("H")] if "H" in letters else None)
        gradient = [
            Partial() if kind != "none" and not isinstance(p, Shard) else p
            for kind, p in zip(self.kinds, sharded, strict=True)
        ]
        local = moved(self.function, x, sharded, gradient)
        for at in {p.dim for p in sharded if isinstance(p, Shard)}:
            kind: Kind = "rows" if letters[at] == "B" else "heads"
            expected = self._own(kind, x.shape[at])[1]
            if local.shape[at] != expected:
                raise ValueError(
                    f"{self.function}: {name} must have {expected} of its {x.shape[at]} {kind} on this rank, "
                    f"got {local.shape[at]}: DTensor.from_local takes the whole shape if shards are uneven"
                )
            if kind == "heads" and self._empty():
                one = list(local.shape)
                one[at] = 1
                local = torch.cat((local, local.new_zeros(one)), at)
        return local

    def wrapped(self, result: Any, whole: Any, results: Results) -> Any:
        """Return results as DTensors with the shapes of ``whole``."""
        from torch.distributed.tensor import DTensor

        if isinstance(result, Tensor):
            assert isinstance(results, str)
            if self._empty():
                result = result.narrow(results.index("N"), 0, 0)
            sharded = self._sharded(results)
            return DTensor.from_local(result, self.mesh, sharded, shape=whole.shape, stride=whole.stride())
        each = (results,) * len(result) if isinstance(results, str) else results[: len(result)]
        parts = [self.wrapped(x, y, axes) for x, y, axes in zip(result, whole, each, strict=True)]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)


def _letters(axes: Axes, name: str, x: Tensor) -> str:
    return next(letters for letters in axes[name] if len(letters) == x.dim())


def _kind(function: str, mesh: Any, at: int, arguments: Mapping[str, Any], axes: Axes, packed: bool) -> Kind:
    """Return the kind of axis that an axis of the mesh shards."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    result: dict[Kind, tuple[str, Any]] = {}
    label = repr(mesh.mesh_dim_names[at]) if mesh.mesh_dim_names else str(at)
    for name, x in _tensors(arguments):
        p, letters = x.placements[at], _letters(axes, name, x)
        if isinstance(p, (Replicate, Partial)):
            continue
        letter = letters[p.dim] if type(p) is Shard else ""
        if letter not in ("N", "H", "B") or (packed and letter == "B"):
            by = {"heads": max(letters.find("N"), letters.find("H")), "rows": -1 if packed else letters.find("B")}
            ways = [f"sharded by {kind} (Shard({dim}))" for kind, dim in by.items() if dim >= 0]
            expected = ", ".join([*ways, "replicated or partial" if ways else "replicated"])
            raise ValueError(f"{function}: {name} must be {expected} on axis {label} of the mesh, got {p!r}")
        result.setdefault("rows" if letter == "B" else "heads", (name, p))
    if len(result) == 2:
        (first, p), (second, q) = result.values()
        raise ValueError(
            f"{function}: {second} must be sharded by {next(iter(result))} or replicated on axis {label} of the mesh "
            f"like {first}, which is {p!r}, got {q!r}: redistribute one of them"
        )
    return next(iter(result), "none")
