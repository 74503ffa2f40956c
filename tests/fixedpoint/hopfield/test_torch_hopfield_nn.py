"""Hopfield, HopfieldPooling and HopfieldLayer: the equations, hopfield-layers' state_dict, masks, options, errors."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

import fastiter  # noqa: E402
from fastiter.torch.fixedpoint import hopfield_update  # noqa: E402
from fastiter.torch.nn import Hopfield, HopfieldLayer, HopfieldPooling  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")

#: hopfield-layers' names and shapes of parameters, by its constructor's arguments
PARAMETERS: list[tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = [
    (
        {"input_size": 8, "num_heads": 2},
        {
            **{
                f"norm_{name}.{part}": (8,)
                for name in ("stored_pattern", "state_pattern", "pattern_projection")
                for part in ("weight", "bias")
            },
            "association_core.in_proj_weight": (24, 8),
            "association_core.in_proj_bias": (24,),
            "association_core.out_proj.weight": (8, 8),
            "association_core.out_proj.bias": (8,),
        },
    ),
    (
        {
            "input_size": 8,
            "hidden_size": 5,
            "pattern_size": 3,
            "num_heads": 2,
            "output_size": 7,
            "stored_pattern_size": 6,
            "pattern_projection_size": 4,
            "normalize_stored_pattern_affine": False,
            "normalize_state_pattern": False,
            "normalize_state_pattern_affine": False,
            "normalize_hopfield_space": True,
            "normalize_hopfield_space_affine": True,
        },
        {
            "norm_pattern_projection.weight": (4,),
            "norm_pattern_projection.bias": (4,),
            "association_core.p_norm_weight": (5,),
            "association_core.p_norm_bias": (5,),
            "association_core.q_proj_weight": (10, 8),
            "association_core.k_proj_weight": (10, 6),
            "association_core.v_proj_weight": (6, 4),
            "association_core.in_proj_bias": (26,),
            "association_core.out_proj.weight": (7, 6),
            "association_core.out_proj.bias": (7,),
        },
    ),
    (
        {
            "input_size": 8,
            "hidden_size": 8,
            "num_heads": 2,
            "stored_pattern_as_static": True,
            "input_bias": False,
            "normalize_stored_pattern": False,
            "normalize_stored_pattern_affine": False,
            "disable_out_projection": True,
            "normalize_state_pattern": False,
            "normalize_state_pattern_affine": False,
            "normalize_pattern_projection": False,
            "normalize_pattern_projection_affine": False,
        },
        {"association_core.in_proj_weight": (32, 8)},
    ),
    (
        {
            "input_size": 8,
            "num_heads": 2,
            "pattern_projection_as_connected": True,
            "concat_bias_pattern": True,
            "normalize_stored_pattern": False,
            "normalize_stored_pattern_affine": False,
            "normalize_state_pattern": False,
            "normalize_state_pattern_affine": False,
            "normalize_pattern_projection": False,
            "normalize_pattern_projection_affine": False,
        },
        {
            "association_core.q_proj_weight": (8, 8),
            "association_core.k_proj_weight": (8, 8),
            "association_core.v_proj_weight": (8, 8),
            "association_core.in_proj_bias": (24,),
            "association_core.bias_k": (1, 1, 8),
            "association_core.bias_v": (1, 1, 8),
            "association_core.out_proj.weight": (8, 8),
            "association_core.out_proj.bias": (8,),
        },
    ),
]


def with_numbers(layer: Any, scale: float = 0.5) -> Any:
    """Return the layer with parameters large enough to matter: the initial ones are small or 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))
    return layer


def associated(q: Any, k: Any, beta: Any, steps: int, ignored: Any = None) -> Any:
    """Return softmax(beta q k) after some updates of q; all (H, ., .) of one row of a batch."""
    for _ in range(steps + 1):
        z = beta[:, None, None] * (q @ k.mT)
        weights = (z if ignored is None else z.masked_fill(ignored, -torch.inf)).softmax(-1)
        q = weights @ k
    return weights


