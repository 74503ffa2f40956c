"""torch.ssm.linear_attention: gradients, torch's own checks, compile, export, transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from tests.rnn.test_torch_ops import assert_equal, compiled, opcheck  # noqa: E402
from tests.ssm.attention_calls import DECAYS, AttentionInputs, attention_inputs  # noqa: E402
from tests.ssm.calls import assert_near, some_bounds, some_lengths, some_resets  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402

# torch's own warnings: it inspects functions with a deprecated module and loads decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")
OPS = torch.ops.fastiter
attend = fastiter.torch.ssm.linear_attention

CUTS: dict[str, dict[str, Any]] = {
    "whole rows": {},
    "resets": {"reset": torch.from_numpy(some_resets(2, 53))},
    "lengths": {"lengths": torch.tensor([53, 20])},
    "packed": {"cu_seqlens": torch.tensor(some_bounds(3, 53))},
}


def leaves(inputs: AttentionInputs) -> dict[str, Any]:
    return {name: torch.from_numpy(x.copy()).requires_grad_() for name, x in inputs.arguments().items()}


def loop(q: Any, k: Any, v: Any, log_decay: Any = None, decay: Any = None, bonus: Any = None, state: Any = None) -> Any:
    """The equations in torch's operations, which autograd differentiates; whole rows."""
    shared, time = v.shape[2] // q.shape[2], q.shape[1]
    q, k = (x.repeat_interleave(shared, 2) for x in (q, k))
    factors = decay if log_decay is None else log_decay.exp()
    if factors is not None and factors.dim() == 1:
        factors = factors.expand(v.shape[:3])
    S = v.new_zeros(v.shape[0], v.shape[2], q.shape[3], v.shape[3]) if state is None else state
    outputs = []
    for t in range(time):
        written = k[:, t, :, :, None] * v[:, t, :, None]
        kept = S
        if factors is not None:
            kept = S * (factors[:, t, :, None, None] if factors.dim() == 3 else factors[:, t, :, :, None])
        read = kept + written if bonus is None else S + bonus[:, :, None] * written
        S = kept + written
        outputs.append((read * q[:, t, :, :, None]).sum(2))
    return torch.stack(outputs, 1) if outputs else torch.zeros_like(v), S


# ---- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("cut", CUTS)
def test_gradients_by_finite_differences(decay: str, cut: str) -> None:
    bonus = cut in ("whole rows", "packed") or decay == "vector"
    size, sequences = ((1, 53, 2, 3, 2), 3) if cut == "packed" else ((2, 53, 2, 3, 2), None)
    inputs = attention_inputs(size, decay=decay, bonus=bonus, sequences=sequences, shared=2)
    given = leaves(inputs)
    assert torch.autograd.gradcheck(
        lambda *x: attend(**dict(zip(given, x, strict=True)), scale=0.7, **CUTS[cut]),
        tuple(given.values()),
        fast_mode=True,
        nondet_tol=0,
    )


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
def test_gradients_of_the_loop(decay: str, dtype: Any) -> None:
    for size, shared, bonus in (
        ((1, 1, 1, 1, 1), 1, True),
        ((2, 60, 4, 20, 33), 2, False),
        ((1, 100, 1, 70, 65), 1, True),
        ((2, 0, 2, 3, 4), 1, False),
    ):
        inputs = attention_inputs(size, dtype, decay, shared=shared, bonus=bonus)
        given = leaves(inputs)
        wide = {n: x.detach().double().requires_grad_() for n, x in given.items()}
        o, last = attend(**given)
        rng = np.random.default_rng(1)
        cotangents = [torch.from_numpy(rng.standard_normal(y.shape).astype(dtype)) for y in (o, last)]
        found = torch.autograd.grad((o, last), list(given.values()), cotangents)
        pairs = [(y, c.double()) for y, c in zip(loop(**wide), cotangents, strict=True) if y.requires_grad]
        outputs, wider = zip(*pairs, strict=True)
        expected = torch.autograd.grad(outputs, list(wide.values()), wider, allow_unused=True)
        for name, a, e in zip(given, found, expected, strict=True):
            assert a.dtype == given[name].dtype
            e = torch.zeros_like(wide[name]) if e is None else e
            assert_near(a.numpy(), e.numpy(), dtype, 4 * int(np.prod(size)), name)


def test_gradients_of_the_output_or_the_state_alone() -> None:
    given = leaves(attention_inputs((2, 53, 2, 5, 3), decay="vector", bonus=True))
    wide = {n: x.detach().clone().requires_grad_() for n, x in given.items()}
    for y, e in zip(attend(**given), loop(**wide), strict=True):
        found = torch.autograd.grad(y.sum(), list(given.values()), retain_graph=True)
        expected = torch.autograd.grad(e.sum(), list(wide.values()), retain_graph=True, allow_unused=True)
        for name, a, b in zip(given, found, expected, strict=True):
            assert_near(a.numpy(), (torch.zeros_like(a) if b is None else b).numpy(), np.float64, 800, name)


