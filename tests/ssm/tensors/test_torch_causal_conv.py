"""torch.ssm.causal_conv1d: gradients, torch's own convolution and checks, compile, export, transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from tests.rnn.test_torch_ops import assert_equal, compiled, opcheck  # noqa: E402
from tests.ssm.calls import assert_near, both_dtypes, some_bounds, some_lengths  # noqa: E402
from tests.ssm.conv_calls import SIZES, ConvInputs, conv_inputs, some_labels, specified_gradients  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.*torch.jit.script")
OPS = torch.ops.fastiter
conv = fastiter.torch.ssm.causal_conv1d
in_both_orders = pytest.mark.parametrize("order", ["time", "channels"])


def leaves(inputs: ConvInputs) -> dict[str, Any]:
    """Tensors with the strides of the arrays, which require gradients."""
    made = {name: torch.from_numpy(y) for name, y in inputs.arguments().items()}
    return {name: y.clone(memory_format=torch.preserve_format).requires_grad_() for name, y in made.items()}


def run(given: dict[str, Any], **options: Any) -> tuple[Any, ...]:
    if "seq_idx" in options:
        return (conv(**given, **options),)
    return conv(**given, return_last_state=True, **options)


CUTS: dict[str, dict[str, Any]] = {
    "whole rows": {},
    "lengths": {"lengths": torch.tensor([37, 2])},
    "packed": {"cu_seqlens": torch.tensor(some_bounds(4, 37))},
    "numbered": {"seq_idx": torch.from_numpy(some_labels(2, 37))},
}


def inputs_of(cut: str, channels: int, width: int, dtype: Any = np.float64, order: str = "time") -> ConvInputs:
    packed = cut == "packed"
    without = ("state",) if cut == "numbered" else ()
    batch, count = (1, 4) if packed else (2, None)
    return conv_inputs(batch, channels, 37, width, dtype, order=order, without=without, sequences=count)


# ---- numbers --------------------------------------------------------------------------------------------------------


@both_dtypes
@in_both_orders
@pytest.mark.parametrize("width", [1, 4, 7])
def test_torch_s_own_convolution(width: int, order: str, dtype: Any) -> None:
    given = leaves(conv_inputs(2, 20, 50, width, dtype, order=order, without=("state",)))
    x, weight, bias = given.values()
    results = []
    for theirs in (False, True):
        if theirs:
            pre = torch.nn.functional.conv1d(x, weight[:, None], bias, padding=width - 1, groups=20)[..., :50]
            out = torch.nn.functional.silu(pre)
        else:
            out = conv(x, weight, bias, activation="silu")
        results.append(
            [out, *torch.autograd.grad((out * torch.linspace(-1, 1, 50, dtype=x.dtype)).sum(), (x, weight, bias))]
        )
    for a, e in zip(*results, strict=True):
        assert_near(a.detach().numpy(), e.detach().double().numpy(), dtype, 100)


@pairs
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("width", [1, 3, 6])
@pytest.mark.parametrize("cut", CUTS)
def test_gradients_by_finite_differences(cut: str, width: int, activation: Any) -> None:
    given = leaves(inputs_of(cut, 3, width))
    if width == 1:
        given.pop("state", None)  # empty: gradcheck takes its strides for an overlap
    assert torch.autograd.gradcheck(
        lambda *y: run(dict(zip(given, y, strict=True)), activation=activation, **CUTS[cut]), tuple(given.values())
    )


@pairs
@both_dtypes
@in_both_orders
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradients_of_the_specification(size: tuple[int, ...], order: str, dtype: Any) -> None:
    for options in ({}, {"activation": "silu"}):
        inputs = conv_inputs(*size, dtype, order=order)
        given = leaves(inputs)
        outputs = run(given, **options)
        rng = np.random.default_rng(1)
        cotangents = [rng.standard_normal(y.shape).astype(dtype) for y in outputs]
        found = torch.autograd.grad(outputs, list(given.values()), [torch.from_numpy(c) for c in cotangents])
        expected = specified_gradients(inputs, *cotangents, **options)
        for name, g in zip(given, found, strict=True):
            assert g.dtype == given[name].dtype
            # a weight's gradient is a sum over rows and steps
            assert_near(g.numpy(), getattr(expected, name), dtype, 4 * size[0] * size[2] + size[3], name)


@in_both_orders
@pytest.mark.parametrize("width", [2, 4, 9])
@pytest.mark.parametrize("cut", CUTS)
def test_gradients_of_every_kind_of_sequence(cut: str, width: int, order: str) -> None:
    inputs = inputs_of(cut, 20, width, np.float32, order)
    given, options = leaves(inputs), {"activation": "silu", **CUTS[cut]}
    outputs = run(given, **options)
    ones = [np.ones(y.shape, np.float32) for y in outputs]
    found = torch.autograd.grad(outputs, list(given.values()), [torch.from_numpy(c) for c in ones])
    arrays = {name: y.numpy() if torch.is_tensor(y) else y for name, y in options.items()}
    expected = specified_gradients(inputs, ones[0], ones[1] if len(ones) > 1 else None, **arrays)
    for name, g in zip(given, found, strict=True):
        assert_near(g.numpy(), getattr(expected, name), np.float32, 200, name)


def test_gradients_of_packed_rows_are_those_of_separate_calls() -> None:
    bounds = some_bounds(4, 300)
    for order in ("time", "channels"):
        given = leaves(conv_inputs(1, 20, 300, 4, np.float32, order=order, sequences=4))
        found = torch.autograd.grad(sum(y.sum() for y in run(given, cu_seqlens=bounds)), list(given.values()))
        for s in range(4):
            here = slice(bounds[s], bounds[s + 1])
            one = {**given, "x": given["x"][..., here], "state": given["state"][s : s + 1]}
            one = {name: y.detach().requires_grad_() for name, y in one.items()}
            alone = torch.autograd.grad(sum(y.sum() for y in run(one)), [one["x"], one["state"]])
            assert torch.equal(found[0][..., here], alone[0])
            assert torch.equal(found[3][s : s + 1], alone[1])


def test_gradients_of_the_output_or_the_states_alone() -> None:
    inputs = conv_inputs(2, 20, 40, 4)
    given = leaves(inputs)
    outputs = run(given)
    ones = [np.ones(y.shape) for y in outputs]
    for which, y in enumerate(outputs):
        found = torch.autograd.grad(y.sum(), list(given.values()), retain_graph=True)
        expected = specified_gradients(inputs, *[c if i == which else None for i, c in enumerate(ones)])
        for name, g in zip(given, found, strict=True):
            assert_near(g.numpy(), getattr(expected, name), np.float64, 80, name)


def test_only_inputs_that_require_a_gradient_get_one() -> None:
    every = leaves(conv_inputs(1, 20, 40, 4))
    total = conv(**every).sum()
    expected = dict(zip(every, torch.autograd.grad(total, list(every.values())), strict=True))
    for name in every:
        given = {n: y.detach().requires_grad_(n == name) for n, y in every.items()}
        assert torch.equal(torch.autograd.grad(conv(**given).sum(), given[name])[0], expected[name])
    assert not conv(**{n: y.detach() for n, y in every.items()}).requires_grad


@in_both_orders
def test_gradients_have_the_same_bits_on_any_number_of_threads(order: str) -> None:
    results = []
    for threads in (1, 2, 3):
        fastiter.set_num_threads(threads)
        given = leaves(conv_inputs(2, 150, 1100, 4, np.float32, order=order))
        outputs = run(given, activation="silu")
        gradients = torch.autograd.grad(sum(y.sum() for y in outputs), list(given.values()))
        results.append(tuple(g.numpy() for g in gradients))
    for other in results[1:]:
        assert_same_bits(other, results[0])


@in_both_orders
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_storage_types(stored: Any, order: str) -> None:
    """The arithmetic is in float32: the result equals that of the widened inputs, rounded once."""
    cast = {n: y.detach().to(stored) for n, y in leaves(conv_inputs(2, 20, 70, 4, np.float32, order=order)).items()}
    results = []
    for dtype in (stored, torch.float32):
        given = {n: y.to(dtype).requires_grad_() for n, y in cast.items()}
        outputs = run(given, activation="silu")
        assert all(y.dtype == dtype for y in outputs)
        cotangents = [torch.ones_like(y) for y in outputs]
        results.append((*outputs, *torch.autograd.grad(outputs, list(given.values()), cotangents)))
    for name, a, e in zip(("out", "last", *cast), *results, strict=True):
        torch.testing.assert_close(a, e.to(a.dtype), rtol=0, atol=0, msg=name)
    mixed = {**cast, "weight": cast["weight"].float(), "state": cast["state"].float()}
    assert torch.equal(run(mixed, activation="silu")[0], results[0][0])


@pytest.mark.parametrize("how", ["channels last", "expanded", "negated", "every second"])
def test_layouts(how: str) -> None:
    """Only the order of the sums of the weights' gradients depends on the layout."""

    def laid_out(y: Any) -> Any:
        if how == "negated":
            return torch._neg_view(-y)
        if how == "expanded":
            return y[:1].expand(y.shape)
        if how == "every second":
            return y.repeat_interleave(2, -1)[..., ::2]
        return y.transpose(-1, -2).contiguous().transpose(-1, -2)

    results = []
    for dense in (False, True):
        given = {
            n: laid_out(y.detach()) if y.dim() > 1 else y.detach() for n, y in leaves(conv_inputs(2, 20, 40, 4)).items()
        }
        given = {n: (y.clone().contiguous() if dense else y).requires_grad_() for n, y in given.items()}
        outputs = run(given, activation="silu")
        results.append((*outputs, *torch.autograd.grad(outputs[0].sum() + 2 * outputs[1].sum(), list(given.values()))))
    for name, a, e in zip(("out", "last", "x", "weight", "bias", "first"), *results, strict=True):
        if name in ("weight", "bias"):
            torch.testing.assert_close(a, e, rtol=1e-13, atol=1e-13)
        else:
            assert torch.equal(a, e), name
    x = laid_out(torch.from_numpy(conv_inputs(2, 20, 40, 4).x))
    if how == "channels last":
        assert conv(x, torch.ones(20, 2, dtype=x.dtype)).transpose(1, 2).is_contiguous()


