"""The backward pass of the scans: the specification's values at every size, equal bits on any number of threads."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from fastiter.reference import scan as reference  # noqa: E402
from tests.rnn.calls import assert_runs  # noqa: E402
from tests.scan.calls import BROADCASTS, both_kinds, both_ways, resets, scan_inputs, some_lengths  # noqa: E402
from tests.support.cases import Array, assert_same_bits  # noqa: E402
from tests.support.isas import kinds_to_compare  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

SCANS = {"linear": fastiter.torch.linear_scan, "block": fastiter.torch.block_scan}
BACKWARD = {"linear": reference.linear_scan_backward, "block": reference.block_scan_backward}
every_broadcast = pytest.mark.parametrize("broadcast", BROADCASTS)
F64 = pytest.mark.parametrize("dtype", [np.float64, np.complex128], ids=["f64", "c128"])

# (B, T, sizes): around vector widths and around the 64 steps of a partial sum
SIZES = {
    "linear": [
        (1, 1, (1,)),
        (5, 70, (3,)),
        (3, 64, (16,)),
        (2, 65, (17,)),
        (9, 3, (33,)),
        (2, 150, (64,)),
        (3, 5, (260,)),
    ],
    "block": [
        (2, 66, (1, 2)),
        (3, 5, (9, 2)),
        (2, 5, (4, 3)),
        (2, 130, (5, 4)),
        (3, 4, (3, 8)),
        (2, 3, (2, 11)),
        (2, 5, (3, 16)),
    ],
}


def leaves(kind: str, B: int, T: int, sizes: tuple[int, ...], dtype: Any, broadcast: str = "full") -> list[Any]:
    """Return a, x, h0 that require gradients, with factors below 1, so that long sequences stay bounded."""
    a, x, h0 = scan_inputs(kind, B, T, sizes, dtype, broadcast)
    a = a / (1 + np.abs(a)) / (1 if kind == "linear" else np.sqrt(sizes[-1]))
    return [torch.from_numpy(y.astype(dtype)).requires_grad_() for y in (a, x, h0)]


def arrays(tensors: Any) -> tuple[Array, ...]:
    return tuple(y.detach().numpy() for y in tensors)


def cuts(B: int, T: int) -> list[dict[str, Any]]:
    flags = resets(B, T)
    return [
        {},
        {"lengths": some_lengths(B, T), "reset": torch.from_numpy(flags)},
        {"reset": torch.from_numpy(flags[0])},
    ]


def with_gradients(kind: str, given: list[Any], **how: Any) -> tuple[Array, ...]:
    """Return h, last and the gradients of all inputs, from random cotangents."""
    h, last = SCANS[kind](*given, **how)
    rng = np.random.default_rng(5)
    cotangents = [torch.from_numpy(rng.standard_normal(y.shape)).to(y.dtype) for y in (h, last)]
    return arrays([h, last, *cotangents, *torch.autograd.grad([h, last], given, cotangents)])


@pairs
@every_broadcast
@both_ways
@F64
@both_kinds
def test_gradients(kind: str, dtype: Any, reverse: bool, broadcast: str) -> None:
    for B, T, sizes in SIZES[kind]:
        given = leaves(kind, B, T, sizes, dtype, broadcast)
        for how in cuts(B, T):
            both = {"reverse": reverse, **how}
            h, _, dh, dlast, *gradients = with_gradients(kind, given, **both)
            theirs = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in both.items()}
            a, _, h0 = arrays(given)
            for mine, expected in zip(gradients, BACKWARD[kind](a, h, h0, dh, dlast, **theirs), strict=True):
                np.testing.assert_allclose(mine, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max(initial=1))


@every_broadcast
@both_kinds
def test_packed_gradients_are_those_of_each_sequence(kind: str, broadcast: str) -> None:
    bounds = [0, 5, 5, 70, 71]
    for reverse in (False, True):
        a, x, h0 = leaves(kind, 4, 71, (19,) if kind == "linear" else (3, 4), np.float64, broadcast)
        a, x = (y.detach()[:1].requires_grad_() for y in (a, x))
        _, _, dh, dlast, da, dx, dh0 = with_gradients(kind, [a, x, h0], cu_seqlens=bounds, reverse=reverse)
        summed = torch.zeros_like(a)
        for s, (begin, end) in enumerate(itertools.pairwise(bounds)):
            part = slice(begin, end)
            own = a.detach()[:, part if a.shape[1] > 1 else slice(None)].requires_grad_()
            alone = [own, x.detach()[:, part].requires_grad_(), h0.detach()[s : s + 1].requires_grad_()]
            h, last = SCANS[kind](*alone, reverse=reverse)
            given = [torch.from_numpy(y) for y in (dh[:, part], dlast[s : s + 1])]
            own_da, own_dx, own_dh0 = torch.autograd.grad([h, last], alone, given)
            summed[:, part if a.shape[1] > 1 else slice(None)] += own_da
            assert_same_bits((dx[:, part], dh0[s : s + 1]), arrays((own_dx, own_dh0)))
        np.testing.assert_allclose(da, summed.numpy(), rtol=1e-13, atol=1e-13)


@pairs
@every_broadcast
@both_ways
@both_kinds
def test_any_number_of_threads(kind: str, reverse: bool, broadcast: str) -> None:
    sizes = [(7, 400, (40,)), (1, 700, (130,)), (40, 100, (16,))]
    if kind == "block":
        sizes = [(5, 130, (7, 4)), (1, 200, (9, 5)), (3, 100, (4, 16))]
    for B, T, inner in sizes:
        given = leaves(kind, B, T, inner, np.float32, broadcast)
        how = {"reverse": reverse, "lengths": some_lengths(B, T)}
        fastiter.set_num_threads(1)
        expected = with_gradients(kind, given, **how)
        for threads in (2, 5):
            fastiter.set_num_threads(threads)
            assert_same_bits(with_gradients(kind, given, **how), expected, f"{(B, T, inner)}, {threads} threads")


def print_bits() -> None:
    for kind, every_size in SIZES.items():
        for B, T, sizes in every_size:
            for broadcast, dtype in zip(BROADCASTS, [np.float32, np.float64] * 2, strict=True):
                given = leaves(kind, B, T, sizes, dtype, broadcast)
                bits = b"".join(y.tobytes() for how in cuts(B, T) for y in with_gradients(kind, given, **how))
                print(hashlib.sha256(bits).hexdigest())


# A process for each instruction set, which fastiter reads when it is imported: torch is imported once for all.
OF_EVERY_ISA = """
import multiprocessing, os, sys, torch

