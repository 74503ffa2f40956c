"""Quantizers and layers as modules: rounding, learned parameters, and torch's module machinery."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter import quant as formats  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch import quant  # noqa: E402
from tests.rnn.test_torch_ops import assert_equal, compiled  # noqa: E402

# torch's own warnings: it inspects functions with a deprecated module and loads decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")


def numbers(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


QUANTIZERS: dict[str, Any] = {
    "fixed": lambda: ours.FixedQuantizer(5),
    "fixed, channels": lambda: ours.FixedQuantizer(5, axis=1, channels=6),
    "fixed, at random": lambda: ours.FixedQuantizer(5, rounding="STOCHASTIC", rng=4),
    "fixed, two terms, unsigned": lambda: ours.FixedQuantizer(7, signed=False, terms=2),
    "fixed, frozen": lambda: ours.FixedQuantizer(5, learn_point=False),
    "lsq": lambda: ours.LSQQuantizer(4),
    "lsq, channels": lambda: ours.LSQQuantizer(4, axis=-1, channels=8),
    "pact": lambda: ours.PACTQuantizer(4, alpha=1.5),
    "format": lambda: ours.FormatQuantizer("e4m3fn"),
    "format, at random": lambda: ours.FormatQuantizer("mxfp4_e2m1", axis=0),
    "format, amax": lambda: ours.FormatQuantizer("int8", scale="amax"),
    "format, amax of channels": lambda: ours.FormatQuantizer("int8<STOCHASTIC>", scale="amax", scale_axis=1, rng=3),
    "format, first": lambda: ours.FormatQuantizer("int8", scale="first"),
    "gradient": lambda: ours.GradientQuantizer("e5m2<STOCHASTIC>", rng=3),
}
every_quantizer = pytest.mark.parametrize("name", QUANTIZERS)


def trained(module: Any, *inputs: Any) -> list[Any]:
    """Return the output and the gradients."""
    given = [x.detach().clone().requires_grad_() for x in inputs]
    y = module(*given)
    wanted = [*given, *module.parameters()]
    weights = torch.arange(y.numel(), dtype=y.dtype).cos().view_as(y)
    gradients = torch.autograd.grad((weights * y.square()).sum(), wanted, allow_unused=True)
    return [y.detach(), *(g for g in gradients if g is not None)]


@every_quantizer
def test_modules_can_be_copied_and_saved(name: str) -> None:
    q = QUANTIZERS[name]()
    x = numbers(4, 6, 8)
    trained(q, x)  # initialises, and advances the counter
    buffer = io.BytesIO()
    torch.save(q.state_dict(), buffer)
    buffer.seek(0)
    loaded = QUANTIZERS[name]()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    others = [copy.deepcopy(q), pickle.loads(pickle.dumps(q)), loaded]
    expected = trained(q, x * 3)
    for other in others:
        assert_equal(trained(other, x * 3), expected)
        assert str(other) == str(q)
        assert other.formats == q.formats


def test_compiled_modules() -> None:
    """A graph of all quantizers, each of its own input."""
    x, modules = numbers(4, 6, 8), [make() for make in QUANTIZERS.values()]
    for q in modules:
        trained(q, x)
    others = copy.deepcopy(modules)
    fast = compiled(lambda each: [q(y) for q, y in zip(others, each, strict=True)])
    for scale in (1.0, 2.5):
        mine, theirs = ([(x * scale).requires_grad_() for _ in modules] for _ in range(2))
        pairs = (fast(mine), mine), ([q(y) for q, y in zip(modules, theirs, strict=True)], theirs)
        results = [[*ys, *torch.autograd.grad([y.square().sum() for y in ys], leaves)] for ys, leaves in pairs]
        for name, found, expected in zip((*QUANTIZERS, *QUANTIZERS), *results, strict=True):
            assert torch.equal(found, expected), name


def test_the_initial_binary_point_holds_the_largest_number() -> None:
    for largest, width, expected in ((1.6, 4, 2), (1.0, 4, 2), (0.9, 4, 3), (100.0, 8, 0), (0.01, 8, 13), (0.0, 8, 7)):
        q = ours.FixedQuantizer(width)
        q(torch.tensor([largest, -largest / 3]))
        assert q.point.item() == expected
        assert q.formats == (formats.Fixed(width, width - expected, rounding="RND_CONV", overflow="SAT"),)
    unsigned = ours.FixedQuantizer(4, signed=False)
    unsigned(torch.tensor([-9.0, 0.9]))
    assert unsigned.point.item() == 4


@pytest.mark.parametrize("overflow", ["SAT", "SAT_ZERO", "SAT_SYM", "WRAP", "WRAP_SM"])
@pytest.mark.parametrize("rounding", ["TRN", "RND", "RND_CONV", "RND_ZERO", "STOCHASTIC"])
def test_the_initial_binary_point_is_that_of_calibrate(rounding: str, overflow: str) -> None:
    """Nothing overflows in any mode, for largest magnitudes at and near a power of two."""
    for width, signed in ((2, True), (4, True), (8, True), (4, False), (24, True)):
        if not signed and overflow == "WRAP_SM":
            continue
        extremes = torch.tensor([1.0, -1.0, 0.97, 0.9999, 0.26, -0.51])
        x = torch.stack([extremes, torch.tensor([-0.3, 0.2, 0.1, -0.9, 0.0, 0.0])], 1)
        q = ours.FixedQuantizer(width, signed, rounding=rounding, overflow=overflow, axis=0, rng=1)
        q(x)
        for row, fmt in zip(x, q.formats, strict=True):
            assert fmt == formats.calibrate(row.numpy(), fmt).fmt
            kept = row.numpy() if signed else row.clamp(min=0).numpy()
            assert formats.quantize(kept, fmt, rng=0, counts=True)[1].overflow == 0
    plain = ours.FixedQuantizer(4, overflow=overflow)
    assert plain(torch.tensor([1.0, -0.3, 0.6]))[0] == 1.0


def test_the_point_with_the_least_error() -> None:
    x = numbers(4, 6, 500)
    x[:, 0, 0] = 9.0  # to hold one outlier, all others would lose two bits
    for axis in (None, 1):
        q = ours.FixedQuantizer(4, axis=axis, channels=axis and 6)
        q.initialize(x, method="mse")

        def noise(points: Any, q: Any = q) -> Any:
            error = (q._rounded(x, points.view(q._spread(x).shape), None) - x).square().detach()
            return error.sum((0, 2)) if q.axis is not None else error.sum()

        for change in (-2, -1, 1, 2):
            assert (noise(q.point) <= noise(q.point + change)).all()
        assert (q.point.min() if axis else q.point) >= 1


def test_channels_have_their_own_points() -> None:
    x = numbers(4, 3, 50) * torch.tensor([0.01, 1.0, 30.0]).view(1, 3, 1)
    q = ours.FixedQuantizer(6, axis=1, channels=3)
    y = q(x)
    for k in range(3):
        alone = ours.FixedQuantizer(6)
        assert torch.equal(y[:, k], alone(x[:, k]))
        assert q.formats[k] == alone.formats[0]


def test_a_learned_point_finds_the_range() -> None:
    x = numbers(4000)
    q = ours.FixedQuantizer(4)
    q.initialize(x * 40)  # five bits too far to the right
    start = (q(x) - x).square().mean().item()
    optimizer = torch.optim.Adam(q.parameters(), lr=0.1)
    for _ in range(120):
        optimizer.zero_grad()
        (q(x) - x).square().mean().backward()
        optimizer.step()
    best = ours.FixedQuantizer(4)
    best.initialize(x, method="mse")
    assert q.formats == best.formats
    assert (q(x) - x).square().mean().item() < start / 20


def test_the_factor_of_the_gradient() -> None:
    x = numbers(40, 5)
    plain, lsq = (ours.FixedQuantizer(4, gradient_scale=g) for g in (1.0, "lsq"))
    expected = trained(plain, x)[-1] / (200 * 7) ** 0.5
    torch.testing.assert_close(trained(lsq, x)[-1], expected)
    channels = [ours.LSQQuantizer(4, axis=1, channels=5, gradient_scale=g) for g in (1.0, "lsq")]
    torch.testing.assert_close(trained(channels[1], x)[-1], trained(channels[0], x)[-1] / (40 * 7) ** 0.5)


def test_lsq_starts_as_in_the_paper() -> None:
    x = numbers(400)
    q = ours.LSQQuantizer(4)
    q(x)
    assert q.step.item() == pytest.approx(2 * x.abs().mean().item() / 7**0.5, rel=1e-6)
    with torch.no_grad():
        q.step.neg_()  # a step size that has crossed zero still works
    assert torch.equal(q(x), quant.lsq(x, q.step.detach().abs(), 4))


def test_pact_is_initialised_with_the_maximum_of_a_sample() -> None:
    q = ours.PACTQuantizer(4)
    q.initialize(torch.tensor([-9.0, 2.5]))
    assert q.alpha.item() == 2.5


def test_random_rounding_is_repeated_from_a_counter() -> None:
    x = numbers(300)
    q = ours.FormatQuantizer("int4<STOCHASTIC>", scale=0.5, rng=9)
    first, second = q(x), q(x)
    assert not torch.equal(first, second)
    assert torch.equal(second, quant.quantize(x, "int4<STOCHASTIC>", scale=0.5, rng=2**32 * 9 + 1))
    q.eval()
    assert torch.equal(q(x), q(x))  # in eval mode the counter does not advance
    assert q.counter == 2
    torch.manual_seed(5)
    one = ours.FormatQuantizer("e5m2<STOCHASTIC>")
    torch.manual_seed(5)
    assert ours.FormatQuantizer("e5m2<STOCHASTIC>").seed == one.seed != one.fresh().seed


def test_the_scale_of_the_first_input_stays() -> None:
    q = ours.FormatQuantizer("int8", scale="first")
    q(torch.tensor([12.7]))
    assert torch.equal(
        q(torch.tensor([3.04, 100.0])), quant.quantize(torch.tensor([3.04, 100.0]), "int8", scale=q.scale)
    )
    assert q(torch.tensor([100.0])).item() == pytest.approx(12.7)


# --- layers -----------------------------------------------------------------------------------------------------------

FIXED = "fixed<6,3,RND,SAT>"
PLAN = ours.QuantPlan(
    weight=ours.FixedQuantizer(4, axis=0),
    bias=ours.FixedQuantizer(6),
    input="e4m3fn",
    output=FIXED,
    gradient="e5m2<STOCHASTIC>",
)
LAYERS: dict[str, Any] = {
    "linear": (lambda plan: ours.QuantLinear(6, 5, plan=plan), torch.nn.Linear(6, 5), (3, 6)),
    "linear, no bias": (
        lambda plan: ours.QuantLinear(6, 5, bias=False, plan=plan),
        torch.nn.Linear(6, 5, False),
        (2, 3, 6),
    ),
    "conv": (
        lambda plan: ours.QuantConv2d(4, 6, 3, padding=1, stride=2, groups=2, plan=plan),
        torch.nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2),
        (2, 4, 7, 6),
    ),
    "conv, reflected": (
        lambda plan: ours.QuantConv2d(4, 6, 3, padding=1, padding_mode="reflect", plan=plan),
        torch.nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        (2, 4, 7, 6),
    ),
    "norm 2d": (lambda plan: ours.QuantBatchNorm2d(4, plan=plan), torch.nn.BatchNorm2d(4), (3, 4, 5, 6)),
    "norm 2d, not affine": (
        lambda plan: ours.QuantBatchNorm2d(4, affine=False, momentum=None, plan=plan),
        torch.nn.BatchNorm2d(4, affine=False, momentum=None),
        (3, 4, 5, 6),
    ),
    "norm 1d, no statistics": (
        lambda plan: ours.QuantBatchNorm1d(4, track_running_stats=False, plan=plan),
        torch.nn.BatchNorm1d(4, track_running_stats=False),
        (5, 4),
    ),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


@every_layer
def test_without_formats_a_layer_is_torchs(name: str) -> None:
    make, theirs, shape = LAYERS[name]
    mine, theirs = make(ours.QuantPlan()), copy.deepcopy(theirs)
    assert isinstance(mine, type(theirs))
    mine.load_state_dict(theirs.state_dict())
    for training in (True, True, False):
        mine.train(training), theirs.train(training)
        x = numbers(*shape, seed=int(training)) * 2 + 1
        for a, b in zip(trained(mine, x), trained(theirs, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
        for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)


@every_layer
def test_layers_can_be_copied_and_saved(name: str) -> None:
    make, _, shape = LAYERS[name]
    layer, x = make(PLAN), numbers(*shape)
    trained(layer, x)
    loaded = make(PLAN)
    loaded.load_state_dict(layer.state_dict())
    loaded.gradient_quantizer.seed = layer.gradient_quantizer.seed  # drawn for each layer, not in checkpoints
    expected = trained(copy.deepcopy(layer), x * 2)
    for other in (pickle.loads(pickle.dumps(layer)), loaded):
        assert_equal(trained(other, x * 2), expected)


def test_a_linear_layer_by_hand() -> None:
    layer, x = ours.QuantLinear(6, 5, plan=PLAN), numbers(7, 6)
    layer(x)
    layer.gradient_quantizer.counter.zero_()
    leaves = [t.detach().clone().requires_grad_() for t in (x, layer.weight, layer.bias)]
    weight = quant.round_fixed(leaves[1], 4, layer.weight_quantizer.point.detach().view(5, 1))
    bias = quant.round_fixed(leaves[2], 6, layer.bias_quantizer.point.detach())
    product = quant.quantize(leaves[0], "e4m3fn") @ weight.t() + bias
    expected = quant.quantize(product, FIXED)
    dy = numbers(7, 5, seed=3)
    given = x.clone().requires_grad_()
    y = layer(given)
    torch.testing.assert_close(y, expected)
    rounded = quant.quantize(
        torch.where((product >= -4 - 1 / 16) & (product < 4 - 1 / 16), dy, 0),
        "e5m2<STOCHASTIC>",
        rng=layer.gradient_quantizer.seed << 32,
    )
    wanted = torch.autograd.grad(product, leaves, rounded)
    for a, b in zip(torch.autograd.grad(y, [given, layer.weight, layer.bias], dy), wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_a_normalisation_rounds_the_factor_and_the_shift() -> None:
    layer = ours.QuantBatchNorm2d(3, plan=ours.QuantPlan(weight="fixed<8,4,RND,SAT>", bias=FIXED))
    x = numbers(4, 3, 5, 5) * 3 + 2
    layer(x)
    layer.eval()
    factor = quant.quantize(torch.rsqrt(layer.running_var + layer.eps) * layer.weight, "fixed<8,4,RND,SAT>")
    shift = layer.bias - layer.running_mean * torch.rsqrt(layer.running_var + layer.eps) * layer.weight
    expected = x * factor.view(1, 3, 1, 1) + quant.quantize(shift, FIXED).view(1, 3, 1, 1)
    torch.testing.assert_close(layer(x), expected)


def test_affine_and_add() -> None:
    plan = ours.QuantPlan(weight=FIXED, bias=FIXED, input="int4", output="int5")
    affine, x = ours.QuantAffine(4, plan=plan), numbers(3, 4) * 5
    with torch.no_grad():
        affine.weight.copy_(torch.tensor([0.3, -1.0, 2.0, 9.0]))
    product = quant.quantize(x, "int4", scale="amax") * quant.quantize(affine.weight, FIXED)
    assert torch.equal(affine(x), quant.quantize(product, "int5", scale="amax"))
    add = ours.QuantAdd(plan=ours.QuantPlan(input=ours.FixedQuantizer(4), output="int5", weight="int4"))
    a, b = numbers(3, 4), numbers(3, 4, seed=1) * 20
    y = add(a, b)
    assert add.input_quantizer.point != add.other_quantizer.point
    assert torch.equal(y, quant.quantize(add.input_quantizer(a) + add.other_quantizer(b), "int5", scale="amax"))


def test_copies_of_a_template_are_apart() -> None:
    template = ours.FixedQuantizer(4, rounding="STOCHASTIC")
    layers = [ours.QuantLinear(3, 2, plan=ours.QuantPlan(weight=template, input=template)) for _ in range(2)]
    quantizers = [q for layer in layers for q in (layer.weight_quantizer, layer.input_quantizer)]
    assert len({q.seed for q in [*quantizers, template]}) == 5
    layers[0](numbers(4, 3))
    assert [bool(q.initialized) for q in [*quantizers, template]] == [True, True, False, False, False]


def test_compiled_layers_train_alike() -> None:
    def model() -> Any:
        torch.manual_seed(3)
        layers = [ours.QuantLinear(6, 8, plan=PLAN), torch.nn.ReLU(), ours.QuantLinear(8, 3, plan=PLAN)]
        return torch.nn.Sequential(*layers)

    plain, other, x = model(), model(), numbers(5, 6)
    for each in (plain, other):
        each(x)
    fast = compiled(other)
    for step in range(3):
        losses = []
        for run, owner in ((plain, plain), (fast, other)):
            owner.zero_grad()
            losses.append(run(x + step).square().sum())
            losses[-1].backward()
            with torch.no_grad():
                for parameter in owner.parameters():
                    parameter -= 0.01 * parameter.grad
        assert losses[0] == losses[1]


def test_compiled_normalisations_have_the_same_output() -> None:
    layers = torch.nn.Sequential(ours.QuantConv2d(2, 4, 3, plan=PLAN), ours.QuantBatchNorm2d(4, plan=PLAN))
    x = numbers(3, 2, 6, 6)
    layers(x)
    layers.eval()
    torch.testing.assert_close(compiled(layers)(x), layers(x), rtol=0, atol=1 / 8)  # one step where a tie occurs


def test_exported_layers() -> None:
    layers = torch.nn.Sequential(
        ours.QuantConv2d(2, 4, 3, plan=PLAN), ours.QuantBatchNorm2d(4, plan=PLAN), torch.nn.Flatten(),
        ours.QuantLinear(64, 3, plan=ours.QuantPlan(weight=ours.LSQQuantizer(4), input=ours.PACTQuantizer(5))),
    )  # fmt: skip
    layers(numbers(5, 2, 6, 6))
    layers.eval()
    batch = torch.export.Dim("B", min=1)
    program = torch.export.export(layers, (numbers(3, 2, 6, 6),), dynamic_shapes=({0: batch},))
    for size in (3, 1, 8):
        x = numbers(size, 2, 6, 6, seed=size)
        torch.testing.assert_close(program.module()(x), layers(x))