def by_equations(
    layer: Any, stored: Any, state: Any, projection: Any, beta: Any, steps: int, ignored: Any = None
) -> Any:
    """Return the output for one row of a batch, (L, E), by the equations, in loops over heads."""
    core, heads = layer.association_core, layer.association_core.num_heads
    patterns = []
    for x, norm in (
        (stored, layer.norm_stored_pattern),
        (state, layer.norm_state_pattern),
        (projection, layer.norm_pattern_projection),
    ):
        patterns.append(x if norm is None else norm(x))
    stored, state, projection = patterns
    if core.in_proj_weight is not None:
        of_q, of_k, of_v = core.in_proj_weight.chunk(3)
    else:
        of_q, of_k, of_v = core.q_proj_weight, core.k_proj_weight, core.v_proj_weight
    bias_q, bias_k, bias_v = core.in_proj_bias.split([len(of_q), len(of_k), len(of_v)])
    q, k, v = state @ of_q.T + bias_q, stored @ of_k.T + bias_k, projection @ of_v.T + bias_v
    out = []
    for h in range(heads):
        qh, kh, vh = (x.chunk(heads, -1)[h] for x in (q, k, v))
        if core.normalizes:
            qh, kh = (F.layer_norm(x, x.shape[-1:], core.p_norm_weight, core.p_norm_bias) for x in (qh, kh))
        out.append(associated(qh[None], kh[None], beta[h : h + 1], steps, ignored)[0] @ vh)
    return torch.cat(out, -1) @ core.out_proj.weight.T + core.out_proj.bias


@pytest.mark.parametrize(("options", "expected"), PARAMETERS)
def test_parameters_are_those_of_hopfield_layers(options: dict[str, Any], expected: dict[str, Any]) -> None:
    layer = Hopfield(**options)
    assert {name: tuple(x.shape) for name, x in layer.state_dict().items()} == expected
    for make, own in (
        (HopfieldPooling, {"pooling_weights": (1, 3, 8)}),
        (HopfieldLayer, {"lookup_weights": (1, 3, layer.stored_pattern_dim)}),
    ):
        found = {name: tuple(x.shape) for name, x in make(quantity=3, **options).state_dict().items()}
        assert found == {**{f"hopfield.{name}": shape for name, shape in expected.items()}, **own}


def test_a_trained_beta_has_the_name_of_hopfield_layers() -> None:
    layer = Hopfield(8, num_heads=2, scaling=torch.nn.Parameter(torch.tensor([1.0, 2.0])))
    assert "_Hopfield__scaling" in layer.state_dict()
    fixed = Hopfield(8, num_heads=2, scaling=torch.tensor([1.0, 2.0]))
    assert "_Hopfield__scaling" not in fixed.state_dict() and fixed.double().scaling.dtype == torch.float64  # type: ignore[union-attr]
    layer(torch.randn(1, 3, 8)).sum().backward()
    grad = dict(layer.named_parameters())["_Hopfield__scaling"].grad
    assert grad is not None and (grad != 0).all()