def test_only_inputs_that_require_a_gradient_get_one() -> None:
    every = leaves(attention_inputs((1, 53, 4, 5, 3), np.float32, "vector", bonus=True, shared=2))
    expected = dict(zip(every, torch.autograd.grad(attend(**every)[0].sum(), list(every.values())), strict=True))
    for name in every:
        given = {n: x.detach().requires_grad_(n == name) for n, x in every.items()}
        found = torch.autograd.grad(attend(**given)[0].sum(), given[name])[0]
        assert_same_bits(found.numpy(), expected[name].numpy())
    assert not attend(**{n: x.detach() for n, x in every.items()})[0].requires_grad


@pytest.mark.parametrize("decay", ["none", "scalar", "vector"])
def test_gradients_have_the_same_bits_on_any_number_of_threads(decay: str) -> None:
    results = []
    for threads in (1, 2, 3):
        fastiter.set_num_threads(threads)
        given = leaves(attention_inputs((2, 120, 6, 64, 40), np.float32, decay, shared=2, bonus=True))
        o, last = attend(**given)
        results.append([g.numpy() for g in torch.autograd.grad(o.sum() + last.sum(), list(given.values()))])
    for other in results[1:]:
        assert_same_bits(tuple(other), tuple(results[0]))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("shared", [1, 2])
def test_storage_types(stored: Any, shared: int) -> None:
    """The arithmetic is in float32: results equal those of the widened inputs, rounded once."""
    inputs = attention_inputs((2, 60, 4, 20, 9), np.float32, "vector", bonus=True, shared=shared)
    exact = ("bonus", "state")
    cast = {n: x.detach() if n in exact else x.detach().to(stored) for n, x in leaves(inputs).items()}
    results = []
    for dtype in (stored, torch.float32):
        given = {n: (x.clone() if n in exact else x.to(dtype)).requires_grad_() for n, x in cast.items()}
        o, last = attend(**given)
        assert o.dtype == dtype and last.dtype == torch.float32
        cotangents = (torch.ones_like(o), torch.ones_like(last))
        results.append((o, last, *torch.autograd.grad((o, last), list(given.values()), cotangents)))
    for name, a, e in zip(("o", "last", *cast), *results, strict=True):
        torch.testing.assert_close(a, e.to(a.dtype), rtol=0, atol=0, msg=name)
    assert attend(**{n: x.to(stored) for n, x in cast.items()})[0].dtype == stored


