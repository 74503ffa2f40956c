"""torch.ssm's gated_rms_norm, mamba_inner and mamba2_inner against their equations, with gradients of every input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.overrides import TorchFunctionMode  # noqa: E402

import fastiter.torch  # noqa: E402
from tests.ssm import mixer_reference as reference  # noqa: E402
from tests.ssm.errors.test_errors import refused, shape  # noqa: E402
from tests.ssm.mixer_calls import B, D, H, N, P, T, inner_inputs, split_inputs  # noqa: E402
from tests.support.error_cases import TYPE, VALUE, Wrong  # noqa: E402

ssm = fastiter.torch.ssm
DOUBLE = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.*torch.jit.script")


def leaves(given: dict[str, Any]) -> dict[str, Any]:
    return {name: x.detach().clone().requires_grad_() for name, x in given.items()}


def results(function: Callable[..., Any], given: dict[str, Any], **options: Any) -> list[Any]:
    """The outputs, and the gradients of all arguments."""
    inputs = leaves(given)
    found = function(**inputs, **options)
    outputs = [found] if isinstance(found, torch.Tensor) else list(found)
    torch.manual_seed(1)
    weights = [torch.randn(y.shape, dtype=y.dtype) for y in outputs]
    return [*outputs, *torch.autograd.grad(outputs, list(inputs.values()), weights)]


def assert_equal_results(found: list[Any], expected: list[Any], names: list[str]) -> None:
    """float64"""
    for name, a, e in zip([*["out"] * (len(found) - len(names)), *names], found, expected, strict=True):
        assert (a - e).norm() <= 1e-11 * e.norm(), name


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("before", [True, False])
def test_norms(groups: int, before: bool) -> None:
    x, z, weight, bias = torch.randn(2, 3, 6), torch.randn(2, 3, 6), torch.randn(6), torch.randn(6)
    for names in ("xz", "xzb", "x", "xb"):
        given = {n: y.double() for n, y in zip("xzb", (x, z, bias), strict=True) if n in names}
        given = {"weight": weight.double()} | {"bias" if n == "b" else n: y for n, y in given.items()}
        options = {"eps": 0.3, "groups": groups, "norm_before_gate": before}
        found = results(ssm.gated_rms_norm, given, **options)

        def expected(x: Any, weight: Any, z: Any = None, bias: Any = None) -> Any:
            return reference.norm(x, weight, z, bias, 0.3, groups, before)

        assert_equal_results(found, results(expected, given), list(given))

        def call(*inputs: Any, names: Any = tuple(given), options: Any = options) -> Any:
            return ssm.gated_rms_norm(**dict(zip(names, inputs, strict=True)), **options)

        assert torch.autograd.gradgradcheck(call, tuple(leaves(given).values()), fast_mode=True)


def test_norms_of_stored_types() -> None:
    x, z = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    for stored in (torch.bfloat16, torch.float16):
        half = [y.to(stored) for y in (x * 200, torch.ones(8), z)]  # the squares exceed the range of float16
        found = ssm.gated_rms_norm(*half, norm_before_gate=False)
        assert found.dtype == stored and found.isfinite().all()
        assert torch.equal(found, ssm.gated_rms_norm(*[y.float() for y in half], norm_before_gate=False).to(stored))
    empty = ssm.gated_rms_norm(x[:0], torch.ones(8), z[:0])
    assert empty.shape == (0, 5, 8)


def norms(dtype: Any = DOUBLE) -> dict[str, Any]:
    shapes = {"b_rms_weight": N, "c_rms_weight": N, "dt_rms_weight": D}
    return {name: torch.randn(size, dtype=dtype) for name, size in shapes.items()}


@pytest.mark.parametrize("channels_last", [False, True])
def test_mamba_inner(channels_last: bool) -> None:
    for more in ({}, norms()):
        given = inner_inputs(DOUBLE) | more

        def call(xz: Any, **rest: Any) -> Any:
            return ssm.mamba_inner(xz.transpose(1, 2).contiguous().transpose(1, 2) if channels_last else xz, **rest)

        found = results(call, given, b_c_dt_rms_eps=1e-3)
        assert_equal_results(found, results(reference.mamba_inner, given, b_c_dt_rms_eps=1e-3), list(given))
    fixed = inner_inputs(DOUBLE, fixed="BC") | {"delta_softplus": False}
    fixed["delta_proj_weight"] = fixed["delta_proj_weight"][:, ::2].repeat_interleave(2, 1)  # strided
    columns = [*range(5), 5]
    again = ssm.mamba_inner(**{**fixed, "xz": fixed["xz"].flip(2).flip(2), "A": fixed["A"][columns]})
    assert torch.equal(again, ssm.mamba_inner(**fixed))


def test_complex_rates() -> None:
    given = inner_inputs(DOUBLE, is_complex=True)
    assert_equal_results(results(ssm.mamba_inner, given), results(reference.mamba_inner, given), list(given))
    with pytest.raises(ValueError, match=r"^mamba_inner: b_rms_weight must be None if A is complex, got both"):
        ssm.mamba_inner(**given, **norms())


def test_sizes_of_mamba_inner() -> None:
    for time, batch in ((0, 2), (1, 2), (5, 0)):
        given = inner_inputs(DOUBLE, time=time, batch=batch)
        out, *gradients = results(ssm.mamba_inner, given)
        assert out.shape == (batch, time, 5)
        assert all(not g.isnan().any() for g in gradients)
    one = inner_inputs(DOUBLE, time=1)
    assert_equal_results(results(ssm.mamba_inner, one), results(reference.mamba_inner, one), list(one))


def labels() -> Any:
    """The sequence labels: a row that begins with 0, and one that does not."""
    return torch.tensor([[0] * 8 + [1] * 5 + [2] * 8, [3] * 2 + [4] * 19])


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("mlp", [0, 2])
def test_mamba2_inner(before: bool, mlp: int) -> None:
    given, options = split_inputs(DOUBLE, mlp=mlp)
    given["state"] = torch.randn(B, H, P, N, dtype=DOUBLE)
    given["D"] = torch.randn(H, P, dtype=DOUBLE)
    options |= {"norm_before_gate": before, "dt_limit": (0.2, 1.5), "seq_idx": labels(), "rmsnorm_eps": 1e-3}
    found = results(ssm.mamba2_inner, given, **options, return_last_state=True)
    assert_equal_results(found, results(reference.mamba2_inner, given, **options), list(given))
    for name in ("rmsnorm_weight", "outproj_bias", "outproj_weight"):
        del given[name]
    found = results(ssm.mamba2_inner, given, **options, return_last_state=True)
    assert_equal_results(found, results(reference.mamba2_inner, given, **options), list(given))


def test_gradients_by_differences() -> None:
    """torch's gradcheck, for functions whose results the tests above compare through autograd."""
    given, options = split_inputs(DOUBLE, mlp=1, time=4, batch=1)
    given["state"] = torch.randn(1, H, P, N, dtype=DOUBLE)
    options["return_last_state"] = True
    for function, inputs, more in (
        (ssm.mamba_inner, inner_inputs(DOUBLE, time=4, batch=1) | norms(), {}),
        (ssm.mamba2_inner, given, options),
    ):

        def call(*values: Any, function: Any = function, names: Any = tuple(inputs), more: Any = more) -> Any:
            return function(**dict(zip(names, values, strict=True)), **more)

        assert torch.autograd.gradcheck(call, tuple(leaves(inputs).values()), fast_mode=True)