@pytest.mark.parametrize("options", [PARAMETERS[0][0], PARAMETERS[1][0]])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_output_is_that_of_the_equations(options: dict[str, Any], steps: int) -> None:
    """Each head has its own beta, masks and updates included, and state_dicts load by name."""
    beta = torch.tensor([0.5, 4.0], dtype=torch.float64)
    made = with_numbers(Hopfield(**options, scaling=beta, update_steps_max=steps, update_steps_eps=1e-300).double())
    layer = Hopfield(**options, scaling=beta, update_steps_max=steps, update_steps_eps=1e-300).double()
    layer.load_state_dict(made.state_dict())
    generator = torch.Generator().manual_seed(1)
    stored = torch.randn(3, 9, layer.stored_pattern_dim, dtype=torch.float64, generator=generator)
    state = torch.randn(3, 4, layer.input_size, dtype=torch.float64, generator=generator)
    projection = torch.randn(3, 9, layer.pattern_projection_dim, dtype=torch.float64, generator=generator)
    padding = torch.tensor([[0] * 9, [0] * 7 + [1] * 2, [1] + [0] * 8], dtype=torch.bool)
    mask = torch.zeros(4, 9, dtype=torch.bool)
    mask[1, 3:] = True
    out = layer((stored, state, projection), padding, mask)
    for b in range(3):
        ignored = mask | padding[b]
        expected = by_equations(layer, stored[b], state[b], projection[b], beta, steps, ignored)
        torch.testing.assert_close(out[b], expected)
    floats = torch.zeros(3 * 2, 4, 9, dtype=torch.float64).masked_fill(mask, -torch.inf)
    torch.testing.assert_close(layer((stored, state, projection), padding, floats), out)
    other = Hopfield(
        **options, scaling=beta, update_steps_max=steps, update_steps_eps=1e-300, batch_first=False
    ).double()
    other.load_state_dict(made.state_dict())
    swapped = other(tuple(x.transpose(0, 1) for x in (stored, state, projection)), padding, mask)
    torch.testing.assert_close(swapped.transpose(0, 1), out)
    weights = layer.get_association_matrix((stored, state, projection), padding, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 4, dtype=torch.float64))
    assert (weights[1, ..., 7:] == 0).all()
    assert layer.get_projected_pattern_matrix((stored, state, projection)).shape == (3, 2, 9, layer.pattern_size)


def static(**more: Any) -> Any:
    """Return an association without parameters."""
    names = ("stored_pattern", "state_pattern", "pattern_projection")
    off: dict[str, Any] = {f"normalize_{name}{affine}": False for name in names for affine in ("", "_affine")}
    off |= {f"{name}_as_static": True for name in names}
    return Hopfield(**off, disable_out_projection=True, **more)


def test_static_patterns_are_retrieved_by_hopfield_update() -> None:
    """Without projections, an association is one more update; each row and head has its own patterns."""
    stored, state = torch.randn(3, 9, 6), torch.randn(3, 4, 6)
    for most in (0, 2):
        layer = static(update_steps_max=most, update_steps_eps=1e-30, scaling=torch.tensor([0.5, 3.0]), num_heads=2)
        assert not list(layer.parameters())
        out = layer((stored, state, stored)).unflatten(-1, (2, 6))
        for h, beta in enumerate((0.5, 3.0)):
            torch.testing.assert_close(out[:, :, h], hopfield_update(state, stored, beta=beta, steps=most + 1).value)
    layer = static(update_steps_max=None, update_steps_eps=1e-6, scaling=3.0)
    fixed = hopfield_update(state, stored, beta=3.0, rtol=0, atol=1e-6).value
    torch.testing.assert_close(layer((stored, state, stored)), hopfield_update(fixed, stored, beta=3.0, steps=1).value)


def test_heads_have_their_own_limits() -> None:
    x = torch.randn(2, 7, 8)
    most, eps = torch.tensor([0, 3, -1, 3]), torch.tensor([1e-4, 1e-5, 1e-6, 1e-5])
    make: dict[str, Any] = {"input_size": 8, "num_heads": 4, "scaling": 2.0, "disable_out_projection": True}
    mixed = with_numbers(Hopfield(**make, update_steps_max=most, update_steps_eps=eps))
    found = mixed(x).unflatten(-1, (4, 2))
    for h, (n, e) in enumerate(((0, 1e-4), (3, 1e-5), (None, 1e-6), (3, 1e-5))):
        alone = Hopfield(**make, update_steps_max=n, update_steps_eps=e)
        alone.load_state_dict(mixed.state_dict())
        torch.testing.assert_close(found[:, :, h], alone(x).unflatten(-1, (4, 2))[:, :, h])


def test_additional_patterns_are_seen_by_every_query() -> None:
    """The bias pattern and the zero pattern are seen even if all others are masked; without them, 0 is retrieved."""
    x, nothing = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    for option in ("concat_bias_pattern", "add_zero_association"):
        more: dict[str, Any] = {option: True}
        layer = with_numbers(Hopfield(8, num_heads=2, **more))
        assert (layer.get_association_matrix(x, nothing)[..., -1] == 1).all()
        core = layer.association_core
        expected = core.bias_v[0] if option == "concat_bias_pattern" else torch.zeros(1, 8)
        torch.testing.assert_close(layer(x, nothing), core.out_proj(expected).expand(2, 5, 8))
    layer = with_numbers(Hopfield(8, num_heads=2, update_steps_max=2))
    torch.testing.assert_close(layer(x, nothing), layer.association_core.out_proj(torch.zeros(2, 5, 8)))


