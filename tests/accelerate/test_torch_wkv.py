"""RWKV-4's attention: the specification, the loop of transformers, gradients, bits, torch's own checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter.ssm import reference_wkv  # noqa: E402
from fastiter.ssm._torch.wkv import wkv  # noqa: E402
from tests.rnn.test_torch_ops import assert_equal, compiled, opcheck  # noqa: E402
from tests.ssm.calls import assert_near, both_dtypes  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")
OPS = torch.ops.fastiter
NAMES = ("w", "bonus", "k", "v", "numerator", "denominator", "m")
#: Rows, steps and channels: none, one, whole tiles and vectors, and neither
SIZES = [(0, 4, 3), (3, 0, 5), (1, 1, 1), (4, 1, 16), (2, 32, 64), (2, 97, 37), (1, 33, 131), (3, 64, 80)]


def inputs(size: tuple[int, int, int], dtype: Any = np.float64, state: bool = True, seed: int = 0) -> list[Any]:
    """Return w, bonus, k, v and the parts of a state as leaves; keys spread enough for either side of each maximum."""
    batch, time, width = size
    rng = np.random.default_rng([seed, *size])
    k, v = rng.standard_normal((2, batch, time, width)) * np.array([3, 1])[:, None, None, None]
    made = [-np.exp(rng.standard_normal(width)), rng.standard_normal(width), k, v]
    if state:
        p, q, m = rng.standard_normal((3, batch, width))
        made += [p, np.abs(q) + 0.5, 2 * m]
    return [torch.from_numpy(x.astype(dtype)).requires_grad_() for x in made]


def run(given: list[Any]) -> list[Any]:
    """Return the output and the parts of the last state."""
    out, last = wkv(*given[:4], tuple(given[4:]) if len(given) > 4 else None)
    return [out, *last]


def gradients(outputs: list[Any], given: list[Any]) -> list[Any]:
    weights = [torch.from_numpy(np.random.default_rng(1).standard_normal(y.shape)).to(y.dtype) for y in outputs]
    return list(torch.autograd.grad(outputs, given, weights))


@both_dtypes
@pytest.mark.parametrize("state", [False, True], ids=["from nothing", "from a state"])
def test_results_of_the_specification(state: bool, dtype: Any) -> None:
    for size in SIZES:
        given = inputs(size, dtype, state)
        wide = [x.detach().double().numpy() for x in given]
        out, last = reference_wkv.wkv(*wide[:4], tuple(wide[4:]) if state else None)
        for name, a, e in zip(("out", *NAMES[4:]), run([x.detach() for x in given]), (out, *last), strict=True):
            assert a.dtype == given[0].dtype and a.is_contiguous()
            assert_near(a.numpy(), e, dtype, size[1], f"{name} of {size}")


def test_the_loop_of_transformers() -> None:
    """It rounds keys, and so their gradients, to float32 in models of every dtype."""
    theirs = pytest.importorskip("transformers.models.rwkv.modeling_rwkv").rwkv_linear_attention_cpu
    for size in ((2, 70, 19), (1, 1, 3), (3, 5, 33)):
        for state in (False, True):
            given = inputs(size, state=state, seed=1)
            with torch.no_grad():
                given[2].copy_(given[2].float())
            rates = (-given[0]).log().detach().requires_grad_()
            start = tuple(given[4:]) if state else None
            out, last = theirs(rates, *given[1:4], state=start, return_state=True)
            outputs = run([-rates.exp(), *given[1:]])
            both = [rates, *given[1:]]
            found, expected = gradients(outputs, both), gradients([out, *last], both)
            for y, e in zip(outputs, (out, *last), strict=True):
                assert_near(y.detach().numpy(), e.detach().numpy(), np.float64, size[1])
            for name, g, e in zip(NAMES[: len(both)], found, expected, strict=True):
                assert_near(g.numpy(), e.numpy(), np.float32 if name == "k" else np.float64, size[0] * size[1], name)


@pytest.mark.parametrize("state", [False, True], ids=["from nothing", "from a state"])
def test_gradients_by_finite_differences(state: bool) -> None:
    for size in ((2, 40, 3), (1, 1, 2), (3, 2, 19)):
        given = tuple(inputs(size, state=state))
        assert torch.autograd.gradcheck(lambda *x: tuple(run([*x])), given, fast_mode=True, nondet_tol=0)
    given = tuple(inputs((2, 5, 3), state=state))
    assert torch.autograd.gradgradcheck(lambda *x: tuple(run([*x])), given, fast_mode=True)


@both_dtypes
def test_gradients_in_each_dtype(dtype: Any) -> None:
    for size in SIZES:
        given = inputs(size, dtype)
        wide = [x.detach().double().requires_grad_() for x in given]
        p, q, m = wide[4:]
        outputs = []
        for t in range(size[1]):
            key, value = wide[2][:, t], wide[3][:, t]
            top = torch.maximum(m, key + wide[1])
            kept, added = (m - top).exp(), (key + wide[1] - top).exp()
            outputs.append((kept * p + added * value) / (kept * q + added))
            top = torch.maximum(m + wide[0], key)
            kept, added = (m + wide[0] - top).exp(), (key - top).exp()
            p, q, m = kept * p + added * value, kept * q + added, top
        every = [torch.stack(outputs, 1) if outputs else 0 * sum(wide[:4]), p, q, m]
        expected = gradients(every, wide)
        found = gradients(run(given), given)
        assert all(g.dtype == given[0].dtype for g in found)
        both = [torch.cat([g.flatten() for g in every]).numpy() for every in (found, expected)]
        assert_near(*both, dtype, 4 * size[0] * size[1], f"the gradients of {size}")


def test_only_what_is_needed_is_computed() -> None:
    every = inputs((2, 35, 21), np.float32)
    for output in range(4):
        expected = torch.autograd.grad(run(every)[output].sum(), every, allow_unused=True, materialize_grads=True)
        for name, x, e in zip(NAMES, every, expected, strict=True):
            given = [y if y is x else y.detach() for y in every]
            found = torch.autograd.grad(run(given)[output].sum(), x)[0]
            assert_same_bits(found.numpy(), e.numpy(), name)
    assert not any(y.requires_grad for y in run([x.detach() for x in every]))


def test_threads_rows_and_pieces_have_the_same_bits() -> None:
    given = inputs((5, 300, 67), np.float32)
    results = []
    for threads in (1, 2, 3):
        fastiter.set_num_threads(threads)
        outputs = run(given)
        results.append([x.detach().numpy() for x in (*outputs, *gradients(outputs, given))])
    for other in results[1:]:
        assert_same_bits(tuple(other), tuple(results[0]))
    whole = [y.detach() for y in run(given)]
    for row in (0, 4):
        alone = run([x.detach() if x.dim() == 1 else x.detach()[row : row + 1] for x in given])
        for a, e in zip(alone, whole, strict=True):
            assert_same_bits(a.numpy(), e[row : row + 1].numpy())
    w, bonus, k, v, *state = (x.detach() for x in given)
    first, *state = run([w, bonus, k[:, :77], v[:, :77], *state])
    last, *state = run([w, bonus, k[:, 77:], v[:, 77:], *state])
    assert_same_bits(
        (torch.cat([first, last], 1).numpy(), *(x.numpy() for x in state)), tuple(x.numpy() for x in whole)
    )


def test_layouts_have_the_same_bits() -> None:
    given = [x.detach() for x in inputs((3, 41, 18), np.float32)]
    w, bonus, k, v, *state = given
    spread = torch.randn(3, 18, 5)
    for i, part in enumerate(state):
        spread[:, :, 1 + i] = part
    others = [
        [w, bonus, k.transpose(0, 1).contiguous().transpose(0, 1), v.mT.contiguous().mT, *state],
        [w.repeat_interleave(2)[::2], bonus, *torch.stack([k, v], 2).unbind(2), *spread[:, :, 1:4].unbind(2)],
    ]
    expected = run(given)
    for other in others:
        assert not all(x.is_contiguous() for x in other)
        leaves = [x.requires_grad_() for x in other]
        found = run(leaves)
        assert_same_bits(tuple(x.detach().numpy() for x in found), tuple(x.numpy() for x in expected))
        weights = [torch.ones(1).expand(y.shape) for y in found]  # like the gradient of a sum
        plain = [x.clone(memory_format=torch.contiguous_format).requires_grad_() for x in given]
        wanted = torch.autograd.grad(run(plain), plain, [torch.ones(y.shape) for y in found])
        for g, e in zip(torch.autograd.grad(found, leaves, weights), wanted, strict=True):
            assert_same_bits(g.numpy(), e.numpy())


@both_dtypes
def test_extreme_keys_and_nan(dtype: Any) -> None:
    """No exponential overflows, and NaN stays in its row and channel, from its step on."""
    w, bonus, k, v = (x.detach() for x in inputs((2, 50, 20), dtype, state=False))
    for factor in (1e-3, 40.0, 1e4):
        out, last = wkv(w * factor, bonus * factor, k * factor, v)
        assert bool(out.isfinite().all()) and all(bool(x.isfinite().all()) for x in last)
        assert bool((out.abs() <= v.abs().amax(1, keepdim=True) * (1 + 64 * torch.finfo(v.dtype).eps)).all())
    k[1, 20, 7] = float("nan")
    expected = torch.zeros(2, 50, 20, dtype=torch.bool)
    expected[1, 20:, 7] = True
    assert torch.equal(wkv(w, bonus, k, v)[0].isnan(), expected)


def test_opcheck() -> None:
    for size, state in (((2, 35, 5), True), ((1, 3, 4), False), ((2, 0, 3), True)):
        given = [x.detach() for x in inputs(size, np.float32, state)]
        given += [None] * (7 - len(given))
        for save in (False, True):
            opcheck(OPS._wkv_fwd, *given, save)
        out, *last, states = OPS._wkv_fwd(*given, True)
        requested = 127 if state else 15
        for flows, kinds in (((out, *last), requested), ((None, *last), 5), ((out, None, None, None), requested & 98)):
            opcheck(OPS._wkv_bwd, *given, states, *flows, kinds)


def test_compile_and_transforms() -> None:
    def layer(*given: Any) -> Any:
        out, last = wkv(*given[:4], given[4:])
        return out * 2, *last

    fast = compiled(layer, dynamic=True)
    for size in ((3, 40, 16), (2, 7, 24)):
        given = inputs(size, np.float32)
        results = []
        for function in (fast, layer):
            outputs = function(*given)
            results.append([*outputs, *torch.autograd.grad(sum(y.sum() for y in outputs), given)])
        assert_equal(*results)
    given = [x.detach() for x in inputs((2, 9, 4))]
    stacked = [torch.stack([x, 0.9 * x]) for x in given]
    mapped = torch.func.vmap(layer)(*stacked)
    pulled = torch.func.vmap(torch.func.grad(lambda *x: layer(*x)[0].sum(), tuple(range(7))))(*stacked)
    for i in range(2):
        own = [x[i].requires_grad_() for x in (x.clone() for x in stacked)]
        outputs = layer(*own)
        assert_equal([x[i] for x in mapped], [x.detach() for x in outputs])
        assert_equal([x[i] for x in pulled], list(torch.autograd.grad(outputs[0].sum(), own)))
    assert all(x.is_meta for x in run([x.to("meta") for x in given]))