def test_sizes_of_mamba2_inner() -> None:
    for time, batch in ((0, 2), (1, 2), (5, 0)):
        given, options = split_inputs(DOUBLE, time=time, batch=batch)
        numbers = torch.zeros(batch, time, dtype=torch.int32)
        out, last, *gradients = results(ssm.mamba2_inner, given, seq_idx=numbers, return_last_state=True, **options)
        assert out.shape == (batch, time, 5) and last.shape == (batch, H, P, N)
        assert all(not g.isnan().any() for g in gradients)


def test_views_and_stored_types_of_mixers() -> None:
    given, options = split_inputs(torch.float32)
    wide = torch.zeros(B, 2 * T, given["zxbcdt"].shape[2] + 3)
    wide[:, ::2, 3:] = given["zxbcdt"]
    strided = {**given, "zxbcdt": wide[:, ::2, 3:], "outproj_weight": given["outproj_weight"].T.contiguous().T}
    torch.testing.assert_close(ssm.mamba2_inner(**strided, **options), ssm.mamba2_inner(**given, **options))
    for function, inputs, more in (
        (ssm.mamba2_inner, given, options),
        (ssm.mamba_inner, inner_inputs(torch.float32), {}),
    ):
        first = next(iter(inputs))
        exact = function(**inputs, **more)
        found = function(**{**inputs, first: inputs[first].bfloat16()}, **more)  # weights are converted
        assert found.dtype == torch.bfloat16
        assert (found - exact).norm() < 0.02 * exact.norm()
        with torch.autocast("cpu"):
            assert (function(**inputs, **more) - exact).norm() < 0.02 * exact.norm()