def test_connected_values_are_projected_twice() -> None:
    options = {**PARAMETERS[3][0], "concat_bias_pattern": False, "disable_out_projection": True}
    layer = with_numbers(Hopfield(**options))
    x, core = torch.randn(2, 5, 8), layer.association_core
    keys = x @ core.k_proj_weight.T + core.in_proj_bias[8:16]
    expected = keys @ core.v_proj_weight.T + core.in_proj_bias[16:]
    torch.testing.assert_close(layer.get_projected_pattern_matrix(x), expected.unflatten(-1, (2, 4)).transpose(1, 2))


def test_learned_patterns_are_those_of_the_association() -> None:
    x = torch.randn(3, 6, 8)
    pool = with_numbers(HopfieldPooling(8, num_heads=2, quantity=2, update_steps_max=2))
    out = pool.hopfield((x, pool.pooling_weights.expand(3, -1, -1), x))
    torch.testing.assert_close(pool(x), out.flatten(1))
    assert pool.get_association_matrix(x).shape == (3, 2, 2, 6)
    by_time = HopfieldPooling(8, num_heads=2, quantity=2, update_steps_max=2, batch_first=False)
    state = pool.state_dict()
    by_time.load_state_dict({**state, "pooling_weights": state["pooling_weights"].transpose(0, 1)})
    torch.testing.assert_close(by_time(x.transpose(0, 1)), pool(x))
    for separated in (False, True):
        lookup = with_numbers(
            HopfieldLayer(8, num_heads=2, quantity=5, lookup_weights_as_separated=separated, update_steps_max=2)
        )
        targets = lookup.target_weights if separated else lookup.lookup_weights
        expected = lookup.hopfield((lookup.lookup_weights.expand(3, -1, -1), x, targets.expand(3, -1, -1)))
        torch.testing.assert_close(lookup(x), expected)
        lookup(x).sum().backward()
        assert all(parameter.grad is not None for parameter in lookup.parameters())
    fixed = HopfieldLayer(8, 4, quantity=5, trainable=False)
    assert not fixed.lookup_weights.requires_grad and fixed.hidden_size == 4


@pytest.mark.parametrize("most", [0, 2, None])
def test_gradients(most: Any) -> None:
    layer = with_numbers(Hopfield(4, num_heads=2, update_steps_max=most, update_steps_eps=1e-12, scaling=3.0).double())
    stored, state = torch.randn(2, 4, 4, dtype=torch.float64), torch.randn(2, 2, 4, dtype=torch.float64)
    weights = dict(layer.named_parameters())
    inputs = (stored.requires_grad_(), state.requires_grad_(), *weights.values())

    def function(stored: Any, state: Any, *values: Any) -> Any:
        given = dict(zip(weights, values, strict=True))
        return torch.func.functional_call(layer, given, ((stored, state, stored),))

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


def test_dropout_activation_copies_and_repr() -> None:
    x = torch.randn(2, 5, 8)
    layer = Hopfield(8, dropout=0.5, association_activation="relu")
    assert (layer(x) >= 0).all() and not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    assert "association_core" in repr(layer)
    compiled = torch.compile(Hopfield(8, num_heads=2, update_steps_max=2), backend="eager", fullgraph=True)
    assert compiled(x).shape == x.shape