def of(isa):
    os.environ["FASTITER_ISA"] = isa
    import tests.scan.test_torch_gradients as tests
    tests.print_bits()
    print("end of", isa, flush=True)

for isa in sys.argv[1:]:
    child = multiprocessing.get_context("fork").Process(target=of, args=(isa,))
    child.start()
    child.join()
    assert child.exitcode == 0, (isa, child.exitcode)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="other systems have no fork")
def test_every_instruction_set_gives_the_same_bits() -> None:
    kinds = kinds_to_compare()
    printed = re.split(r"end of (\w+)\n", assert_runs("-c", OF_EVERY_ISA, *kinds))
    assert printed[1::2] == kinds
    assert len(set(printed[0::2][:-1])) == 1
    assert len(printed[0].split()) == 4 * sum(map(len, SIZES.values()))


@both_ways
def test_the_gradient_of_x_is_a_scan_to_the_bit(reverse: bool) -> None:
    a, x, h0 = leaves("linear", 3, 100, (70,), np.float32)
    h, _ = fastiter.torch.linear_scan(a, x, h0, reverse=reverse)
    dh = torch.randn(h.shape)
    (dx,) = torch.autograd.grad(h, x, dh)
    next_a = a.detach().roll(1 if reverse else -1, 1)
    expected, _ = fastiter.torch.linear_scan(next_a, dh, reverse=not reverse)
    assert torch.equal(dx, expected)


