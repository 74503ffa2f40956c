"""A sequence has the same bits alone, in any batch, split in time, in any memory, and on any number of threads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastiter
from tests.core.sequence_calls import EXCUSED, ON_BOTH, ON_TENSORS, Call
from tests.support.cases import assert_same_bits

ROOT = Path(fastiter.__file__).parent
ROWS, STEPS = 5, 29  # odd, so that rows and parts begin at different places of a vector


class Arrays:
    """How arrays are made, placed in memory, and passed to a call."""

    functions: Any = fastiter

    def made(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        return np.random.default_rng(list(name.encode())).standard_normal(shape).astype(dtype)

    def second(self, x: Any) -> Any:
        """Return a copy that begins at the second element of its memory."""
        y = np.empty(x.size + 1, x.dtype)[1:].reshape(x.shape)
        y[...] = x
        return y

    def turned(self, x: Any) -> Any:
        """Return a copy whose axes are in the reverse order in memory."""
        return np.asfortranarray(x)

    def whole(self, call: Call, x: dict[str, Any], w: Any) -> tuple[Any, ...]:
        """Return results and, on tensors, the gradients of the signals."""
        return tuple(call.run(self.functions, SimpleNamespace(**x), w, None)[0])

    def part(self, call: Call, x: dict[str, Any], w: Any, state: Any) -> tuple[Any, Any]:
        """Return the results of some steps, and the state after them."""
        return call.run(self.functions, SimpleNamespace(**x), w, state)

    def bits(self, x: Any) -> Any:
        """Return (nested) results as arrays."""
        return tuple(map(self.bits, x)) if isinstance(x, (list, tuple)) else x

    def threads(self) -> Any:
        return None

    def set_threads(self, threads: Any) -> None:
        fastiter.set_num_threads(threads)


class Tensors(Arrays):
    """The same for tensors."""

    def __init__(self) -> None:
        import torch

        import fastiter.torch

        self.torch, self.functions = torch, fastiter.torch

    def made(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        return self.torch.from_numpy(super().made(name, shape, "float64")).to(getattr(self.torch, dtype))

    def second(self, x: Any) -> Any:
        return x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)

    def turned(self, x: Any) -> Any:
        order = range(x.dim() - 1, -1, -1)
        return x.permute(*order).contiguous().permute(*order)

    def whole(self, call: Call, x: dict[str, Any], w: Any) -> tuple[Any, ...]:
        leaves = {name: y.detach().requires_grad_() for name, y in x.items()}
        results = super().whole(call, leaves, w)
        varied = [y for y in results if y.requires_grad]
        if not varied:
            return results
        found = self.torch.autograd.grad(varied, [*leaves.values()], [y.detach() for y in varied], allow_unused=True)
        return (*results, *(g for g in found if g is not None))

    def part(self, call: Call, x: dict[str, Any], w: Any, state: Any) -> tuple[Any, Any]:
        with self.torch.no_grad():
            return super().part(call, x, w, state)

    def bits(self, x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return tuple(map(self.bits, x))
        return x.detach().to(self.torch.promote_types(x.dtype, self.torch.float32)).numpy()

    def threads(self) -> Any:
        return self.torch.get_num_threads()

    def set_threads(self, threads: Any) -> None:
        self.torch.set_num_threads(threads)


def cases() -> Iterator[Any]:
    for kind, tables in (("arrays", [ON_BOTH]), ("tensors", [ON_BOTH, ON_TENSORS])):
        for name, call in ((name, call) for table in tables for name, call in table.items()):
            for dtype in call.dtypes:
                if kind == "tensors" or dtype != "bfloat16":
                    yield pytest.param(kind, call, dtype, id=f"{name}-{kind}-{dtype}")


EVERY = list(cases())
every_call = pytest.mark.parametrize(("kind", "call", "dtype"), EVERY)


@pytest.fixture
def api(kind: str) -> Iterator[Arrays]:
    if kind == "tensors":
        pytest.importorskip("torch")
    made = Tensors() if kind == "tensors" else Arrays()
    threads = made.threads()
    yield made
    made.set_threads(threads)


def inputs(api: Arrays, call: Call, dtype: str, rows: int = ROWS, steps: int = STEPS) -> tuple[dict[str, Any], Any]:
    signals = {name: api.made(name, (rows, steps, *shape), dtype) for name, shape in call.signals.items()}
    weights = {name: api.made(f"{name} ", shape, dtype) for name, shape in call.weights.items()}
    return signals, SimpleNamespace(**weights)


def cut(x: Any, at: Any) -> Any:
    """Return the same part of signals or results."""
    return {name: y[at] for name, y in x.items()} if isinstance(x, dict) else tuple(y[at] for y in x)


@every_call
def test_rows_alone_and_in_other_batches(api: Arrays, kind: str, call: Call, dtype: str) -> None:
    x, w = inputs(api, call, dtype)
    whole = api.bits(api.whole(call, x, w))
    for rows in (slice(0, 1), slice(3, 4), slice(1, 4)):
        assert_same_bits(api.bits(api.whole(call, cut(x, rows), w)), cut(whole, rows), f"rows {rows}")


@every_call
def test_any_place_and_layout_in_memory(api: Arrays, kind: str, call: Call, dtype: str) -> None:
    x, w = inputs(api, call, dtype)
    whole = api.bits(api.whole(call, x, w))
    for placed in (api.second, api.turned):
        moved = {name: placed(y) for name, y in x.items()}
        assert_same_bits(api.bits(api.whole(call, moved, w)), whole, placed.__name__)


@pytest.mark.parametrize(("kind", "call", "dtype"), [case for case in EVERY if case.values[1].splits])
def test_split_in_time(api: Arrays, kind: str, call: Call, dtype: str) -> None:
    x, w = inputs(api, call, dtype)
    results, last = api.part(call, x, w, None)
    for at in (1, 13):
        first, between = api.part(call, cut(x, (slice(None), slice(0, at))), w, None)
        rest, end = api.part(call, cut(x, (slice(None), slice(at, None))), w, between)
        parts = zip(api.bits(first), api.bits(rest), strict=True)
        assert_same_bits(tuple(np.concatenate(p, 1) for p in parts), api.bits(results), f"split at {at}")
        assert_same_bits(api.bits(end), api.bits(last), f"the state, split at {at}")


#: Calls on tensors that do more than call one kernel; every family tests its kernels with several threads
COMPOSED = [
    call for table in (ON_BOTH, ON_TENSORS) for name, call in table.items() if "ssd" in name or table is ON_TENSORS
]
LARGE = [
    case for case in EVERY if case.values[0] == "tensors" and case.values[2] == "float32" and case.values[1] in COMPOSED
]


@pytest.mark.parametrize(("kind", "call", "dtype"), LARGE)
def test_two_threads(api: Arrays, kind: str, call: Call, dtype: str) -> None:
    """The smallest signals, one number per head, are large enough that torch, too, would use two threads."""
    x, w = inputs(api, call, dtype, 3, 4001)
    api.set_threads(1)
    one = api.bits(api.whole(call, x, w))
    api.set_threads(2)
    assert_same_bits(api.bits(api.whole(call, x, w)), one, "two threads")


#: Folders of the families of sequences
FAMILIES = {"rnn", "scan", "delta", "newton", "ssm"}


def family_of(found: Any) -> str:
    """Return the folder of the code of a function or of a class, whose ``__module__`` is a facade."""
    every = vars(found).values() if inspect.isclass(found) else [found]
    paths = (Path(inspect.unwrap(one).__code__.co_filename) for one in every if inspect.isfunction(one))
    return next((path.relative_to(ROOT).parts[0] for path in paths if ROOT in path.parents), "")


def public_objects(module: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names and objects of these families that a module and its public modules list."""
    for name in module.__all__:
        found = getattr(module, name)
        if inspect.ismodule(found):
            if name in ("ssm", "nn", "compat") or prefix == "compat.":
                yield from public_objects(found, f"{prefix}{name}.")
        elif callable(found) and family_of(found) in FAMILIES:
            yield f"{prefix}{name}", found


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
def test_every_sequence_function_is_called(api: Arrays, kind: str) -> None:
    """Names of one object, such as chunk_gdn and chunk_gated_delta_rule of fla, need one call."""
    tables = [ON_BOTH] if kind == "arrays" else [ON_BOTH, ON_TENSORS]
    called = {key.partition(" ")[0] for table in tables for key in table}
    objects = dict(public_objects(api.functions))
    assert called <= set(objects)
    left = {name for name, x in objects.items() if name not in called and x not in [objects[n] for n in called]}
    assert left <= set(EXCUSED), f"no call and no reason: {sorted(left - set(EXCUSED))}"
    assert kind == "arrays" or left == set(EXCUSED), f"not needed: {sorted(set(EXCUSED) - left)}"