def test_cotangents_in_another_order() -> None:
    given = leaves(conv_inputs(2, 20, 40, 4))
    out = conv(**given, activation="silu")
    dout = torch.randn_like(out)
    expected = torch.autograd.grad(out, list(given.values()), dout, retain_graph=True)
    for other in (dout.transpose(1, 2).contiguous().transpose(1, 2), torch._neg_view(-dout)):
        for a, e in zip(
            torch.autograd.grad(out, list(given.values()), other, retain_graph=True), expected, strict=True
        ):
            torch.testing.assert_close(a, e, rtol=1e-13, atol=1e-13)


def test_unsupported_derivatives_are_refused() -> None:
    given = leaves(conv_inputs(1, 2, 3, 2))
    (g,) = torch.autograd.grad(conv(**given).sum(), given["x"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"^causal_conv1d: .* cannot be differentiated twice"):
        g.sum().backward()
    with torch.autograd.forward_ad.dual_level():
        dual = {n: y.detach() for n, y in given.items()}
        dual["x"] = torch.autograd.forward_ad.make_dual(dual["x"], torch.ones_like(dual["x"]))
        with pytest.raises((RuntimeError, NotImplementedError)):
            conv(**dual)
    out = conv(**given)
    with torch.no_grad():
        given["weight"].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_batched_gradients_and_vmap() -> None:
    given = leaves(conv_inputs(2, 3, 5, 2))
    out = conv(**given)
    cotangents = torch.randn(4, *out.shape, dtype=out.dtype)
    together = torch.autograd.grad(out, given["weight"], cotangents, is_grads_batched=True, retain_graph=True)[0]
    for one, c in zip(together, cotangents, strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(out, given["weight"], c, retain_graph=True)[0])
    stacked = {n: torch.stack([y.detach(), 2 * y.detach()]) for n, y in given.items()}
    mapped = torch.func.vmap(lambda y: run(y))(stacked)
    for i in range(2):
        for a, e in zip(mapped, run({n: y[i] for n, y in stacked.items()}), strict=True):
            assert torch.equal(a[i], e)
    plain = {n: y.detach() for n, y in given.items()}
    gradient = torch.func.grad(lambda weight: conv(**{**plain, "weight": weight}).sum())
    torch.testing.assert_close(gradient(plain["weight"]), torch.autograd.grad(out.sum(), given["weight"])[0])


# ---- torch's own checks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
def test_opcheck(cut: str) -> None:
    inputs = inputs_of(cut, 3, 4, np.float32)
    tensors = [None if y is None else torch.from_numpy(y) for y in inputs]
    cuts = [CUTS[cut].get(name) for name in ("seq_idx", "lengths", "cu_seqlens")]
    for keep in (False, True):
        if not (keep and cut == "numbered"):
            opcheck(OPS._causal_conv_fwd, *tensors, True, *cuts, keep)
    out = OPS._causal_conv_fwd(*tensors, True, *cuts, False)[0]
    last = None if cut == "numbered" else torch.randn_like(tensors[3])
    every = 7 if cut == "numbered" else 15
    for dout, dlast, requested in ((out, last, every), (out.transpose(1, 2).contiguous().transpose(1, 2), None, 5)):
        opcheck(OPS._causal_conv_bwd, *tensors, dout, dlast, True, *cuts, requested)
    opcheck(OPS._causal_conv_bwd, *tensors, None, last, True, *cuts, every)


def test_compile_with_any_sizes() -> None:
    def layer(given: dict[str, Any], lengths: Any) -> Any:
        out, last = run({**given, "x": torch.tanh(given["x"])}, lengths=lengths, activation="silu")
        return out * 2, last

    fast = compiled(layer, dynamic=True)
    for size in ((3, 20, 33, 4), (2, 7, 40, 4)):
        given, lengths = leaves(conv_inputs(*size, np.float32)), torch.tensor(some_lengths(size[0], size[2]))
        results = []
        for function in (fast, layer):
            outputs = function(given, lengths)
            results.append([*outputs, *torch.autograd.grad(sum(y.sum() for y in outputs), list(given.values()))])
        assert_equal(*results)
    with pytest.raises(ValueError, match="causal_conv1d: lengths must be from 0 to T = 40, got 41"):
        fast(given, torch.tensor([41, 1]))


def test_export_with_any_sizes() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Any, weight: Any, bias: Any) -> Any:
            return conv(x, weight, bias, activation="silu", return_last_state=True)

    def given(batch: int, time: int) -> list[Any]:
        return [torch.from_numpy(y) for y in conv_inputs(batch, 6, time, 4, np.float32)[:3]]

    sizes = {0: torch.export.Dim("B", min=1), 2: torch.export.Dim("T", min=1)}
    program = torch.export.export(Layer(), tuple(given(2, 33)), dynamic_shapes=(sizes, None, None))
    for batch, time in ((2, 33), (4, 5)):
        assert_equal(list(program.module()(*given(batch, time))), list(Layer()(*given(batch, time))))


