"""Fixed-point layers after a call: copies, files, and autocast."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch import experimental, nn  # noqa: E402
from fastiter.torch.fixedpoint import fixed_point  # noqa: E402

EDGES = torch.tensor([[0, 1, 2], [1, 2, 3]])


def calls() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Return each layer with its inputs."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = torch.randn(4, 3, generator=generator)
    pixels = torch.eye(4)[torch.randint(4, (5, 6), generator=generator)]
    tiers = [(6, 4), (3, 2)]
    return {
        "DEQ": (nn.DEQ(torch.nn.RNNCell(3, 3)), (x,)),
        "MonotoneDEQ": (nn.MonotoneDEQ(3, 5), (x,)),
        "MonotoneDEQ with forward-backward": (nn.MonotoneDEQ(3, 5, splitting="forward-backward", alpha=0.1), (x,)),
        "MonotoneDEQ of images": (nn.MonotoneDEQ(2, 3, 3), (torch.randn(2, 2, 4, 5, generator=generator),)),
        "MonotoneDBM": (experimental.MonotoneDBM(tiers), ([pixels, None],)),
        "MonotoneDBM with Peaceman-Rachford": (
            experimental.MonotoneDBM(tiers, splitting="peaceman-rachford"),
            ([pixels, None],),
        ),
        "ConvergentGraphSolver": (experimental.ConvergentGraphSolver(3, 0, 2), (x, EDGES)),
        "ConvergentGraphSolver without features": (experimental.ConvergentGraphSolver(0, 0, 2), (4, EDGES)),
        "ConvergentGraphSolver with attention": (
            experimental.ConvergentGraphSolver(3, 0, 2, normalization="attention"),
            (x, EDGES),
        ),
    }


@pytest.mark.parametrize("name", calls())
def test_a_layer_can_be_copied_and_saved_after_a_call(name: str) -> None:
    layer, inputs = calls()[name]
    made = layer(*inputs)
    assert layer.solution is not None
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        torch.testing.assert_close(other(*inputs), made, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in calls() if name != "DEQ"])
def test_autocast_changes_no_layer(name: str) -> None:
    layer, inputs = calls()[name]
    results = []
    for enabled in (False, True):
        layer.zero_grad()
        with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            warnings.simplefilter("error")
            made = layer(*inputs)
            made = made[-1] if isinstance(made, tuple) else made
        made.square().sum().backward()
        results.append([made, *(p.grad for p in layer.parameters() if p.grad is not None)])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_under_autocast_f_returns_the_dtype_of_x0() -> None:
    linear, z = torch.nn.Linear(3, 3), torch.zeros(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(TypeError, match=r"like x0, got bfloat16, as autocast has it; \.to\(x\.dtype\) is as x0$"):
            fixed_point(lambda x: torch.tanh(0.2 * linear(x)), z)
        found = fixed_point(lambda x: torch.tanh(0.2 * linear(x)).to(x.dtype), z)
    assert found.converged.all() and found.value.dtype == torch.float32


class Tied(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Two layers that share a module, a weight, or nothing."""

    def __init__(self, shared: str) -> None:
        super().__init__()
        self.a = torch.nn.Linear(2, 2, dtype=torch.float64)
        self.b = self.a if shared == "module" else torch.nn.Linear(2, 2, dtype=torch.float64)
        if shared == "weight":
            self.b.weight = self.a.weight

    def forward(self, z: Any) -> Any:
        return torch.tanh(self.a(torch.sin(self.b(z))))


@pytest.mark.parametrize("shared", ["module", "weight", "nothing"])
def test_parameters_with_several_names_keep_their_gradients(shared: str) -> None:
    torch.manual_seed(0)
    module, z = Tied(shared), torch.zeros(3, 2, dtype=torch.float64)
    before = dict(module.named_parameters(remove_duplicate=False))
    found = fixed_point(module, z, rtol=1e-13).value
    first = torch.autograd.grad(found.square().sum(), module.parameters(), create_graph=True)
    second = torch.autograd.grad(sum(x.square().sum() for x in first), module.parameters())
    after = dict(module.named_parameters(remove_duplicate=False))
    assert before.keys() == after.keys() and all(after[name] is x for name, x in before.items())
    for _ in range(200):
        z = module(z)
    first_by_steps = torch.autograd.grad(z.square().sum(), module.parameters(), create_graph=True)
    second_by_steps = torch.autograd.grad(sum(x.square().sum() for x in first_by_steps), module.parameters())
    for made, expected in zip((*first, *second), (*first_by_steps, *second_by_steps), strict=True):
        torch.testing.assert_close(made, expected, rtol=1e-8, atol=1e-10)


