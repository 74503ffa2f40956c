"""torch.ssm.mlstm: gradients, torch's own checks, compile, export, transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from tests.rnn.test_torch_ops import assert_equal, compiled, opcheck  # noqa: E402
from tests.ssm.calls import some_bounds, some_lengths, some_resets  # noqa: E402
from tests.ssm.mlstm_calls import mlstm_inputs  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402

# torch's own warnings: it inspects functions with a deprecated module and loads decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")
OPS = torch.ops.fastiter
mlstm = fastiter.torch.ssm.mlstm

CUTS: dict[str, dict[str, Any]] = {
    "whole rows": {},
    "resets": {"reset": torch.from_numpy(some_resets(2, 53))},
    "lengths": {"lengths": torch.tensor([53, 20])},
    "packed": {"cu_seqlens": torch.tensor(some_bounds(3, 53))},
}


def leaves(*size: int, dtype: Any = np.float64, **options: Any) -> list[Any]:
    """q, k, v, i, f, and C, n, m if there is a state"""
    made = mlstm_inputs(size, dtype, **options)  # type: ignore[arg-type]
    arrays = [*(made[n] for n in "qkvif"), *made.get("state", ())]
    return [torch.from_numpy(x.copy()).requires_grad_() for x in arrays]


def run(given: list[Any], **options: Any) -> list[Any]:
    state = tuple(given[5:]) or None
    h, last = mlstm(*given[:5], state=state, **options)
    return [h, *last]


def loop(given: list[Any], eps: float = 1e-6, through: bool = True) -> list[Any]:
    """The equations in torch's operations, which autograd differentiates, m included; whole rows.

    Without `through`, the divisor and m are constants.
    """
    q, k, v, i, f = given[:5]
    q, k = (x.repeat_interleave(v.shape[2] // q.shape[2], 2) for x in (q, k))
    C, n, m = given[5:]
    outputs = []
    for t in range(q.shape[1]):
        lf = torch.nn.functional.logsigmoid(f[:, t])
        before, m = m, torch.maximum(lf + m, i[:, t])
        m = m if through else m.detach()
        forget, enter = torch.exp(lf + before - m), torch.exp(i[:, t] - m)
        C = forget[..., None, None] * C + enter[..., None, None] * k[:, t, :, :, None] * v[:, t, :, None]
        n = forget[..., None] * n + enter[..., None] * k[:, t]
        qt = q[:, t] * q.shape[-1] ** -0.5
        divisor = torch.maximum((n * qt).sum(-1).abs(), torch.exp(-m)) + eps
        outputs.append((C * qt[..., None]).sum(2) / (divisor if through else divisor.detach())[..., None])
    return [torch.stack(outputs, 1), C, n, m]


# ---- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
def test_gradients_by_finite_differences(cut: str) -> None:
    packed = cut == "packed"
    given = leaves(1 if packed else 2, 53, 2, 3, 2, shared=2, sequences=3 if packed else None)
    assert torch.autograd.gradcheck(
        lambda *x: run(list(x), eps=0.1, **CUTS[cut]), tuple(given), fast_mode=True, nondet_tol=0
    )


@pytest.mark.parametrize("which", ["all", "h", "C", "n", "m"])
def test_gradients_of_the_loop(which: str) -> None:
    for size, shared in (((2, 60, 4, 20, 33), 2), ((1, 100, 1, 70, 65), 1)):
        given = leaves(*size, shared=shared)
        wide = [x.detach().clone().requires_grad_() for x in given]
        torch.manual_seed(1)
        both = []
        for outputs, inputs in ((run(given, eps=0.1), given), (loop(wide, eps=0.1), wide)):
            torch.manual_seed(1)
            named = zip("hCnm", outputs, strict=True)
            total = sum((torch.randn_like(y) * y).sum() for name, y in named if which in ("all", name))
            both.append(torch.autograd.grad(total, inputs, allow_unused=True))
        for name, a, e in zip("qkvifCnm", *both, strict=True):
            e = torch.zeros_like(a) if e is None else e
            bound = 1e-9 * max(float(e.abs().max()), 1)
            torch.testing.assert_close(a, e, rtol=1e-9, atol=bound, msg=f"{which}, d{name}")


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_gradients_of_a_constant_divisor(eps: float) -> None:
    given = leaves(2, 60, 2, 20, 33)
    wide = [x.detach().clone().requires_grad_() for x in given]
    (h, *_), (e, *_) = run(given, eps=eps, normalizer_gradient=False), loop(wide, eps, through=False)
    weights = torch.randn_like(h)
    found = torch.autograd.grad((h * weights).sum(), given)
    expected = torch.autograd.grad((e * weights).sum(), wide, allow_unused=True)
    for name, a, b in zip("qkvifCnm", found, expected, strict=True):
        wanted = torch.zeros_like(a) if b is None else b
        torch.testing.assert_close(a, wanted, rtol=1e-9, atol=1e-9 * max(float(wanted.abs().max()), 1), msg=f"d{name}")


def test_float32_is_near_float64() -> None:
    given = leaves(2, 100, 2, 32, 32, dtype=np.float32)
    wide = [x.detach().double().requires_grad_() for x in given]
    weights = torch.randn(2, 100, 2, 32)
    found = torch.autograd.grad((run(given, eps=0.1)[0] * weights).sum(), given)
    expected = torch.autograd.grad((run(wide, eps=0.1)[0] * weights.double()).sum(), wide)
    for name, a, e in zip("qkvifCnm", found, expected, strict=True):
        worst = float((a - e).abs().max() / e.abs().max())
        # Divisors as small as e^-m lose as many digits as m has: 2^-23 times several thousand.
        assert worst < 4000 * 2.0**-23, f"d{name} is off by {worst:.1e}"


def test_only_inputs_that_require_a_gradient_get_one() -> None:
    every = leaves(1, 53, 4, 5, 3, dtype=np.float32, shared=2)
    expected = torch.autograd.grad(sum(y.sum() for y in run(every)), every)
    for place, e in enumerate(expected):
        given = [x.detach().requires_grad_(place == i) for i, x in enumerate(every)]
        found = torch.autograd.grad(sum(y.sum() for y in run(given)), given[place])[0]
        assert_same_bits(found.numpy(), e.numpy())
    assert not run([x.detach() for x in every])[0].requires_grad


def test_gradients_have_the_same_bits_on_any_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 3):
        fastiter.set_num_threads(threads)
        given = leaves(2, 120, 6, 64, 40, dtype=np.float32, shared=2)
        results.append([g.numpy() for g in torch.autograd.grad(sum(y.sum() for y in run(given)), given)])
    for other in results[1:]:
        assert_same_bits(tuple(other), tuple(results[0]))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_storage_types(stored: Any) -> None:
    given = [x.detach() for x in leaves(2, 60, 2, 20, 9, dtype=np.float32)]
    cast = [x if i > 4 else x.to(stored) for i, x in enumerate(given)]
    results = []
    for dtype in (stored, torch.float32):
        given = [(x.clone() if i > 4 else x.to(dtype)).requires_grad_() for i, x in enumerate(cast)]
        outputs = run(given)
        assert outputs[0].dtype == dtype and outputs[1].dtype == torch.float32
        results.append([*outputs, *torch.autograd.grad(outputs, given, [torch.ones_like(y) for y in outputs])])
    for a, e in zip(*results, strict=True):
        assert torch.equal(a, e.to(a.dtype))


def test_unsupported_derivatives_are_refused() -> None:
    given = leaves(1, 3, 2, 3, 2)
    (g,) = torch.autograd.grad(run(given)[0].sum(), given[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"^mlstm: .* cannot be differentiated twice"):
        g.sum().backward()
    with torch.autograd.forward_ad.dual_level():
        dual = [x.detach() for x in given]
        dual[0] = torch.autograd.forward_ad.make_dual(dual[0], torch.ones_like(dual[0]))
        with pytest.raises((RuntimeError, NotImplementedError)):
            run(dual)


def test_vmap() -> None:
    given = [x.detach() for x in leaves(2, 5, 2, 3, 2)]
    stacked = [torch.stack([x, x + 0.5]) for x in given]
    mapped = torch.func.vmap(lambda *x: tuple(run(list(x))))(*stacked)
    for i in range(2):
        for a, e in zip(mapped, run([x[i] for x in stacked]), strict=True):
            assert torch.equal(a[i], e)


# ---- torch's own checks ---------------------------------------------------------------------------------------------


def test_opcheck() -> None:
    for size, options, cut in (
        ((2, 53, 2, 3, 2), {}, (None, None, None)),
        ((2, 5, 4, 3, 2), {"shared": 2}, (torch.from_numpy(some_resets(2, 5)), torch.tensor(some_lengths(2, 5)), None)),
        ((1, 53, 2, 3, 2), {"sequences": 3}, (None, None, torch.tensor(some_bounds(3, 53)))),
        ((0, 4, 2, 3, 2), {"state": False}, (None, None, None)),
    ):
        tensors = [x.detach() for x in leaves(*size, dtype=np.float32, **options)]
        tensors += [None] * (8 - len(tensors))
        for save in (False, True):
            opcheck(OPS._mlstm_fwd, *tensors, 0.5, 0.1, True, *cut, save)
        h, C, n, m, *saved = OPS._mlstm_fwd(*tensors, 0.5, 0.1, True, *cut, True)
        for gradients, requested in (((h, C, n, m), 255), ((None, C, None, None), 5), ((h, None, None, m), 24)):
            requested &= sum(1 << i for i, x in enumerate(tensors) if x is not None)
            opcheck(OPS._mlstm_bwd, *tensors, C, n, *saved, *gradients, 0.5, 0.1, True, *cut, requested)


def test_compile_and_export_with_any_sizes() -> None:
    def layer(given: list[Any], lengths: Any) -> Any:
        return run([torch.tanh(given[0]), *given[1:]], lengths=lengths)

    fast = compiled(layer, dynamic=True)
    for size in ((3, 60, 4, 16, 20), (2, 7, 4, 16, 24)):
        given, lengths = leaves(*size, dtype=np.float32, shared=2), torch.tensor(some_lengths(size[0], size[1]))
        results = []
        for function in (fast, layer):
            outputs = function(given, lengths)
            results.append([*outputs, *torch.autograd.grad(sum(y.sum() for y in outputs), given)])
        assert_equal(*results)
    with pytest.raises(ValueError, match="mlstm: lengths must be from 0 to T = 7, got 41"):
        fast(given, torch.tensor([41, 1]))

    class Layer(torch.nn.Module):
        def forward(self, *given: Any) -> Any:
            return mlstm(*given)

    def some(batch: int, time: int) -> tuple[Any, ...]:
        return tuple(x.detach() for x in leaves(batch, time, 2, 6, 5, dtype=np.float32, state=False))

    batch, time = torch.export.Dim("B", min=1), torch.export.Dim("T", min=1)
    program = torch.export.export(Layer(), some(2, 33), dynamic_shapes=(({0: batch, 1: time},) * 5,))
    for sizes in ((2, 33), (4, 5)):
        (h, last), (e, expected) = program.module()(*some(*sizes)), Layer()(*some(*sizes))
        assert_equal([h, *last], [e, *expected])


def test_meta_tensors() -> None:
    h, C, n, m = run([x.detach().to("meta") for x in leaves(2, 5, 2, 3, 4)])
    assert [tuple(x.shape) for x in (h, C, n, m)] == [(2, 5, 2, 4), (2, 2, 3, 4), (2, 2, 3), (2, 2)]


# ---- no steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [{}, {"cu_seqlens": torch.tensor([0, 0])}], ids=["rows", "packed"])
def test_no_steps_keep_the_state_and_its_gradient(cut: dict[str, Any]) -> None:
    # An empty tensor has no memory, and the kernel must not mistake it for a missing argument.
    given = leaves(1, 0, 2, 17, 5)
    out = run(given, **cut)
    for last, first in zip(out[1:], given[5:], strict=True):
        assert torch.equal(last, first)
    wanted = [torch.randn_like(x) for x in out[1:]]
    for found, expected in zip(torch.autograd.grad(out[1:], given[5:], wanted), wanted, strict=True):
        torch.testing.assert_close(found, expected)