def mixers() -> Any:
    given, options = split_inputs(torch.float32)
    return ((ssm.mamba_inner, inner_inputs(torch.float32), {}), (ssm.mamba2_inner, given, options))


def test_second_derivatives_are_refused() -> None:
    for function, inputs, more in mixers():
        inputs = leaves(inputs)
        first = next(iter(inputs.values()))
        (gradient,) = torch.autograd.grad(function(**inputs, **more).sum(), first, create_graph=True)
        with pytest.raises(RuntimeError, match=r"twice|once|second"):
            gradient.sum().backward()


def test_compile() -> None:
    given, options = split_inputs(torch.float32)
    for function, inputs, more in (
        (ssm.mamba_inner, inner_inputs(torch.float32), {}),
        (ssm.mamba2_inner, given, options),
    ):
        torch._dynamo.reset()
        found = torch.compile(function, fullgraph=True, backend="eager")(**inputs, **more)
        torch.testing.assert_close(found, function(**inputs, **more))


def test_function_modes_meta_tensors_and_vmap() -> None:
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function)
            return function(*args, **(kwargs or {}))

    x = torch.randn(2, 3, 6)
    calls = [*mixers(), (ssm.gated_rms_norm, {"x": x, "weight": torch.ones(6), "z": x}, {"groups": 2})]
    for function, inputs, more in calls:
        exact = function(**inputs, **more)
        with Mode():
            assert torch.equal(function(**inputs, **more), exact)
        assert function in seen
        found = function(**{name: y.to("meta") for name, y in inputs.items()}, **more)
        assert found.is_meta and found.shape == exact.shape
        first = next(iter(inputs))
        stacked = torch.stack([inputs[first], 2 * inputs[first]])
        mapped = torch.func.vmap(lambda y, f=function, i=inputs, n=first, m=more: f(**{**i, n: y}, **m))(stacked)
        torch.testing.assert_close(mapped[0], exact)


def wrong_tensors(given: dict[str, Any]) -> Any:
    for name, x in given.items():
        yield Wrong(f"{name} is a list", {name: [1.0]}, TYPE, name, "list")
        yield Wrong(f"{name} is int32", {name: x.int()}, TYPE, name, "int32")
        yield Wrong(f"{name} has another rank", {name: x[None, None]}, VALUE, name, shape(x[None, None]))