def test_warnings_are_at_the_line_that_called() -> None:
    """Between it and fastiter are frames of torch: of a decorator, a module's call, a backward pass."""
    x = torch.ones(2, 3, requires_grad=True)

    def doubled(z: Any, x: Any) -> Any:
        return 2 * z + x

    layer = nn.DEQ(lambda z, x: 0.5 * z + x, adjoint={"max_steps": 1})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fixed_point(doubled, torch.zeros(2, 3), x, method="picard")
        nn.DEQ(doubled, method="picard")(x)
        layer(x).sum().backward()
    assert ["backward" in str(each.message) for each in caught] == [False, False, True]
    assert {each.filename for each in caught} == {__file__}


WRONG_OPTIONS = {
    "name": ({"methd": "picard"}, TypeError, "takes no option 'methd', only m, damping"),
    "method": ({"method": "nope"}, ValueError, "method must be "),
    "rtol": ({"rtol": -1.0}, ValueError, "rtol must be finite and at least 0, got -1"),
    "max_steps": ({"max_steps": 0.5}, TypeError, "max_steps must be an int"),
    "norm": ({"norm": "l3"}, ValueError, "norm must be "),
    "patience": ({"patience": 0}, ValueError, "patience must be at least 1, got 0"),
    "option of the method": ({"m": -1}, ValueError, "m must be "),
    "grad": ({"grad": "none"}, ValueError, "grad must be "),
    "unrolled": ({"grad": "unrolled"}, ValueError, "method must be 'picard' with grad='unrolled'"),
    "grad_steps": ({"grad": "phantom", "grad_steps": 0}, ValueError, "grad_steps must be at least 1, got 0"),
    "adjoint": ({"adjoint": 3}, TypeError, "adjoint must be a mapping"),
    "adjoint's": ({"adjoint": {"methd": 3}}, TypeError, "takes no option 'methd'"),
}


@pytest.mark.parametrize("case", WRONG_OPTIONS)
def test_layers_refuse_options_when_they_are_made(case: str) -> None:
    options, error, text = WRONG_OPTIONS[case]
    layers = {
        "DEQ": lambda: nn.DEQ(torch.nn.Linear(4, 4), **options),
        "MonotoneDEQ": lambda: nn.MonotoneDEQ(3, 5, **options),
        "MonotoneDBM": lambda: experimental.MonotoneDBM([(3, 2), (1, 2)], **options),
    }
    for name, make in layers.items():
        with pytest.raises(error) as found:
            make()
        assert str(found.value).startswith(name) and text in str(found.value)


def test_right_options_are_those_of_the_function() -> None:
    options = {"rtol": 1e-6, "atol": 1e-9, "max_steps": 50, "norm": "inf", "patience": 7, "throw": False, "m": 3}
    options |= {"callback": lambda progress: None, "grad": "neumann", "grad_steps": 3, "adjoint": {"method": "picard"}}
    layer, x = nn.DEQ(lambda z, x: 0.5 * torch.cos(z) + x, **options), torch.ones(2, 3)
    assert torch.equal(layer(x), fixed_point(layer.f, torch.zeros(2, 3), x, **options).value)
    nn.DEQ(torch.nn.Linear(4, 4), method="picard", damping=0.5, grad="unrolled", batched=False)


@pytest.mark.parametrize("hidden", [1, 5])
def test_a_state_of_another_width_needs_a_start(hidden: int) -> None:
    cell = torch.nn.RNNCell(3, hidden)
    layer, x = nn.DEQ(lambda z, x: 0.1 * cell(x, z)), torch.ones(2, 3)
    text = r"^DEQ: z0 must be given if the state of f has not the shape of the first input, \(2, 3\), got None; .+"
    with pytest.raises(ValueError, match=text):
        layer(x)
    assert layer(x, z0=torch.zeros(2, hidden)).shape == (2, hidden)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        nn.DEQ(lambda z, x: _fail())(x)


def _fail() -> None:
    raise RuntimeError("something else")
