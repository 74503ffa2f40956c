"""torch.ssm.dplr_delta_rule: gradients, torch's own checks, compile, export, transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from fastiter.ssm._torch.low_rank import DeltaTensors, key_decay_delta_rule  # noqa: E402
from tests.rnn.test_torch_ops import assert_equal, compiled, opcheck  # noqa: E402
from tests.ssm.attention_calls import DECAYS  # noqa: E402
from tests.ssm.calls import assert_near, some_bounds, some_lengths, some_resets  # noqa: E402
from tests.ssm.test_low_rank import low_rank_inputs  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402

# torch's own warnings: it inspects functions with a deprecated module and loads decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")
OPS = torch.ops.fastiter
rule = fastiter.torch.ssm.dplr_delta_rule

CUTS: dict[str, dict[str, Any]] = {
    "whole rows": {},
    "resets": {"reset": torch.from_numpy(some_resets(2, 53))},
    "lengths": {"lengths": torch.tensor([53, 20])},
    "packed": {"cu_seqlens": torch.tensor(some_bounds(3, 53))},
}


def leaves(*size: int, dtype: Any = np.float64, **options: Any) -> dict[str, Any]:
    made = low_rank_inputs(size, dtype, **options)  # type: ignore[arg-type]
    return {name: torch.from_numpy(x.copy()).requires_grad_() for name, x in made.items()}


def loop(q: Any, k: Any, v: Any, a: Any, b: Any, log_decay: Any = None, decay: Any = None, state: Any = None) -> Any:
    """The equations in torch's operations, which autograd differentiates; whole rows."""
    q, k = (x.repeat_interleave(v.shape[2] // q.shape[2], 2) for x in (q, k))
    factors = decay if log_decay is None else log_decay.exp()
    if factors is not None and factors.dim() == 1:
        factors = factors.expand(v.shape[:3])
    S, outputs = state, []
    for t in range(q.shape[1]):
        w = (S * a[:, t, :, :, None]).sum(2)
        kept = S
        if factors is not None:
            kept = S * (factors[:, t, :, None, None] if factors.dim() == 3 else factors[:, t, :, :, None])
        S = kept + b[:, t, :, :, None] * w[:, :, None] + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append((S * q[:, t, :, :, None]).sum(2))
    return torch.stack(outputs, 1), S


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("cut", CUTS)
def test_gradients_by_finite_differences(decay: str, cut: str) -> None:
    packed = cut == "packed"
    given = leaves(1 if packed else 2, 53, 2, 3, 2, decay=decay, shared=2, sequences=3 if packed else None)
    assert torch.autograd.gradcheck(
        lambda *x: rule(**dict(zip(given, x, strict=True)), scale=0.7, **CUTS[cut]),
        tuple(given.values()),
        fast_mode=True,
        nondet_tol=0,
    )


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
def test_gradients_of_the_loop(decay: str, dtype: Any) -> None:
    for size, shared in (((1, 1, 1, 1, 1), 1), ((2, 60, 4, 20, 33), 2), ((1, 100, 1, 70, 65), 1)):
        given = leaves(*size, dtype=dtype, decay=decay, shared=shared)
        wide = {n: x.detach().double().requires_grad_() for n, x in given.items()}
        outputs, expected = rule(**given), loop(**wide)
        rng = np.random.default_rng(1)
        weights = [torch.from_numpy(rng.standard_normal(y.shape).astype(dtype)) for y in outputs]
        found = torch.autograd.grad(outputs, list(given.values()), weights)
        wanted = torch.autograd.grad(expected, list(wide.values()), [w.double() for w in weights])
        for name, a, e in zip(given, found, wanted, strict=True):
            assert a.dtype == given[name].dtype
            assert_near(a.numpy(), e.numpy(), dtype, 4 * int(np.prod(size)), name)


def test_only_inputs_that_require_a_gradient_get_one() -> None:
    every = leaves(1, 53, 4, 5, 3, dtype=np.float32, decay="vector", shared=2)
    for output in range(2):
        total = rule(**every)[output].sum()
        expected = dict(zip(every, torch.autograd.grad(total, list(every.values()), retain_graph=True), strict=True))
        for name in every:
            given = {n: x.detach().requires_grad_(n == name) for n, x in every.items()}
            found = torch.autograd.grad(rule(**given)[output].sum(), given[name])[0]
            assert_same_bits(found.numpy(), expected[name].numpy())
    assert not rule(**{n: x.detach() for n, x in every.items()})[0].requires_grad


def test_gradients_have_the_same_bits_on_any_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 3):
        fastiter.set_num_threads(threads)
        given = leaves(2, 120, 6, 64, 40, dtype=np.float32, decay="vector", shared=2)
        o, last = rule(**given)
        results.append([g.numpy() for g in torch.autograd.grad(o.sum() + last.sum(), list(given.values()))])
    for other in results[1:]:
        assert_same_bits(tuple(other), tuple(results[0]))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_storage_types(stored: Any) -> None:
    given = leaves(2, 60, 4, 20, 9, dtype=np.float32, decay="vector", shared=2)
    cast = {n: x.detach() if n == "state" else x.detach().to(stored) for n, x in given.items()}
    results = []
    for dtype in (stored, torch.float32):
        own = {n: (x.clone() if n == "state" else x.to(dtype)).requires_grad_() for n, x in cast.items()}
        outputs = rule(**own)
        assert outputs[0].dtype == dtype and outputs[1].dtype == torch.float32
        weights = [torch.ones_like(y) for y in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, list(own.values()), weights)])
    for a, e in zip(*results, strict=True):
        assert torch.equal(a, e.to(a.dtype))


