"""DEQ, MonotoneDEQ and MonotoneDBM: their equations, constraints and gradients."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter.torch.experimental import MonotoneDBM  # noqa: E402
from fastiter.torch.nn import DEQ, MonotoneDEQ  # noqa: E402

F64 = torch.float64
TIGHT: dict[str, Any] = {"rtol": 1e-13, "max_steps": 3000, "throw": True}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread: in thousands of small steps, a second thread of the kernels would only wait for the first."""
    fastiter.set_num_threads(1)


def randn(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def shaken(module: Any, scale: float = 1.0) -> Any:
    """Return the module with random parameters ~ N(0, scale^2)."""
    for i, parameter in enumerate(module.parameters()):
        parameter.data = scale * randn(*parameter.shape, seed=i + 10)
    return module


def every_derivative(module: Any, call: Any, inputs: tuple[Any, ...]) -> None:
    """Check first and second derivatives of a call in its inputs and in the module's parameters."""
    names = [name for name, _ in module.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in module.parameters()]

    class Caller(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *given: Any) -> Any:
            return call(self.module, *given)

    def function(*given: Any) -> Any:
        own = {f"module.{name}": x for name, x in zip(names, given[len(inputs) :], strict=True)}
        return torch.func.functional_call(Caller(), own, given[: len(inputs)])

    assert torch.autograd.gradcheck(function, (*inputs, *values), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (*inputs, *values), fast_mode=True)


# --- DEQ --------------------------------------------------------------------------------------------------------------


class Cell(torch.nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(4, 4, dtype=F64), torch.nn.Linear(3, 4, dtype=F64)

    def forward(self, z: Any, x: Any) -> Any:
        return torch.tanh(self.inner(z) + self.outer(x))


def test_deq() -> None:
    layer, x = shaken(DEQ(Cell(), **TIGHT), 0.3), randn(2, 3).requires_grad_()
    z = layer(x, z0=x.new_zeros(2, 4))
    torch.testing.assert_close(layer.f(z, x), z, rtol=1e-12, atol=1e-12)
    assert not layer.solution.value.requires_grad and bool(layer.solution.converged.all())
    every_derivative(layer, lambda m, x: m(x, z0=x.new_zeros(2, 4)), (x,))
    assert "rtol=1e-13" in repr(layer)
    with pytest.raises(TypeError, match=r"^DEQ: f must be a module or a function"):
        DEQ(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^DEQ: z0 must be given if f has no inputs"):
        DEQ(torch.cos)()


# --- MonotoneDEQ ------------------------------------------------------------------------------------------------------


def as_matrix(layer: Any, size: tuple[int, int] | None) -> Any:
    """Return W as a matrix on flat states, by its action on unit vectors."""
    n = layer.hidden_size
    if size is None:
        return layer.W().detach()
    eye = torch.eye(n * size[0] * size[1], dtype=F64).view(-1, n, *size)
    spectrum = torch.fft.rfft2(eye)
    made = torch.fft.irfft2(torch.einsum("hwij,bjhw->bihw", layer.W(size), spectrum), s=size)
    return made.flatten(1).mT.detach()


def space_matrix(kernel: Any, size: tuple[int, int]) -> Any:
    """Return the convolution with circular padding as a matrix, tap by tap."""
    out, n, k, _ = kernel.shape
    made = torch.zeros(out, *size, n, *size, dtype=F64)
    for a in range(size[0]):
        for b in range(size[1]):
            for i in range(k):
                for j in range(k):
                    made[:, a, b, :, (a + i - k // 2) % size[0], (b + j - k // 2) % size[1]] += kernel[:, :, i, j]
    return made.view(out * size[0] * size[1], -1)


@pytest.mark.parametrize("size", [None, (3, 3), (4, 5)])
@pytest.mark.parametrize("splitting", ["peaceman-rachford", "forward-backward"])
def test_monotone_deq_solves_its_equation(size: Any, splitting: Any) -> None:
    alpha = 1.0 if splitting == "peaceman-rachford" else 0.05
    kernel = None if size is None else 3
    layer = MonotoneDEQ(2, 3, kernel, m=0.5, splitting=splitting, alpha=alpha, dtype=F64, **TIGHT)
    shaken(layer, 0.7 if size is None else 0.3)
    W = as_matrix(layer, size)
    if size is not None:
        A, C = (space_matrix(w.detach(), size) for w in (layer.weight_a, layer.weight_b))
        torch.testing.assert_close(W, 0.5 * torch.eye(len(W), dtype=F64) - A.mT @ A + C - C.mT)
    symmetric = torch.eye(len(W), dtype=F64) - (W + W.mT) / 2
    assert torch.linalg.eigvalsh(symmetric)[0] > 0.5 - 1e-12
    x = randn(2, 2, *(size or ()))
    U = layer.weight.detach() if size is None else space_matrix(layer.weight.detach(), size)
    right = x.flatten(1) @ U.mT + layer.bias.detach().repeat_interleave(1 if size is None else size[0] * size[1])
    z = layer(x).flatten(1)
    torch.testing.assert_close(z, torch.relu(z @ W.mT + right), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("splitting", ["peaceman-rachford", "forward-backward"])
def test_monotone_deq_gradients(splitting: Any) -> None:
    alpha = 1.0 if splitting == "peaceman-rachford" else 0.3
    layer = shaken(MonotoneDEQ(2, 3, m=0.5, splitting=splitting, alpha=alpha, dtype=F64, **TIGHT), 0.5)
    every_derivative(layer, lambda m, x: m(x), (randn(2, 2).requires_grad_(),))


def test_monotone_deq_gradients_of_images() -> None:
    layer = shaken(MonotoneDEQ(1, 2, 3, m=0.5, dtype=F64, **TIGHT), 0.3)
    every_derivative(layer, lambda m, x: m(x), (randn(1, 1, 4, 3).requires_grad_(),))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size must be at least 1, got 0"),
        ({"kernel_size": 2}, ValueError, "kernel_size must be odd, got 2"),
        ({"m": 0.0}, ValueError, "m must be finite and above 0, got 0.0"),
        ({"m": 1.5}, ValueError, "m must be at most 1, got 1.5"),
        ({"splitting": "picard"}, ValueError, "splitting must be one of .*, got 'picard'"),
        ({"alpha": -1.0}, ValueError, "alpha must be finite and above 0, got -1.0"),
    ],
)
def test_monotone_deq_errors(arguments: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^MonotoneDEQ: {message}"):
        MonotoneDEQ(**{"input_size": 2, "hidden_size": 3, **arguments})


def test_monotone_deq_errors_of_inputs() -> None:
    layer, x = MonotoneDEQ(3, 4), torch.randn(2, 3)
    layer(x)
    assert layer.solution is not None
    assert layer(x, layer.solution).shape == layer(x, layer.solution.value).shape == (2, 4)
    for shape in ((2, 5), (1, 4), (4,)):
        with pytest.raises(ValueError, match=r"^MonotoneDEQ: z0 must have shape \(2, 4\), got "):
            layer(x, torch.zeros(shape))
    with pytest.raises(
        TypeError, match=r"^MonotoneDEQ: x must be a torch.Tensor of dtype torch.float32, got torch.float64"
    ):
        MonotoneDEQ(2, 3)(randn(1, 2))
    with pytest.raises(ValueError, match=r"^MonotoneDEQ: x must have shape \(B, I\) with I = 2, got \(1, 3\)"):
        MonotoneDEQ(2, 3)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"^MonotoneDEQ: x must be at least as large as the kernel"):
        MonotoneDEQ(2, 3, 3)(torch.zeros(1, 2, 2, 4))
    with pytest.raises(ValueError, match=r"^MonotoneDEQ.W: size must be at least"):
        MonotoneDEQ(2, 3, 3).W()


# --- MonotoneDBM ------------------------------------------------------------------------------------------------------

TIERS: list[list[tuple[int, ...]]] = [
    [(10, 2)],
    [(5, 3), (4, 2), (1, 3)],
    [(1, 3, 6, 6), (2, 2, 3, 3), (1, 4)],
    [(1, 3, 6, 3), (1, 2, 6, 3)],
    [(2, 2, 3, 3), (1, 5)],
]


def machine(tiers: Any, m: float = 0.1, **how: Any) -> Any:
    return shaken(MonotoneDBM(tiers, m=m, dtype=F64, **{**TIGHT, **how}))


def coupling(module: Any) -> Any:
    """Return W as a matrix, by its action on unit vectors."""
    widths = [tier.width for tier in module.tiers]
    eye = torch.eye(sum(widths), dtype=F64)
    parts = [x.reshape(-1, *tier.shape) for x, tier in zip(eye.split(widths, 1), module.tiers, strict=True)]
    return torch.cat([w.flatten(1) for w in module.couple(parts)], 1).detach()


@pytest.mark.parametrize("tiers", TIERS, ids=str)
def test_the_coupling_is_symmetric_hollow_and_monotone(tiers: Any) -> None:
    module = machine(tiers)
    W = coupling(module)
    torch.testing.assert_close(W, W.mT, rtol=0, atol=1e-13)
    assert W.abs().max() > 0.05
    least = torch.linalg.eigvalsh(torch.eye(len(W), dtype=F64) - W)[0]
    assert least > 0.1 - 1e-12
    first = 0
    for tier in module.tiers:
        places = tier.width // tier.channels
        block = W[first : first + tier.width, first : first + tier.width]
        block = block.view(tier.groups, tier.states, places, tier.groups, tier.states, places)
        own = block.diagonal(dim1=0, dim2=3).diagonal(dim1=1, dim2=3)
        assert own.abs().max() < 1e-13
        first += tier.width


@pytest.mark.parametrize("tiers", TIERS, ids=str)
def test_the_mean_field_is_a_softmax_of_its_neighbours(tiers: Any) -> None:
    module = machine(tiers)
    shape = module.tiers[0].shape
    seen = torch.softmax(randn(3, *shape), 2)
    mask = randn(3, shape[0], *shape[2:], seed=1) > 0
    given, known = [seen, *[None] * (len(tiers) - 1)], [mask, *[None] * (len(tiers) - 1)]
    q = module(given, known)
    right = [torch.softmax(w + b, 2) for w, b in zip(module.couple(q), module.bias, strict=True)]
    right[0] = torch.where(mask.unsqueeze(2), seen, right[0])
    for one, other in zip(q, right, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    module.splitting = "peaceman-rachford"
    for one, other in zip(q, module(given, known), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tiers", [TIERS[1], [(1, 2, 4, 4), (1, 2, 2, 2), (1, 2)]], ids=["dense", "images"])
def test_mean_field_gradients(tiers: Any) -> None:
    module = machine(tiers, 0.3, kernel_size=1 if len(tiers[0]) > 2 else 3)
    shape = module.tiers[0].shape
    mask = randn(2, shape[0], *shape[2:], seed=1) > 0

    def call(module: Any, x: Any) -> Any:
        return module([torch.softmax(x, 2), None, None], [mask, None, None])[1:]

    x = randn(2, *shape).requires_grad_()
    every_derivative(module, call, (x,))
    found = []
    for splitting in ("forward-backward", "peaceman-rachford"):
        module.splitting = splitting
        first = torch.autograd.grad(call(module, x)[1].square().sum(), [x, *module.parameters()], create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, *module.parameters()])
        found.append([*first, *second])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


def frustrated(n: int, **how: Any) -> Any:
    """Return n mutually frustrated bits, A = [+1, -1] * n; I - W has eigenvalues from 0.1 to 0.1 + 0.9 n."""
    module = MonotoneDBM([(n, 2)], features=[1], m=0.1, dtype=F64, rtol=0.0, atol=1e-8, max_steps=600, **how)
    with torch.no_grad():
        module.lower[0].copy_(torch.tensor([1.0, -1.0], dtype=F64).repeat(n))
        module.bias[0].copy_(randn(n, 2))
    return module


@pytest.mark.parametrize("n", [10, 40])
def test_frustrated_bits(n: int) -> None:
    """Undamped mean-field iterations end in a 2-cycle; the splittings converge."""
    module = frustrated(n)
    W = coupling(module)
    eig = torch.linalg.eigvalsh(torch.eye(2 * n, dtype=F64) - W)
    torch.testing.assert_close(eig[[0, -1]], torch.tensor([0.1, 0.1 + 0.9 * n], dtype=F64))
    free = [torch.full((16, n, 2), 0.5, dtype=F64)], [torch.zeros(16, n, dtype=torch.bool)]
    q = free[0][0]
    for _ in range(200):
        before, q = q, torch.softmax(module.couple([q])[0] + module.bias[0], 2)
    after = torch.softmax(module.couple([q])[0] + module.bias[0], 2)
    assert (q - before).abs().max() > 0.5 and (after - before).abs().max() < 1e-6
    # Damped steps, as in the reference: 104 and 234 steps for 10 bits, and for 40 none at 0.125 and 233 at 0.05.
    steps = {}
    for alpha in (0.125, 0.05):
        module = frustrated(n, method="picard", alpha=alpha)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
            expected = module(*free)[0]
        steps[alpha] = int(module.solution.steps.max()) if bool(module.solution.converged.all()) else 10_000
    assert steps[0.125] == 10_000 if n == 40 else 95 <= steps[0.125] <= 115
    assert 220 <= steps[0.05] <= 260
    accelerated = frustrated(n)
    torch.testing.assert_close(accelerated(*free)[0], expected, rtol=0, atol=1e-6)
    assert int(accelerated.solution.steps.max()) < 80
    for alpha in (1.0, 0.5, 0.2):
        module = frustrated(n, splitting="peaceman-rachford", alpha=alpha)
        torch.testing.assert_close(module(*free)[0], expected, rtol=0, atol=1e-6)
        assert bool(module.solution.converged.all()) and int(module.solution.steps.max()) < 100


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tiers": 3}, TypeError, "tiers must be a sequence"),
        ({"tiers": []}, ValueError, "tiers must hold at least one, got none"),
        ({"tiers": [(3,)]}, ValueError, r"tiers\[0\] must be \(groups, states\)"),
        ({"tiers": [(3, 0)]}, ValueError, r"tiers\[0\]\[1\] must be at least 1, got 0"),
        ({"tiers": [(1, 2), (1, 2, 3, 3)]}, ValueError, "tiers must have images before the others"),
        ({"tiers": [(1, 2, 6, 6), (1, 2, 4, 4)]}, ValueError, r"tiers\[1\] must have the size \(6, 6\) by a divisor"),
        ({"tiers": [(1, 2, 4, 4), (1, 2, 2, 2)]}, ValueError, r"tiers\[1\] must be as large as the kernel, 3"),
        ({"features": [1, 2]}, ValueError, "features must have 1 numbers"),
        ({"m": 2.0}, ValueError, "m must be at most 1, got 2.0"),
        ({"alpha": 1.5}, ValueError, "alpha must be at most 1, got 1.5"),
        ({"kernel_size": 4}, ValueError, "kernel_size must be odd, got 4"),
    ],
)
def test_machine_errors(arguments: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^MonotoneDBM: {message}"):
        MonotoneDBM(**{"tiers": [(3, 2), (1, 2)], **arguments})


@pytest.mark.parametrize(
    ("observed", "mask", "error", "message"),
    [
        (3, None, TypeError, "observed must be a sequence"),
        ([None], None, ValueError, "observed must have 2 parts, one for each tier, got 1"),
        ([None, None], None, ValueError, "observed must hold at least one tensor"),
        ([torch.zeros(2, 3, 3), None], None, ValueError, r"observed\[0\] must have shape \(2, 3, 2\), got \(2, 3, 3\)"),
        ([randn(2, 3, 2), None], None, TypeError, r"observed\[0\] must have dtype torch.float32, got torch.float64"),
        ([torch.zeros(2, 3, 2), None], [None, True], ValueError, r"mask\[1\] must be None if observed\[1\] is"),
        ([torch.zeros(2, 3, 2), None], [torch.ones(2, 3), None], TypeError, r"mask\[0\] must have dtype torch.bool"),
    ],
)
def test_machine_errors_of_inputs(observed: Any, mask: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^MonotoneDBM: {message}"):
        MonotoneDBM([(3, 2), (1, 2)])(observed, mask)


@pytest.mark.parametrize(("m", "scale"), [(1.0, 1.0), (0.1, 1e-10)])
def test_the_gradient_is_finite_without_coupling_and_with_a_tiny_one(m: float, scale: float) -> None:
    torch.manual_seed(0)
    module = MonotoneDBM([(6, 4), (3, 2)], m=m)  # float32, in which 1 / scale^4 is infinite
    with torch.no_grad():
        for weight in (*module.lower, *module.upper):
            weight.mul_(scale)
    made = module([torch.eye(4)[torch.randint(4, (5, 6))], None])[1]
    made[..., 0].square().sum().backward()
    for weight in (*module.lower, *module.upper):
        assert bool(weight.grad.abs().max() <= 1e-8)  # there is no first-order change
