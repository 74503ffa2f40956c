"""torch.ssm.selective_scan and selective_state_update: gradients, torch's own checks, compile, export, transforms."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from fastiter import ssm  # noqa: E402
from fastiter.ssm._torch.step import plain_step  # noqa: E402
from tests.rnn.test_torch_ops import assert_equal, compiled, opcheck  # noqa: E402
from tests.ssm.calls import (  # noqa: E402
    ScanInputs,
    assert_near,
    both_dtypes,
    scan_inputs,
    some_bounds,
    some_lengths,
    some_resets,
    specified_gradients,
)
from tests.ssm.test_arrays import step_inputs  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402

# torch's own warnings: it inspects functions with a deprecated module and loads decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")
OPS = torch.ops.fastiter
scan = fastiter.torch.ssm.selective_scan
real_and_complex = pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])


def leaves(inputs: ScanInputs) -> dict[str, Any]:
    return {name: torch.from_numpy(x.copy()).requires_grad_() for name, x in inputs.arguments().items()}


def run(given: dict[str, Any], softplus: bool = True, **cut: Any) -> Any:
    return scan(**given, delta_softplus=softplus, return_last_state=True, **cut)


CUTS: dict[str, dict[str, Any]] = {
    "whole rows": {},
    "resets": {"reset": torch.from_numpy(some_resets(2, 37))},
    "lengths": {"lengths": torch.tensor([37, 20])},
    "packed": {"cu_seqlens": torch.tensor(some_bounds(3, 37))},
}
SHAPES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 3, 37, 2), {}),
    "groups": ((2, 4, 37, 3), {"groups": 2}),
    "fixed B": ((2, 3, 37, 2), {"fixed": "B"}),
    "fixed C": ((2, 3, 37, 2), {"fixed": "C"}),
    "fixed both": ((2, 3, 37, 2), {"fixed": "BC"}),
    "complex": ((2, 4, 37, 3), {"is_complex": True, "groups": 2}),
    "complex, fixed B": ((2, 3, 37, 2), {"is_complex": True, "fixed": "B"}),
    "complex, fixed both": ((2, 3, 37, 2), {"is_complex": True, "fixed": "BC"}),
    "few arguments": ((2, 3, 37, 2), {"without": ("D", "z", "delta_bias", "state")}),
}


# ---- gradients ------------------------------------------------------------------------------------------------------


def test_gradients_of_no_channels_are_zero() -> None:
    u, A = torch.zeros(2, 0, 50), torch.zeros(0, 3)
    for _ in range(20):  # reused memory contains other numbers
        B, C = torch.full((2, 2, 3, 50), 7.0).requires_grad_()
        for found in torch.autograd.grad(scan(u, u, A, B, C).sum(), (B, C)):
            assert not found.any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cut", CUTS)
def test_gradients_by_finite_differences(shape: str, cut: str) -> None:
    size, options = SHAPES[shape]
    if cut == "packed":
        size, options = (1, *size[1:]), {**options, "sequences": 3}
    if cut != "whole rows" and shape not in ("plain", "fixed B"):
        options = {**options, "groups": 1}
    given = leaves(scan_inputs(*size, np.float64, **options))
    softplus = shape != "few arguments"
    if not softplus:
        with torch.no_grad():
            given["delta"].abs_()
    assert torch.autograd.gradcheck(
        lambda *x: run(dict(zip(given, x, strict=True)), softplus, **CUTS[cut]), tuple(given.values()), fast_mode=True
    )


@both_dtypes
@pytest.mark.parametrize(
    "size", [(1, 1, 1, 1), (2, 17, 33, 15), (1, 270, 70, 5), (3, 8, 96, 20), (2, 3, 0, 2)], ids=str
)
def test_gradients_of_the_specification(size: tuple[int, ...], dtype: Any) -> None:
    for fixed, is_complex in itertools.product(("", "B", "C"), (False, True)):
        # With seed 0, complex numbers of the smallest case are small differences of large ones.
        inputs = scan_inputs(*size, dtype, fixed=fixed, is_complex=is_complex, seed=1 if is_complex else 0)
        given = leaves(inputs)
        out, last = run(given)
        rng = np.random.default_rng(1)
        dout, dlast = (rng.standard_normal(y.shape).astype(dtype) for y in (out, last))
        dlast = dlast * inputs.A.dtype.type(0.5 + 1j) if is_complex else dlast
        found = torch.autograd.grad(
            (out, last), list(given.values()), (torch.from_numpy(dout), torch.from_numpy(dlast))
        )
        expected = specified_gradients(inputs, dout, dlast)
        for name, g in zip(given, found, strict=True):
            assert g.dtype == given[name].dtype
            # a weight's gradient is a sum over rows, steps and channels
            assert_near(g.numpy(), getattr(expected, name), dtype, 4 * int(np.prod(size)), name)


@real_and_complex
def test_gradients_of_the_output_or_the_state_alone(is_complex: bool) -> None:
    inputs = scan_inputs(2, 20, 40, 5, is_complex=is_complex)
    given = leaves(inputs)
    out, last = run(given)
    ones = [np.ones(y.shape) for y in (out, last)]
    for which, y in enumerate((out, last)):
        found = torch.autograd.grad(y.real.sum(), list(given.values()), retain_graph=True, allow_unused=True)
        expected = specified_gradients(inputs, *[x if i == which else None for i, x in enumerate(ones)])
        for name, g in zip(given, found, strict=True):
            assert_near(g.numpy(), getattr(expected, name), np.float64, 800, name)


@real_and_complex
def test_only_inputs_that_require_a_gradient_get_one(is_complex: bool) -> None:
    inputs = scan_inputs(1, 20, 40, 5, is_complex=is_complex)
    every = leaves(inputs)
    expected = dict(zip(every, torch.autograd.grad(run(every)[0].sum(), list(every.values())), strict=True))
    for name in every:
        given = {n: x.detach().requires_grad_(n == name) for n, x in every.items()}
        assert_same_bits(torch.autograd.grad(run(given)[0].sum(), given[name])[0].numpy(), expected[name].numpy())
    assert not run({n: x.detach() for n, x in every.items()})[0].requires_grad


@real_and_complex
def test_gradients_have_the_same_bits_on_any_number_of_threads(is_complex: bool) -> None:
    results = []
    for threads in (1, 2, 3):
        fastiter.set_num_threads(threads)
        given = leaves(scan_inputs(3, 300, 100, 16, np.float32, groups=2, is_complex=is_complex))
        out, last = run(given)
        results.append([g.numpy() for g in torch.autograd.grad(out.sum() + last.real.sum(), list(given.values()))])
    for other in results[1:]:
        assert_same_bits(tuple(other), tuple(results[0]))


@real_and_complex
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_storage_types(stored: Any, is_complex: bool) -> None:
    """The arithmetic is in float32: the result equals that of the widened inputs, rounded once."""
    inputs = scan_inputs(2, 20, 40, 5, np.float32, is_complex=is_complex)
    signals = ("u", "delta", "z", "B", "C")
    cast = {n: x.detach().to(stored) if n in signals else x.detach() for n, x in leaves(inputs).items()}
    results = []
    for dtype in (stored, torch.float32):
        given = {
            n: x.to(dtype).requires_grad_() if n in signals else x.clone().requires_grad_() for n, x in cast.items()
        }
        out, last = run(given)
        assert out.dtype == dtype and last.dtype == cast["A"].dtype
        cotangents = (torch.ones_like(out), torch.ones_like(last))
        results.append((out, last, *torch.autograd.grad((out, last), list(given.values()), cotangents)))
    for name, a, e in zip(("out", "last", *cast), *results, strict=True):
        torch.testing.assert_close(a, e.to(a.dtype), rtol=0, atol=0, msg=name)
    half = {n: x if x.is_complex() else x.to(stored) for n, x in cast.items()}  # weights in 16 bits are widened
    assert run(half)[0].dtype == stored


@real_and_complex
@pytest.mark.parametrize("how", ["channels last", "expanded", "negated", "every second"])
def test_layouts(how: str, is_complex: bool) -> None:
    inputs = scan_inputs(2, 20, 40, 5, np.float32, is_complex=is_complex)

    def laid_out(x: Any) -> Any:
        if how == "negated":
            return torch._neg_view(-x.conj().resolve_conj()).conj()
        if how == "expanded":
            return x[:1].expand(x.shape)
        if how == "every second":
            return x.repeat_interleave(2, -1)[..., ::2]
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)

    results = []
    for dense in (False, True):
        given = {n: laid_out(x.detach()) if x.dim() > 1 else x.detach() for n, x in leaves(inputs).items()}
        given = {n: (x.clone().contiguous() if dense else x).requires_grad_() for n, x in given.items()}
        out, last = run(given)
        loss = out.sum() + 2 * (last.imag if is_complex else last).sum()
        results.append((out, last, *torch.autograd.grad(loss, list(given.values()))))
    for a, e in zip(*results, strict=True):
        assert torch.equal(a, e)


def test_unsupported_derivatives_are_refused() -> None:
    given = leaves(scan_inputs(1, 2, 3, 2))
    (g,) = torch.autograd.grad(run(given)[0].sum(), given["u"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"^selective_scan: .* cannot be differentiated twice"):
        g.sum().backward()
    with torch.autograd.forward_ad.dual_level():
        dual = {n: x.detach() for n, x in given.items()}
        dual["u"] = torch.autograd.forward_ad.make_dual(dual["u"], torch.ones_like(dual["u"]))
        with pytest.raises((RuntimeError, NotImplementedError)):
            run(dual)
    out, _ = run(given)
    with torch.no_grad():
        given["A"].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@real_and_complex
def test_batched_gradients_and_vmap(is_complex: bool) -> None:
    inputs = scan_inputs(2, 3, 5, 2, is_complex=is_complex)
    given = leaves(inputs)
    out, _ = run(given)
    cotangents = torch.randn(4, *out.shape, dtype=out.dtype)
    together = torch.autograd.grad(out, given["A"], cotangents, is_grads_batched=True, retain_graph=True)[0]
    for one, c in zip(together, cotangents, strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(out, given["A"], c, retain_graph=True)[0])
    stacked = {n: torch.stack([x.detach(), 2 * x.detach()]) for n, x in given.items()}
    mapped = torch.func.vmap(lambda x: run(x))(stacked)
    for i in range(2):
        for a, e in zip(mapped, run({n: x[i] for n, x in stacked.items()}), strict=True):
            assert torch.equal(a[i], e)
    gradient = torch.func.grad(lambda A: run({**{n: x.detach() for n, x in given.items()}, "A": A})[0].sum())
    torch.testing.assert_close(gradient(given["A"].detach()), torch.autograd.grad(out.sum(), given["A"])[0])


# ---- torch's own checks ---------------------------------------------------------------------------------------------


def test_opcheck() -> None:
    for size, options, cut in (
        ((2, 3, 37, 2), {}, (None, None, None)),
        ((2, 4, 5, 2), {"groups": 2}, (torch.from_numpy(some_resets(2, 5)), torch.tensor(some_lengths(2, 5)), None)),
        ((1, 3, 40, 2), {"fixed": "B", "sequences": 3}, (None, None, torch.tensor(some_bounds(3, 40)))),
        ((0, 3, 4, 2), {"without": ("D", "z", "delta_bias", "state")}, (None, None, None)),
        ((2, 4, 37, 2), {"is_complex": True, "groups": 2, "fixed": "C"}, (None, torch.tensor([37, 5]), None)),
    ):
        inputs = scan_inputs(*size, np.float32, **options)
        tensors = [None if x is None else torch.from_numpy(x) for x in inputs]
        for save in (False, True):
            opcheck(OPS._selective_fwd, *tensors, True, *cut, save)
        out, last, states = OPS._selective_fwd(*tensors, True, *cut, True)
        for dout, dlast, requested in (
            (out, last, 511),
            (None, last, 5),
            (out.transpose(1, 2).contiguous().transpose(1, 2), None, 258),
        ):
            requested &= sum(1 << i for i, x in enumerate(tensors) if x is not None)
            opcheck(OPS._selective_bwd, *tensors[:8], states, dout, dlast, True, *cut, requested)


@real_and_complex
def test_compile_with_any_sizes(is_complex: bool) -> None:
    def layer(given: dict[str, Any], lengths: Any) -> Any:
        out, last = run({**given, "u": torch.tanh(given["u"])}, lengths=lengths)
        return out * 2, last

    fast = compiled(layer, dynamic=True)
    for size in ((3, 20, 33, 4), (2, 7, 40, 4)):
        given = leaves(scan_inputs(*size, np.float32, is_complex=is_complex))
        lengths = torch.tensor(some_lengths(size[0], size[2]))
        results = []
        for function in (fast, layer):
            outputs = function(given, lengths)
            results.append([*outputs, *torch.autograd.grad(sum(y.real.sum() for y in outputs), list(given.values()))])
        assert_equal(*results)
    with pytest.raises(ValueError, match="selective_scan: lengths must be from 0 to T = 40, got 41"):
        fast(given, torch.tensor([41, 1]))


@real_and_complex
def test_export_with_any_sizes(is_complex: bool) -> None:
    class Layer(torch.nn.Module):
        def forward(self, u: Any, delta: Any, A: Any, B: Any, C: Any) -> Any:
            return scan(u, delta, A, B, C, delta_softplus=True, return_last_state=True)

    def given(batch: int, time: int) -> list[Any]:
        return [torch.from_numpy(x) for x in scan_inputs(batch, 6, time, 3, np.float32, is_complex=is_complex)[:5]]

    batch, time = torch.export.Dim("B", min=1), torch.export.Dim("T", min=1)
    signal, projection = {0: batch, 2: time}, {0: batch, 3: 2 * time if is_complex else time}
    program = torch.export.export(
        Layer(), tuple(given(2, 33)), dynamic_shapes=(signal, signal, None, projection, projection)
    )
    for sizes in ((2, 33), (4, 5)):
        assert_equal(list(program.module()(*given(*sizes))), list(Layer()(*given(*sizes))))


def test_meta_and_fake_tensors() -> None:
    given = {n: x.detach().to("meta") for n, x in leaves(scan_inputs(2, 3, 5, 2)).items()}
    out, last = run(given)
    assert out.shape == (2, 3, 5) and last.shape == (2, 3, 2) and out.is_meta
    step = step_inputs(2, (3,), 4, 1, np.float32)
    meta = {n: torch.from_numpy(x).to("meta") if isinstance(x, np.ndarray) else x for n, x in step.items()}
    assert fastiter.torch.ssm.selective_state_update(**meta).shape == (2, 3)


def test_subclasses_and_function_modes() -> None:
    from torch.overrides import TorchFunctionMode

    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function)
            return function(*args, **(kwargs or {}))

    given = {n: x.detach() for n, x in leaves(scan_inputs(1, 2, 3, 2)).items()}
    expected = run(given)
    with Mode():
        assert_equal(list(run(given)), list(expected))
    assert scan in seen
    wrapped = given["u"].as_subclass(type("Tagged", (torch.Tensor,), {}))
    assert_equal(list(run({**given, "u": wrapped})), list(expected))


# ---- one step -------------------------------------------------------------------------------------------------------


def step_tensors(*arguments: Any) -> dict[str, Any]:
    return {n: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for n, x in step_inputs(*arguments).items()}


@pytest.mark.parametrize(("inner", "groups"), [((20,), 1), ((4, 6), 2)])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float64])
def test_a_step(inner: tuple[int, ...], groups: int, stored: Any) -> None:
    dtype = np.float64 if stored == torch.float64 else np.float32
    given = step_tensors(2, inner, 5, groups, dtype)
    signals = ("state", "x", "dt", "z", "B", "C")
    given |= {n: given[n].to(stored) for n in signals}
    wide = {
        n: x.double().float().numpy() if dtype == np.float32 and torch.is_tensor(x) else x for n, x in given.items()
    }
    wide = {n: x.numpy() if torch.is_tensor(x) else x for n, x in wide.items()}
    expected = ssm.selective_state_update(
        **(wide := {n: x.copy() if isinstance(x, np.ndarray) else x for n, x in wide.items()})
    )
    version, pointer = given["state"]._version, given["state"].data_ptr()
    unchecked = given | {"state": given["state"].clone()}
    out = fastiter.torch.ssm.selective_state_update(**given)
    with torch.no_grad():  # where plain tensors skip the checks in Python
        assert torch.equal(fastiter.torch.ssm.selective_state_update(**unchecked), out)
    assert torch.equal(unchecked["state"], given["state"])
    assert out.dtype == stored and given["state"].data_ptr() == pointer
    assert given["state"]._version > version  # autograd sees the change
    assert torch.equal(out, torch.from_numpy(expected).to(stored))
    assert torch.equal(given["state"], torch.from_numpy(wide["state"]).to(stored))


def test_a_step_of_heads_past_the_checks() -> None:
    """Mamba-2's arguments have stride 0 over the channels of a head; mismatches are refused as with checks."""
    given = step_tensors(2, (6, 3), 5, 2, np.float32)
    given["A"] = given["A"][:, :1, :1].expand(6, 3, 5)
    given |= {n: given[n][..., :1].expand(given[n].shape) for n in ("dt", "D", "dt_bias")}
    names = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")
    states = [given["state"].clone() for _ in range(2)]
    with torch.no_grad():
        out = plain_step(states[0], tuple(given[n] for n in names), True)
    assert out is not None
    every = given | {"state": states[1], "dt_softplus": True, "state_batch_indices": None}
    assert torch.equal(fastiter.torch.ssm.selective_state_update(**every), out) and torch.equal(*states)
    for other in (
        {"B": given["B"][:, :, :4]},
        {"A": given["A"][:5]},
        {"dt": given["dt"].double()},
        {"z": given["z"][0]},
    ):
        with torch.no_grad():
            assert plain_step(states[0], tuple((given | other)[n] for n in names), True) is None


def test_a_step_under_torch_s_checks_and_compiled() -> None:
    given = step_tensors(2, (6,), 5, 1, np.float32)
    names = ("state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias")
    opcheck(OPS._selective_step, *[given[n] for n in names], True, torch.tensor([1, 0]))

    def step(state: Any, given: dict[str, Any]) -> Any:
        return fastiter.torch.ssm.selective_state_update(state, **given) * 2

    results = []
    for function in (compiled(step), step):
        state = given["state"].clone()
        rest = {n: x for n, x in given.items() if n != "state"}
        results.append([function(state, rest), state])
    assert_equal(*results)


def test_a_step_refuses_gradients() -> None:
    given = step_tensors(2, (6,), 5, 1, np.float32)
    given["x"].requires_grad_()
    with pytest.raises(RuntimeError, match="selective_state_update: arguments must not require a gradient"):
        fastiter.torch.ssm.selective_state_update(**given)
    with torch.no_grad():
        fastiter.torch.ssm.selective_state_update(**given)