def test_unsupported_derivatives_are_refused_and_vmap() -> None:
    given = leaves(1, 3, 2, 3, 2, decay="scalar")
    (g,) = torch.autograd.grad(rule(**given)[0].sum(), given["q"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"^dplr_delta_rule: .* cannot be differentiated twice"):
        g.sum().backward()
    stacked = {n: torch.stack([x.detach(), x.detach() - 0.1]) for n, x in given.items()}
    mapped = torch.func.vmap(lambda x: rule(**x))(stacked)
    for i in range(2):
        for a, e in zip(mapped, rule(**{n: x[i] for n, x in stacked.items()}), strict=True):
            assert torch.equal(a[i], e)


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
def test_the_delta_rule_with_a_decay_for_each_key(packed: bool) -> None:
    """It equals the general rule with a = -beta e^g k, b = k and beta v, including all gradients."""
    size, bounds = (1 if packed else 2, 101, 4, 20, 33), torch.tensor(some_bounds(3, 101)) if packed else None
    given = leaves(*size, decay="vector", shared=2, sequences=3 if packed else None)
    beta = torch.rand(size[:3], dtype=torch.float64).requires_grad_()
    tensors = [given[n] for n in ("q", "k", "v", "log_decay")] + [beta, given["state"]]
    found = key_decay_delta_rule("delta", DeltaTensors(*tensors), 0.5, bounds)
    q, k, v, g, _, state = tensors
    wide, strength = k.repeat_interleave(2, 2), beta[..., None]
    corrections = (-strength * g.exp() * wide, strength * wide)
    queries = q.repeat_interleave(2, 2)
    options: dict[str, Any] = {"scale": 0.5, "state": state, "cu_seqlens": bounds}
    expected = rule(queries, strength * wide, v, -g.exp() * wide, corrections[1], g, **options)
    also = rule(queries, wide, strength * v, corrections[0], wide, g, **options)
    weights = [torch.randn_like(y) for y in found]
    gradients = [torch.autograd.grad(y, tensors, weights, retain_graph=True) for y in (found, expected, also)]
    for a, *others in zip([*found, *gradients[0]], [*expected, *gradients[1]], [*also, *gradients[2]], strict=True):
        for e in others:
            assert_near(a.detach().numpy(), e.detach().numpy(), np.float64, 400)
    if not packed:
        first, state = key_decay_delta_rule("delta", DeltaTensors(*(x[:, :7] for x in tensors[:5]), state), 0.5, None)
        last, state = key_decay_delta_rule("delta", DeltaTensors(*(x[:, 7:] for x in tensors[:5]), state), 0.5, None)
        pieces = (torch.cat([first, last], 1), state)
        for piece, whole in zip(pieces, found, strict=True):
            assert_same_bits(piece.detach().numpy(), whole.detach().numpy())


def test_opcheck() -> None:
    for size, decay, shared, cut in (
        ((2, 53, 2, 3, 2), "none", 1, (None, None, None)),
        ((2, 5, 4, 3, 2), "scalar", 2, (torch.from_numpy(some_resets(2, 5)), torch.tensor(some_lengths(2, 5)), None)),
        ((1, 53, 2, 3, 2), "vector", 1, (None, None, torch.tensor(some_bounds(3, 53)))),
    ):
        given = leaves(*size, dtype=np.float32, decay=decay, shared=shared, sequences=3 if cut[2] is not None else None)
        names = ("q", "k", "v", "log_decay", "a", "b", "beta", "state")
        tensors = [given[n].detach() if n in given else None for n in names]
        if decay == "vector":
            tensors[4:7] = [None, None, torch.rand(size[:3])]
        for save in (False, True):
            opcheck(OPS._low_rank_fwd, *tensors, 1, 0.5, *cut, save)
        o, last, w, states = OPS._low_rank_fwd(*tensors, 1, 0.5, *cut, True)
        for d_o, dlast, requested in ((o, last, 255), (None, last, 5), (o, None, 130)):
            requested &= sum(1 << i for i, x in enumerate(tensors) if x is not None)
            opcheck(OPS._low_rank_bwd, *tensors[:7], w, states, d_o, dlast, True, 0.5, *cut, requested)


def test_compile_and_export_with_any_sizes() -> None:
    def layer(given: dict[str, Any], lengths: Any) -> Any:
        o, last = rule(**{**given, "q": torch.tanh(given["q"])}, lengths=lengths)
        return o * 2, last

    fast = compiled(layer, dynamic=True)
    for size in ((3, 60, 4, 16, 20), (2, 7, 4, 16, 24)):
        given = leaves(*size, dtype=np.float32, decay="vector", shared=2)
        lengths = torch.tensor(some_lengths(size[0], size[1]))
        results = []
        for function in (fast, layer):
            outputs = function(given, lengths)
            results.append([*outputs, *torch.autograd.grad(sum(y.sum() for y in outputs), list(given.values()))])
        assert_equal(*results)

    class Layer(torch.nn.Module):
        def forward(self, *given: Any) -> Any:
            return rule(*given)

    def some(batch: int, time: int) -> tuple[Any, ...]:
        made = leaves(batch, time, 2, 6, 5, dtype=np.float32, decay="vector", state=False)
        return tuple(x.detach() for x in made.values())

    batch, time = torch.export.Dim("B", min=1), torch.export.Dim("T", min=1)
    program = torch.export.export(Layer(), some(2, 33), dynamic_shapes=(({0: batch, 1: time},) * 6,))
    for sizes in ((2, 33), (4, 5)):
        assert_equal(list(program.module()(*some(*sizes))), list(Layer()(*some(*sizes))))
    o, last = rule(**{n: x.detach().to("meta") for n, x in leaves(2, 5, 2, 3, 4).items()})
    assert o.shape == (2, 5, 2, 4) and last.shape == (2, 2, 3, 4) and o.is_meta