def test_meta_and_fake_tensors() -> None:
    given = {n: y.detach().to("meta") for n, y in leaves(conv_inputs(2, 3, 5, 4)).items()}
    out, last = run(given)
    assert out.shape == (2, 3, 5) and last.shape == (2, 3, 3) and out.is_meta
    x, weight, bias, state = given.values()
    assert fastiter.torch.ssm.causal_conv1d_update(x, state, weight, bias).is_meta


def test_subclasses_and_function_modes() -> None:
    from torch.overrides import TorchFunctionMode

    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function)
            return function(*args, **(kwargs or {}))

    functions = fastiter.torch.ssm
    given = {n: y.detach() for n, y in leaves(conv_inputs(1, 2, 3, 2)).items()}
    expected = run(given)
    with Mode():
        assert_equal(list(run(given)), list(expected))
        functions.causal_conv1d_update(given["x"], given["state"].clone(), given["weight"])
        functions.causal_conv1d_varlen_states(given["x"][0], [0, 2], 1)
    for function in (conv, functions.causal_conv1d_update, functions.causal_conv1d_varlen_states):
        assert function in seen
    wrapped = given["x"].as_subclass(type("Tagged", (torch.Tensor,), {}))
    assert_equal(list(run({**given, "x": wrapped})), list(expected))
