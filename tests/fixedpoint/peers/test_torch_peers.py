"""The gradients of docs/coming_from/fixed_points.md: those of torchdeq and jaxopt, and recorded ones of optimistix."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from fastiter.torch.fixedpoint import fixed_point  # noqa: E402

WEIGHTS = [[0.3, -0.2, 0.1], [0.2, 0.4, -0.1], [-0.3, 0.1, 0.2]]
INPUT = [0.5, -1.0, 0.25]


def gradients(solve: Any) -> list[Tensor]:
    """Return z = tanh(W z + x) as ``solve`` finds it, and the gradients of the sum of its squares in W and x."""
    W = torch.tensor(WEIGHTS, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([INPUT], dtype=torch.float64, requires_grad=True)
    z = solve(W, x)
    return [z.detach()[0], *torch.autograd.grad(z.square().sum(), [W, x])]


def ours(**options: Any) -> list[Tensor]:
    def solve(W: Tensor, x: Tensor) -> Any:
        zero = torch.zeros(1, 3, dtype=torch.float64)
        how = {"method": "picard", "rtol": 0.0, "atol": 1e-13, "adjoint": {"rtol": 1e-12}} | options
        return fixed_point(lambda z, x, W: torch.tanh(z @ W.T + x), zero, W, args=(x,), **how).value

    return gradients(solve)


def agree(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a.flatten(), e.flatten(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("theirs", "options"),
    [
        ({"ift": True}, {"grad": "implicit"}),
        ({"hook_ift": True}, {"grad": "implicit"}),
        ({"grad": 1}, {"grad": "one-step"}),
        ({"grad": 3, "tau": 0.7}, {"grad": "phantom", "grad_steps": 3, "grad_damping": 0.7}),
    ],
)
def test_gradients_of_torchdeq(theirs: dict[str, Any], options: dict[str, Any]) -> None:
    torchdeq = pytest.importorskip("torchdeq")
    solver = {"f_solver": "fixed_point_iter", "f_max_iter": 60, "f_tol": 1e-14, "f_stop_mode": "abs"}
    adjoint = {"b_solver": "fixed_point_iter", "b_max_iter": 60, "b_tol": 1e-14, "b_stop_mode": "abs"}
    deq = torchdeq.get_deq(**solver, **adjoint, **theirs)

    def solve(W: Tensor, x: Tensor) -> Any:
        return deq(lambda z: torch.tanh(z @ W.T + x), torch.zeros(1, 3, dtype=torch.float64))[0][-1]

    agree(ours(**options), gradients(solve))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::fastiter.ConvergenceWarning")
@pytest.mark.parametrize("implicit", [True, False])
def test_gradients_of_jaxopt(implicit: bool) -> None:
    jax, jaxopt = pytest.importorskip("jax"), pytest.importorskip("jaxopt")
    numpy = jax.numpy

    def loss(W: Any, x: Any) -> Any:
        how = {"tol": 1e-6, "maxiter": 50} if implicit else {"tol": 0.0, "maxiter": 4}
        iteration = jaxopt.FixedPointIteration(lambda z, W, x: numpy.tanh(W @ z + x), implicit_diff=implicit, **how)
        z = iteration.run(numpy.zeros(3), W, x).params
        return (z**2).sum(), z

    (dW, dx), z = jax.grad(loss, argnums=(0, 1), has_aux=True)(numpy.array(WEIGHTS), numpy.array(INPUT))
    found = ours() if implicit else ours(grad="unrolled", atol=0.0, max_steps=4)
    for a, e in zip(found, (z, dW, dx), strict=True):
        expected = torch.tensor(e.tolist(), dtype=torch.float64).flatten()
        torch.testing.assert_close(a.flatten(), expected, rtol=0, atol=5e-6)  # jax computes in float32


#: By optimistix 0.1.0 with jax 0.10.2 in float64, the value and the gradients of (value**2).sum() in W and x of
#: ``optimistix.fixed_point(lambda y, a: jnp.tanh(a[0] @ y + a[1]), optimistix.FixedPointIteration(0.0, 1e-13),
#: jnp.zeros(3), (W, x), adjoint=ImplicitAdjoint())``
IMPLICIT = [
    [0.7018794998110542, -0.829308361427541, -0.05430152412259712],
    [
        *(0.5305759921296416, -0.6269040579818556, -0.0410484777561598),
        *(-0.4522669657970157, 0.5343777335481337, 0.03499003113738423),
        *(0.02747100067456467, -0.03245846411290113, -0.00212531810118877),
    ],
    [0.7559360150459907, -0.6443655441122954, 0.0391391979420397],
]
#: The same with ``adjoint=RecursiveCheckpointAdjoint(), max_steps=4, throw=False``
UNROLLED = [
    [0.7050547588386411, -0.8311177724015506, -0.04935050571375179],
    [
        *(0.5397929035293587, -0.6397706512402567, -0.01207888407568177),
        *(-0.440927703317437, 0.5307507428005972, -0.00225582250659163),
        *(0.01701801177440112, -0.03309451211041629, 0.01981914393597659),
    ],
    [0.7469669485425399, -0.6334519028294139, 0.04883782332737286],
]


@pytest.mark.filterwarnings("ignore::fastiter.ConvergenceWarning")
def test_recorded_gradients_of_optimistix() -> None:
    for found, recorded in ((ours(), IMPLICIT), (ours(grad="unrolled", atol=0.0, max_steps=4), UNROLLED)):
        agree(found, [torch.tensor(x, dtype=torch.float64) for x in recorded])


def test_recorded_steps_of_optimistix() -> None:
    """Its test bounds each component's change by atol + rtol |y|: 6 steps for 1e-3 and 1e-3, and 11 for 0 and 1e-6."""
    W, x = (torch.tensor(given, dtype=torch.float64) for given in (WEIGHTS, INPUT))
    for rtol, atol, recorded in ((1e-3, 1e-3, 6), (0.0, 1e-6, 11)):
        z, steps, change = torch.zeros_like(x), 0, torch.tensor(float("inf"))
        while not change < 1:
            before, z, steps = z, torch.tanh(W @ z + x), steps + 1
            change = ((z - before).abs() / (atol + rtol * z.abs())).max()
        assert steps == recorded
        options: dict[str, Any] = {"method": "picard", "rtol": rtol, "atol": atol}
        found = fixed_point(lambda z: torch.tanh(z @ W.T + x), torch.zeros(1, 3, dtype=torch.float64), **options)
        assert abs(int(found.steps) - recorded) <= 1  # the norm of all components instead of the largest ratio
