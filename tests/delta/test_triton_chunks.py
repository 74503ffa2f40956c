"""delta_scan on tensor cores by Triton's kernels: interpreted on the CPU, compiled on a card."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastiter.kernels.common import triton_tiles as tiles  # noqa: E402
from fastiter.kernels.delta import triton_chunks as kernels  # noqa: E402
from fastiter.kernels.delta import triton_chunks_gradient as gradient_kernels  # noqa: E402

from fastiter import BackendError  # noqa: E402
from fastiter.delta._plan import Sizes  # noqa: E402
from fastiter.delta._torch import triton, triton_chunks  # noqa: E402
from fastiter.delta._torch.ops import DeltaBackward, DeltaForward, sizes_of  # noqa: E402
from tests.delta.calls import DeltaInputs, delta_inputs, specified  # noqa: E402
from tests.delta.test_triton import check, gpu_kernels  # noqa: E402, F401
from tests.delta.torch_calls import specified as specified_gradients  # noqa: E402
from tests.support.bfloat16_dots import rounded_dot  # noqa: E402


@pytest.fixture(autouse=True)
def by_default(gpu_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Set the default precision of float32 products."""
    monkeypatch.setattr(triton_chunks, "precision", lambda: "none")


@pytest.mark.parametrize(
    ("B", "T", "N", "K", "V", "M", "gated", "cut"),
    [
        (1, 66, 1, 5, 3, None, True, "reset"),
        (3, 40, 1, 4, 19, None, True, "lengths"),
        (1, 30, 2, 5, 3, 2, False, "packed"),
        (1, 23, 1, 17, 3, 3, True, "packed, reset"),
        (1, 1, 1, 3, 2, None, False, ""),
    ],
)
def test_float32(B: int, T: int, N: int, K: int, V: int, M: int | None, gated: bool, cut: str, device: str) -> None:
    check(device, B, T, N, K, V, np.float32, M, gated, cut)


@pytest.fixture
def halves(device: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Any], ...]]:
    """Return a function that maps a dtype and sizes to (outputs and gradients, the same from the specification)."""
    if device == "cpu":
        for module in (kernels, gradient_kernels, tiles):
            monkeypatch.setattr(module, "dot", rounded_dot)

    def call(dtype: Any, T: int, K: int, V: int, M: int | None, gated: bool) -> tuple[list[Any], ...]:
        inputs = delta_inputs(1, T, 1, K, V, np.float32, M=M, gated=gated)
        q, k, v, beta, _, decay = (None if x is None else torch.from_numpy(np.array(x)).to(dtype) for x in inputs)
        state = torch.from_numpy(np.array(inputs.state))
        wide = DeltaInputs(*(None if x is None else x.float().numpy() for x in (q, k, v, beta, state, decay)))
        q, k, v, beta, state, decay = (None if x is None else x.to(device) for x in (q, k, v, beta, state, decay))
        by = triton.checked_method("auto", dtype, sizes_of(q, k, V))
        cut = (*by, None, None, None)
        o, last, e, states = triton.forward(DeltaForward(q, k, v, beta, decay, state, *cut, True))
        d_o, dlast = torch.ones_like(o), torch.ones_like(last)
        gradients = triton.backward(DeltaBackward(q, k, beta, decay, state, e, states, d_o, dlast, *cut, 0b111111))
        if gated:
            gradients = [*gradients[:4], gradients[5], gradients[4]]
        ones = (d_o.float().cpu().numpy(), dlast.cpu().numpy())
        return [o, last, *gradients], [*specified(wide), *specified_gradients(wide, *ones)]

    return call


#: Half a unit in the last place of bfloat16, to which operands of products are rounded
_HALF_UNIT = 2.0**-8