def test_signs_have_exact_gradients() -> None:
    rng = np.random.default_rng(0)
    for T in (1, 2, 63, 64, 65, 129, 300, 4097, 100_001):
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], (1, T, 2)).astype(np.float32)).requires_grad_()
        x = torch.from_numpy(rng.integers(-8, 9, (1, T, 2)).astype(np.float32)).requires_grad_()
        h, _ = fastiter.torch.linear_scan(signs, x)
        dh = torch.from_numpy(rng.integers(-8, 9, (1, T, 2)).astype(np.float32))
        ds, dx = torch.autograd.grad(h, (signs, x), dh)
        after = np.cumprod(signs.detach().numpy(), 1)  # so h[t] = after[t] (sum of after[s] x[s])
        exact = np.cumsum((after * dh.numpy())[:, ::-1].astype(np.float64), 1)[:, ::-1] * after
        np.testing.assert_array_equal(dx.numpy(), exact)
        before = np.concatenate([np.zeros_like(exact[:, :1]), h.detach().numpy()[:, :-1].astype(np.float64)], 1)
        np.testing.assert_array_equal(ds.numpy(), (exact * before).astype(np.float32))


@both_ways
@both_kinds
def test_a_poisoned_sequence_does_not_touch_the_others(kind: str, reverse: bool) -> None:
    given = leaves(kind, 5, 9, (21,) if kind == "linear" else (3, 4), np.float32)
    expected = with_gradients(kind, given, reverse=reverse)
    for place in range(3):
        poisoned = [y.detach().clone() for y in given]
        poisoned[place][2] = float("nan")
        actual = with_gradients(kind, [y.requires_grad_() for y in poisoned], reverse=reverse)
        for mine, clean in zip(actual, expected, strict=True):
            assert_same_bits(np.delete(mine, 2, 0), np.delete(clean, 2, 0))


@both_ways
@both_kinds
def test_padding_and_resets_in_the_backward_pass(kind: str, reverse: bool) -> None:
    B, T, lengths = 3, 8, [8, 3, 0]
    a, x, h0 = leaves(kind, B, T, (5,) if kind == "linear" else (2, 3), np.float64)
    h, last = SCANS[kind](a, x, h0, lengths=lengths, reverse=reverse)
    dh = torch.ones_like(h)
    for b, n in enumerate(lengths):
        dh[b, n:] = float("nan")
    da, dx, dh0 = torch.autograd.grad([h, last], (a, x, h0), [dh, torch.ones_like(last)])
    for b, n in enumerate(lengths):
        assert not da[b, n:].any()
        assert not dx[b, n:].any()
    assert da.isfinite().all()
    assert dx.isfinite().all()
    assert torch.equal(dh0[2], torch.ones_like(dh0[2]))
    flags = torch.zeros(T, dtype=torch.bool)
    flags[4] = True
    with torch.no_grad():
        a[:, 4] = float("inf")
    for create_graph in (False, True):
        h, _ = SCANS[kind](a, x, h0, reset=flags, reverse=reverse)
        da, dx, dh0 = torch.autograd.grad(h.sum(), (a, x, h0), create_graph=create_graph)
        assert not da[:, 4].any()
        assert all(y.isfinite().all() for y in (da, dx, dh0))


@both_kinds
def test_one_pass_and_its_pieces_agree(kind: str) -> None:
    """With create_graph the backward pass is composed of scans and products."""
    for B, T, sizes in SIZES[kind]:
        for broadcast in BROADCASTS:
            given = leaves(kind, B, T, sizes, np.float64, broadcast)
            for how in cuts(B, T):
                h, last = SCANS[kind](*given, **how)
                for outputs in ([h, last], [h], [last]):
                    cotangents = [torch.ones_like(y) for y in outputs]
                    one = torch.autograd.grad(outputs, given, cotangents, retain_graph=True)
                    two = torch.autograd.grad(outputs, given, cotangents, create_graph=True)
                    for p, q in zip(one, two, strict=True):
                        torch.testing.assert_close(p, q.detach(), rtol=1e-11, atol=1e-11)