def test_failures_to_converge_are_reported() -> None:
    layer = static(update_steps_max=None, update_steps_eps=1e-300, scaling=1.0)
    stored = torch.randn(1, 5, 4, dtype=torch.float64)
    with pytest.warns(fastiter.ConvergenceWarning, match="hopfield_update: every query must converge"):
        layer((stored * torch.nan, stored, stored))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "Hopfield: input_size must be given"),
        ({"input_size": 8, "num_heads": 3}, ValueError, "Hopfield: num_heads must divide input_size = 8"),
        ({"input_size": 8, "hidden_size": 0}, ValueError, "Hopfield: hidden_size must be at least 1, got 0"),
        ({"input_size": 8, "scaling": torch.ones(2)}, ValueError, r"Hopfield: scaling must have shape .* got \(2,\)"),
        ({"input_size": 8, "scaling": 0.0}, ValueError, "Hopfield: scaling must be finite and above 0, got 0"),
        (
            {"input_size": 8, "update_steps_max": -1},
            ValueError,
            "Hopfield: update_steps_max must be at least 0, got -1",
        ),
        ({"input_size": 8, "update_steps_eps": 0}, ValueError, "Hopfield: update_steps_eps must be finite and above 0"),
        (
            {"input_size": 8, "update_steps_max": torch.ones(2)},
            ValueError,
            "Hopfield: update_steps_max must have shape",
        ),
        ({"input_size": 8, "dropout": 1.5}, ValueError, "Hopfield: dropout must be at most 1, got 1.5"),
        ({"input_size": 8, "batch_first": 1}, TypeError, "Hopfield: batch_first must be a bool, got int"),
        (
            {"input_size": 8, "normalize_state_pattern": False},
            ValueError,
            "Hopfield: normalize_state_pattern_affine must",
        ),
        (
            {"input_size": 8, "association_activation": "none"},
            ValueError,
            "Hopfield: association_activation must be the",
        ),
        (
            {"input_size": 8, "pattern_size": 3, "concat_bias_pattern": True},
            ValueError,
            "Hopfield: concat_bias_pattern must be False unless .* got pattern_size 3",
        ),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        Hopfield(**options)


def test_errors_of_calls_and_learned_patterns() -> None:
    with pytest.raises(ValueError, match=r"Hopfield: state patterns must have three axes with a last axis of 8, got"):
        Hopfield(8)((torch.ones(1, 2, 8), torch.ones(1, 2, 7), torch.ones(1, 2, 8)))
    with pytest.raises(ValueError, match="Hopfield: association_mask must not require a gradient with updates"):
        Hopfield(8, update_steps_max=1)(torch.ones(1, 2, 8), None, torch.zeros(2, 2, requires_grad=True))
    with pytest.raises(TypeError, match="Hopfield: input must be a tensor or"):
        Hopfield(8)((torch.ones(1, 2, 8),) * 2)
    with pytest.raises(ValueError, match="HopfieldPooling: quantity must be at least 1, got 0"):
        HopfieldPooling(8, quantity=0)
    with pytest.raises(TypeError, match="HopfieldLayer: arguments after update_steps_eps must be given by name, got 9"):
        HopfieldLayer(8, 4, 4, 4, 2, 1.0, 0, 1e-4, False)


@pytest.mark.parametrize("most", [0, 2, None])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(most: Any, dtype: Any) -> None:
    """The updates are in float32: only projections and weights are rounded, with errors of about eps each."""
    layer = with_numbers(Hopfield(8, num_heads=2, update_steps_max=most, scaling=torch.tensor([1.0, 2.0])))
    x, padding = torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    mask = torch.randn(5, 5)
    exact = layer(x, padding, mask)
    bound = 64 * torch.finfo(dtype).eps * float(exact.detach().abs().max())
    half = copy.deepcopy(layer).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        found = (half(x.to(dtype), padding, mask.to(dtype)), layer(x, padding, mask))
    for z in found:
        assert z.dtype == dtype and float((z.float() - exact).detach().abs().max()) <= bound
    z = half(x.to(dtype), padding, mask.to(dtype))
    assert z.dtype == dtype and float((z.float() - exact).detach().abs().max()) <= bound
    z.float().sum().backward()
    assert all(parameter.grad is not None for parameter in half.parameters())


def test_default_device() -> None:
    layer = Hopfield(8, num_heads=2, update_steps_max=2)
    x, padding = torch.randn(1, 5, 8), torch.ones(1, 5, dtype=torch.bool)
    expected = layer(x, padding)
    with torch.device("meta"):
        torch.testing.assert_close(layer(x, padding), expected)