@pytest.mark.parametrize(
    ("dtype", "T", "K", "V", "M", "gated"),
    [
        (torch.bfloat16, 70, 5, 3, None, True),
        (torch.bfloat16, 30, 20, 17, 3, False),
        (torch.float16, 130, 64, 8, None, True),
        (torch.float16, 30, 20, 17, 3, False),
    ],
    ids=["bfloat16", "bfloat16, factors", "float16", "float16, factors"],
)
def test_signals_of_16_bits(
    dtype: Any, T: int, K: int, V: int, M: int | None, gated: bool, halves: Callable[..., tuple[list[Any], ...]]
) -> None:
    found, expected = halves(dtype, T, K, V, M, gated)
    kinds = [dtype, torch.float32, *[dtype] * 4, torch.float32, *([dtype] if gated else [])]
    assert [x.dtype for x in found] == kinds
    # In a chunk, 9 products of rounded operands follow each other forward (k k^T, two for each of the two sizes of
    # blocks joined in T, Y, E, S, o), and as many backward. Their errors are nearly independent, and decay from chunk
    # to chunk no faster than new ones arise. Results, E and dV are stored in the dtype, and states in bfloat16.
    chunks = -(-T * (M or 1) // 64)
    for number, (mine, exact) in enumerate(zip(found, expected, strict=True)):
        products = 9 * chunks * (1 if number < 2 else 2)
        bound = _HALF_UNIT * (2 * products) ** 0.5 + torch.finfo(dtype).eps
        error = float(abs(mine.float().cpu().numpy() - exact).max())
        assert error <= bound * max(1.0, float(abs(exact).max())), (number, error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_heads_in_parts_and_every_run_have_the_same_bits(
    dtype: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If not all states fit into the scratch memory, heads are processed in parts; in 16 bits from the saved states."""
    if device == "cpu":
        for module in (kernels, gradient_kernels, tiles):
            monkeypatch.setattr(module, "dot", rounded_dot)
    arrays = delta_inputs(1, 33 if dtype == torch.float32 else 65, 3, 4, 3, np.float32)  # two chunks
    q, k, v, beta, state, decay = (None if x is None else torch.from_numpy(np.array(x)).to(device) for x in arrays)
    q, k, v, beta, decay = (None if x is None else x.to(dtype) for x in (q, k, v, beta, decay))
    how = (*triton.checked_method("auto", dtype, sizes_of(q, k, 3)), None, None, None)

    def call() -> list[Any]:
        alone = triton.forward(DeltaForward(q, k, v, beta, decay, state, *how, False))[:2]
        o, last, e, states = triton.forward(DeltaForward(q, k, v, beta, decay, state, *how, True))
        d_o, dlast = torch.ones_like(o), torch.ones_like(last)
        backward = DeltaBackward(q, k, beta, decay, state, e, states, d_o, dlast, *how, 0b111111)
        return [*alone, o, last, *triton.backward(backward)]

    first = call()
    # Y and Z, and a state between two kernels forward; pairs, sums and two states backward: 2 of 3 heads, then 1
    size, states = (32, 48) if dtype == torch.float32 else (64, 24)
    each = size * 4 * dtype.itemsize
    for scratch in (each + states, each + 2 * (size * size * dtype.itemsize + size * 4 + states)):
        monkeypatch.setattr(triton_chunks, "SCRATCH", 2 * 2 * scratch)
        for x, y in zip(first, call(), strict=True):
            assert x.isfinite().all() and torch.equal(x, y)
    assert torch.equal(first[0], first[2]) and torch.equal(first[1], first[3])  # without and with saved states


@pytest.mark.parametrize(("dtype", "V"), [(torch.float32, 66), (torch.bfloat16, 130)])
def test_errors_in_the_memory_of_outputs(dtype: Any, V: int, device: str, halves: Any) -> None:
    """Without saving, E is where o is written, by several programs; o is 0 where there are no steps."""
    arrays = delta_inputs(3, 9, 1, 4, V, np.float32)
    q, k, v, beta, state, decay = (None if x is None else torch.from_numpy(np.array(x)).to(device) for x in arrays)
    q, k, v, beta, decay = (None if x is None else x.to(dtype) for x in (q, k, v, beta, decay))
    how = (*triton.checked_method("auto", dtype, sizes_of(q, k, V)), None, torch.tensor([9, 4, 0], device=device), None)
    saving = triton.forward(DeltaForward(q, k, v, beta, decay, state, *how, True))
    for x, y in zip(triton.forward(DeltaForward(q, k, v, beta, decay, state, *how, False)), saving[:2], strict=True):
        assert x.isfinite().all() and torch.equal(x, y)
    assert not saving[0][1, 4:].any() and not saving[0][2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cut", ["", "packed"])
def test_scratch_memory_is_bounded(dtype: Any, cut: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All scratch memory of heads that are processed together is counted, and released before that of the next ones."""
    allocated: dict[int, int] = {}
    live, peak, new = [0], [0], triton_chunks._Part.new

    def change(nbytes: int) -> None:
        live[0] += nbytes
        peak[0] = max(peak[0], live[0])

    def counted(part: Any, *shape: int, **options: Any) -> Any:
        memory = new(part, *shape, **options)
        allocated[part.first] = allocated.get(part.first, 0) + memory.nbytes
        change(memory.nbytes)
        weakref.finalize(memory, change, -memory.nbytes)
        return memory

    monkeypatch.setattr(triton_chunks._Part, "new", counted)
    monkeypatch.setattr(triton_chunks._Part, "run", lambda *_: None)
    x, beta = torch.zeros(2, 130, 5, 24, dtype=dtype, device=device), torch.zeros(2, 130, 5, dtype=dtype, device=device)
    bounds = None
    if cut:
        x, beta = x.reshape(1, 260, 5, 24), beta.reshape(1, 260, 5)
        bounds = torch.tensor([0, 7, 260], device=device)
    how = (*triton.checked_method("auto", dtype, sizes_of(x, x, 24)), None, None, bounds)

    def begin() -> None:
        allocated.clear()
        peak[0] = 0

    def used() -> Iterator[tuple[dict[int, int], int]]:
        for save in (False, True):
            begin()
            o, _, *saved = triton.forward(DeltaForward(x, x, x, beta, None, None, *how, save))
            yield {**allocated}, peak[0]
        begin()
        triton.backward(DeltaBackward(x, x, beta, None, None, *saved, o, None, *how, 0b011111))
        yield {**allocated}, peak[0]

    monkeypatch.setattr(triton_chunks, "SCRATCH", 1 << 40)
    whole = [memory[0] for memory, _ in used()]
    for number, every in enumerate(whole):
        for scratch, parts in ((every, [0]), (every - 1, [0, 3]), (every // 5, [0, 1, 2, 3, 4]), (1, [0, 1, 2, 3, 4])):
            monkeypatch.setattr(triton_chunks, "SCRATCH", scratch)
            memory, most = [*used()][number]
            assert [*memory] == parts
            assert max(memory.values()) <= most <= max(scratch, every // 5)


def test_the_choice_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(dtype: Any, keys: int = 128, factors: int = 1) -> int:
        return triton.checked_method("auto", dtype, Sizes(1, 1, factors, 1, keys, 8))[1]

    assert (chosen(torch.float32), chosen(torch.bfloat16), chosen(torch.float64)) == (32, 64, 8)
    assert (chosen(torch.float32, 129), chosen(torch.float32, 128, 33)) == (16, 16)
    with pytest.raises(BackendError, match=r"k in torch.float16 must have at most 128 units and 64 .* got 129 and 1"):
        chosen(torch.float16, 129)
    monkeypatch.setattr(triton_chunks, "precision", lambda: "ieee")
    assert (chosen(torch.float32), chosen(torch.bfloat16)) == (16, 64)


def test_precision_follows_the_setting_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        for setting in ("ieee", "tf32", "none"):
            matmul.fp32_precision = setting
            assert triton_chunks.precision() == setting
    finally:
        matmul.fp32_precision = before