def wrong_norms(given: dict[str, Any]) -> Any:
    yield from (w for w in wrong_tensors(given) if "rank" not in w.label or "x" not in w.changes)
    yield Wrong("x is a number", {"x": given["x"][0, 0, 0]}, VALUE, "x", r"\(\)")
    for groups in (4, 0):
        yield Wrong(f"groups is {groups}", {"groups": groups}, VALUE, "groups", str(groups))
    for groups in (True, 1.0):
        yield Wrong(f"groups is {groups}", {"groups": groups}, TYPE, "groups", type(groups).__name__)
    yield Wrong("eps is negative", {"eps": -1.0}, VALUE, "eps", "-1.0")
    yield Wrong("eps is text", {"eps": "x"}, TYPE, "eps", "str")
    yield Wrong("a flag is 1", {"norm_before_gate": 1}, TYPE, "norm_before_gate", "int")


def wrong_inner(given: dict[str, Any]) -> Any:
    yield from wrong_tensors(given)
    for name, x in given.items():
        if name not in ("xz", "out_proj_weight"):
            yield Wrong(f"{name} is short", {name: x[1:]}, VALUE, name, shape(x[1:]))
    yield Wrong("xz has an odd width", {"xz": given["xz"][:, 1:]}, VALUE, "xz", shape(given["xz"][:, 1:]))
    yield Wrong("B is given with its bias", {"B": torch.zeros(D, N)}, VALUE, "b_rms_weight", "both")
    yield Wrong("a flag is 1", {"delta_softplus": 1}, TYPE, "delta_softplus", "int")
    yield Wrong("eps is negative", {"b_c_dt_rms_eps": -1.0}, VALUE, "b_c_dt_rms_eps", "-1.0")


def wrong_inner2(given: dict[str, Any]) -> Any:
    yield from wrong_tensors(given)
    for name in ("dt_bias", "A", "rmsnorm_weight", "outproj_bias", "conv1d_bias", "state"):
        yield Wrong(f"{name} is short", {name: given[name][1:]}, VALUE, name, shape(given[name][1:]))
    for name in ("headdim", "ngroups"):
        yield Wrong(f"{name} is 0", {name: 0}, VALUE, name, "0")
        for value in (1.0, True, None):
            yield Wrong(f"{name} is {value}", {name: value}, TYPE, name, type(value).__name__)
    yield Wrong("D is wider", {"D": torch.ones(H, P), "headdim": P + 1}, VALUE, "headdim", str(P + 1))
    yield Wrong("ngroups does not divide H", {"ngroups": 3}, VALUE, "ngroups", "3")
    yield Wrong("heads too wide", {"headdim": 7}, VALUE, "conv1d_weight", shape(given["conv1d_weight"]))
    narrow = given["zxbcdt"][..., 1:]
    yield Wrong("zxbcdt is narrow", {"zxbcdt": narrow}, VALUE, "zxbcdt", shape(narrow))
    yield Wrong("a bias without a weight", {"outproj_weight": None}, VALUE, "outproj_bias", "a tensor")
    yield Wrong("seq_idx is short", {"seq_idx": labels()[:, 1:]}, VALUE, "seq_idx", r"\(2, 20\)")
    yield Wrong("seq_idx is float", {"seq_idx": labels().float()}, TYPE, "seq_idx", "float32")
    yield Wrong("activation is relu", {"activation": "relu"}, VALUE, "activation", "relu")
    yield Wrong("dt_limit falls", {"dt_limit": (2.0, 1.0)}, VALUE, "dt_limit", r"\(2.0, 1.0\)")
    yield Wrong("a flag is 1", {"return_last_state": 1}, TYPE, "return_last_state", "int")


def test_wrong_arguments() -> None:
    x = torch.randn(2, 3, 6)
    given = {"x": x, "weight": torch.ones(6), "z": x, "bias": torch.ones(6)}
    refused(ssm.gated_rms_norm, given, wrong_norms(given))
    given = inner_inputs(torch.float32) | norms(torch.float32)
    refused(ssm.mamba_inner, given, wrong_inner(given))
    given, options = split_inputs(torch.float32)
    given["state"] = torch.randn(B, H, P, N)
    refused(ssm.mamba2_inner, {**given, **options}, wrong_inner2(given))