@pytest.mark.parametrize("shared", [1, 2])
def test_the_gradient_of_k_has_its_own_precision(shared: int) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 20, 2, 4).bfloat16(), torch.randn(1, 20, 2, 4, requires_grad=True)
    v, a, b = torch.randn(1, 20, 2 * shared, 3), *(0.1 * torch.randn(2, 1, 20, 2 * shared, 4))
    i, f = torch.randn(2, 1, 20, 2 * shared)
    ssm = fastiter.torch.ssm

    def gradients(q: Any) -> list[Any]:
        outputs = ssm.linear_attention(q, k, v), ssm.dplr_delta_rule(q, k, v, a, b), ssm.mlstm(q, k, v, i, f)
        return [torch.autograd.grad(x[0].sum(), k)[0] for x in outputs]

    for found, expected in zip(gradients(q), gradients(q.float()), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("how", ["heads first", "expanded", "negated", "every second"])
def test_layouts(how: str) -> None:
    inputs = attention_inputs((2, 60, 2, 20, 9), np.float32, "vector")

    def laid_out(x: Any) -> Any:
        if how == "negated":
            return torch._neg_view(-x)
        if how == "expanded":
            return x[:1].expand(x.shape)
        if how == "every second":
            return x.repeat_interleave(2, -1)[..., ::2]
        return x.transpose(1, 2).contiguous().transpose(1, 2)

    results = []
    for dense in (False, True):
        given = {n: laid_out(x.detach()) for n, x in leaves(inputs).items()}
        given = {n: (x.clone().contiguous() if dense else x).requires_grad_() for n, x in given.items()}
        o, last = attend(**given)
        results.append((o, last, *torch.autograd.grad(o.sum() + 2 * last.sum(), list(given.values()))))
    for a, e in zip(*results, strict=True):
        assert torch.equal(a, e)


def test_unsupported_derivatives_are_refused() -> None:
    given = leaves(attention_inputs((1, 3, 2, 3, 2), decay="scalar"))
    (g,) = torch.autograd.grad(attend(**given)[0].sum(), given["q"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"^linear_attention: .* cannot be differentiated twice"):
        g.sum().backward()
    with torch.autograd.forward_ad.dual_level():
        dual = {n: x.detach() for n, x in given.items()}
        dual["q"] = torch.autograd.forward_ad.make_dual(dual["q"], torch.ones_like(dual["q"]))
        with pytest.raises((RuntimeError, NotImplementedError)):
            attend(**dual)
    o, _ = attend(**given)
    with torch.no_grad():
        given["k"].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        o.sum().backward()


def test_batched_gradients_and_vmap() -> None:
    given = leaves(attention_inputs((2, 5, 2, 3, 2), decay="vector", bonus=True))
    o, _ = attend(**given)
    cotangents = torch.randn(4, *o.shape, dtype=o.dtype)
    together = torch.autograd.grad(o, given["k"], cotangents, is_grads_batched=True, retain_graph=True)[0]
    for one, c in zip(together, cotangents, strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(o, given["k"], c, retain_graph=True)[0])
    stacked = {n: torch.stack([x.detach(), x.detach() - 0.5]) for n, x in given.items()}
    mapped = torch.func.vmap(lambda x: attend(**x))(stacked)
    for i in range(2):
        for a, e in zip(mapped, attend(**{n: x[i] for n, x in stacked.items()}), strict=True):
            assert torch.equal(a[i], e)


# ---- torch's own checks ---------------------------------------------------------------------------------------------


def test_opcheck() -> None:
    for size, decay, shared, cut in (
        ((2, 53, 2, 3, 2), "none", 1, (None, None, None)),
        ((2, 5, 4, 3, 2), "scalar", 2, (torch.from_numpy(some_resets(2, 5)), torch.tensor(some_lengths(2, 5)), None)),
        ((1, 53, 2, 3, 2), "vector", 1, (None, None, torch.tensor(some_bounds(3, 53)))),
        ((0, 4, 2, 3, 2), "none", 1, (None, None, None)),
    ):
        sequences = 3 if cut[2] is not None else None
        bonus = decay != "none"
        inputs = attention_inputs(size, np.float32, decay, shared=shared, bonus=bonus, sequences=sequences)
        every = (*inputs[:4], *inputs[5:])
        tensors = [None if x is None else torch.from_numpy(x) for x in every]
        for save in (False, True):
            opcheck(OPS._attention_fwd, *tensors, 1, 0.5, *cut, save)
        o, last, states = OPS._attention_fwd(*tensors, 1, 0.5, *cut, True)
        for d_o, dlast, requested in (
            (o, last, 63),
            (None, last, 5),
            (o.transpose(1, 2).contiguous().transpose(1, 2), None, 34),
        ):
            requested &= sum(1 << i for i, x in enumerate(tensors) if x is not None)
            opcheck(OPS._attention_bwd, *tensors[:5], states, d_o, dlast, True, 0.5, *cut, requested)


def test_compile_with_any_sizes() -> None:
    def layer(given: dict[str, Any], lengths: Any) -> Any:
        o, last = attend(**{**given, "q": torch.tanh(given["q"])}, lengths=lengths)
        return o * 2, last

    fast = compiled(layer, dynamic=True)
    for size in ((3, 60, 4, 16, 20), (2, 7, 4, 16, 24)):
        given = leaves(attention_inputs(size, np.float32, "vector", shared=2))
        lengths = torch.tensor(some_lengths(size[0], size[1]))
        results = []
        for function in (fast, layer):
            outputs = function(given, lengths)
            results.append([*outputs, *torch.autograd.grad(sum(y.sum() for y in outputs), list(given.values()))])
        assert_equal(*results)
    with pytest.raises(ValueError, match="linear_attention: lengths must be from 0 to T = 7, got 41"):
        fast(given, torch.tensor([41, 1]))


def test_export_with_any_sizes() -> None:
    class Layer(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any, log_decay: Any) -> Any:
            return attend(q, k, v, log_decay)

    def given(batch: int, time: int) -> list[Any]:
        return [torch.from_numpy(x) for x in attention_inputs((batch, time, 2, 6, 5), np.float32, "scalar")[:4]]

    batch, time = torch.export.Dim("B", min=1), torch.export.Dim("T", min=1)
    program = torch.export.export(Layer(), tuple(given(2, 33)), dynamic_shapes=({0: batch, 1: time},) * 4)
    for sizes in ((2, 33), (4, 5)):
        assert_equal(list(program.module()(*given(*sizes))), list(Layer()(*given(*sizes))))


def test_meta_tensors_and_function_modes() -> None:
    from torch.overrides import TorchFunctionMode

    given = {n: x.detach() for n, x in leaves(attention_inputs((2, 5, 2, 3, 4), decay="scalar")).items()}
    o, last = attend(**{n: x.to("meta") for n, x in given.items()})
    assert o.shape == (2, 5, 2, 4) and last.shape == (2, 2, 3, 4) and o.is_meta
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Mode():
        assert_equal(list(attend(**given)), list(attend(**given)))
    assert attend in seen