@every_broadcast
def test_bfloat16_gradients(broadcast: str) -> None:
    for B, T, D in ((3, 70, 20), (2, 5, 16), (2, 9, 100)):
        a, x, h0 = leaves("linear", B, T, (D,), np.float32, broadcast)
        stored = [y.detach().bfloat16().requires_grad_() for y in (a, x)] + [h0]
        wide = [y.detach().float().requires_grad_() for y in stored]
        h, last = fastiter.torch.linear_scan(*stored)
        exact, exact_last = fastiter.torch.linear_scan(*wide)
        dh, dlast = torch.randn(h.shape).bfloat16(), torch.randn(last.shape)
        expected = torch.autograd.grad([exact, exact_last], wide, [dh.float(), dlast])
        for create_graph in (False, True):
            gradients = torch.autograd.grad(
                [h, last], stored, [dh, dlast], retain_graph=True, create_graph=create_graph
            )
            assert [g.dtype for g in gradients] == [torch.bfloat16, torch.bfloat16, torch.float32]
            for mine, e in zip(gradients, expected, strict=True):
                # h and the result have 8 bits each; a sum of terms of both signs is off by a fraction of their sizes.
                scale = 0.01 * (1 + e.abs().max().item() * 4)
                torch.testing.assert_close(mine.float(), e, rtol=0.02, atol=scale)
        dx = torch.autograd.grad([h], stored[1], [dh])[0]
        assert torch.equal(
            dx, torch.autograd.grad([fastiter.torch.linear_scan(*wide)[0]], wide[1], [dh.float()])[0].bfloat16()
        )


@pytest.mark.parametrize("D", [2048, 2045])
def test_large_gradients_past_the_caches(D: int) -> None:
    given = leaves("linear", 2, 1100, (D,), np.float32)
    h, _ = fastiter.torch.linear_scan(*given)
    dh = torch.randn(h.shape)
    gradients = torch.autograd.grad(h, given, dh)
    a, _, h0 = arrays(given)
    for mine, expected in zip(
        gradients, reference.linear_scan_backward(a, h.detach().numpy(), h0, dh.numpy(), None), strict=True
    ):
        assert_same_bits(mine.numpy(), expected)


def test_sign_of_a_zero_gradient() -> None:
    """If the cotangent cancels the carried gradient, l is 0 and the gradient of a is 0 with the sign of h."""
    B, T, D = 3, 9, 35
    a, x, h0 = leaves("linear", B, T, (D,), np.float32)
    a = torch.ones_like(a, requires_grad=True)
    h, _ = fastiter.torch.linear_scan(a, x, h0)
    dh = torch.where(torch.arange(T) % 2 == 0, 1.0, -1.0)[None, :, None].expand(B, T, D)
    da, dx, dh0 = (y.numpy() for y in torch.autograd.grad(h, (a, x, h0), dh))
    before = torch.cat((h0[:, None], h[:, :-1]), 1).detach().numpy()
    ends = np.broadcast_to(np.arange(T)[:, None] % 2 == 0, dx.shape)  # T is odd: l is 1 there, else 0
    assert_same_bits(dx, np.where(ends, np.float32(1), np.float32(0)))
    assert_same_bits(da, np.where(ends, before, np.copysign(np.float32(0), before)))
    assert_same_bits(dh0, np.ones_like(dh0))
    expected = reference.linear_scan_backward(*(y.detach().numpy() for y in (a, h, h0, dh)), None)
    assert_same_bits((da, dx, dh0), expected)
