"""Figures of results: the data of what they draw, without a display."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fastiter import ConvergenceWarning, bcd, fixedpoint, mdp, relax
from fastiter.fixedpoint import monotone, prox

matplotlib = pytest.importorskip("matplotlib")

TRIDIAGONAL = 4 * np.eye(9) - np.eye(9, k=1) - np.eye(9, k=-1)
B = np.linspace(1, 2, 9)


@pytest.fixture(name="ax")
def axes() -> Any:
    from matplotlib.figure import Figure

    return Figure().subplots()


def curves(ax: Any) -> dict[str, tuple[Any, Any]]:
    """Return the data of the labelled lines."""
    return {line.get_label(): line.get_data() for line in ax.lines if not line.get_label().startswith("_")}


def levels(ax: Any) -> list[float]:
    """Return the heights of the thin lines."""
    return [float(line.get_ydata()[0]) for line in ax.lines if line.get_label().startswith("_")]


def several(problem: mdp.MDP, *scales: float) -> mdp.MDPBatch:
    """Return a process with several rewards, of different sizes."""
    return mdp.MDPBatch(problem, R=np.stack([scale * problem.rewards for scale in scales]))


def inclusion() -> Any:
    return monotone.forward_backward(prox.prox_l1, lambda x: x - 2, np.zeros(2), step=0.5)


SOLVED = {
    "sor": (lambda: relax.sor(TRIDIAGONAL, B, omega=1.0), 0, "step"),
    "sor, some steps": (lambda: relax.sor(TRIDIAGONAL, B, omega=1.0, check_every=3), 0, "check"),
    "anderson": (lambda: fixedpoint.fixed_point(np.cos, np.ones(1), batched=False), 0, "step"),
    "forward_backward": (inclusion, 1, "step"),
    "bcd": (lambda: bcd.bcd(bcd.LeastSquares(TRIDIAGONAL, B, l1=0.1)), 0, "check"),
    "vi": (lambda: mdp.examples.forest().solve("vi"), 1, "step"),
}


@pytest.mark.parametrize("name", SOLVED)
def test_a_history(name: str, ax: Any) -> None:
    solve, first, unit = SOLVED[name]
    found = solve()
    assert found.plot_history(ax) is ax
    ((label, (at, residuals)),) = curves(ax).items()
    assert label == found.method
    np.testing.assert_array_equal(at, np.arange(first, first + len(found.history)))
    np.testing.assert_array_equal(residuals, found.history)
    assert (at[-1] == found.steps) == (unit == "step")
    assert levels(ax) == [found.tolerance]
    assert (ax.get_yscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", unit, "residual")


def test_histories_on_the_same_axes_have_one_legend(ax: Any) -> None:
    relax.sor(TRIDIAGONAL, B).plot_history(ax)
    relax.ssor_cg(TRIDIAGONAL, B).plot_history(ax, label="mine")
    assert list(curves(ax)) == ["sor", "mine"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["sor", "mine"]


def test_each_sample_has_a_curve_until_its_end(ax: Any) -> None:
    starts = np.array([[0.739], [0.1], [1.5]])
    found = fixedpoint.fixed_point(np.cos, starts, method="picard", rtol=1e-10)
    assert len(set(found.steps.tolist())) > 1
    found.plot_history(ax)
    drawn = curves(ax)
    assert list(drawn) == ["picard, 0", "picard, 1", "picard, 2"]
    for k, (_, residuals) in enumerate(drawn.values()):
        end = found.steps[k] + 1
        np.testing.assert_array_equal(residuals[:end], found.history[:end, k])
        assert np.isnan(residuals[end:]).all() and residuals[end - 1] == found.residual[k]
    assert levels(ax) == [found.tolerance.min(), found.tolerance.max()]


def test_columns_of_tensors(ax: Any) -> None:
    torch = pytest.importorskip("torch")
    from fastiter.torch.fixedpoint import fixed_point

    found = fixed_point(torch.cos, torch.linspace(0, 1, 3, dtype=torch.float64)[:, None], method="picard")
    found.plot_history(ax)
    for k, (_, residuals) in enumerate(curves(ax).values()):
        np.testing.assert_array_equal(residuals[: found.steps[k] + 1], found.history[: found.steps[k] + 1, k].numpy())


def test_each_model_has_a_curve_until_its_end(ax: Any) -> None:
    found = several(mdp.examples.garnet(9, 2, 3), 1e-3, 1.0).solve("vi")
    found.plot_history(ax)
    assert len(found.history) == 2 and np.isnan(found.history[0, -1])
    for (_, residuals), history in zip(curves(ax).values(), found.history, strict=True):
        np.testing.assert_array_equal(residuals, history)


def test_many_curves_have_no_legend(ax: Any) -> None:
    relax.sor(TRIDIAGONAL, np.outer(B, np.arange(1, 12))).plot_history(ax)
    assert len(curves(ax)) == 11 and ax.get_legend() is None


@pytest.mark.parametrize("count", [0, 2])
def test_nothing_to_draw_on_a_logarithmic_axis(count: int, ax: Any) -> None:
    """No column, or only columns whose residual is 0 from the first step on."""
    found = relax.sor(TRIDIAGONAL, np.zeros((9, count)))
    found.plot_history(ax)
    assert len(curves(ax)) == count and ax.get_yscale() == "linear" and levels(ax) == []
    ax.figure.canvas.draw()


def test_a_residual_of_zero_at_the_end(ax: Any) -> None:
    found = relax.jacobi(2 * np.eye(3), np.ones(3), omega=1.0)
    assert found.history[0] > 0 and found.history[-1] == 0
    found.plot_history(ax)
    ax.figure.canvas.draw()
    assert ax.get_yscale() == "log"


# ---- Paths ----------------------------------------------------------------------------------------------------------


def test_a_path(ax: Any) -> None:
    A, b = np.diag([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.0, -2.0, 0.5])
    path = bcd.lasso_path(A, b, [4.0, 1.5, 0.25])
    assert path.plot(ax) is ax
    assert list(curves(ax)) == ["x[0]", "x[2]", "x[3]"]  # b[1] = 0
    for j, (weights, coefficients) in zip((0, 2, 3), curves(ax).values(), strict=True):
        np.testing.assert_array_equal(weights, path.l1)
        np.testing.assert_array_equal(coefficients, path.value[:, j])
    assert ax.get_xscale() == "log" and ax.xaxis.get_inverted()
    path.plot(ax)
    assert ax.xaxis.get_inverted()


def test_a_path_of_tensors(ax: Any) -> None:
    torch = pytest.importorskip("torch")
    from fastiter.torch.bcd import lasso_path

    b = torch.tensor([3.0, 0.0, 1.0], requires_grad=True)
    path = lasso_path(torch.eye(3), b, torch.tensor([2.0, 0.5]))
    assert path.value.requires_grad
    path.plot(ax)
    assert {name: y.tolist() for name, (_, y) in curves(ax).items()} == {"x[0]": [1, 2.5], "x[2]": [0, 0.5]}


def test_a_grid_of_tensors(ax: Any) -> None:
    torch = pytest.importorskip("torch")
    from fastiter.torch.mdp import solve

    P = torch.eye(4, dtype=torch.float64)[:, None]
    found = solve(P, torch.arange(4.0, dtype=torch.float64, requires_grad=True)[:, None], 0.5)
    found.plot_grid((2, 2), moves=[(0, 1)], ax=ax)
    np.testing.assert_array_equal(ax.images[0].get_array(), found.value.detach().numpy().reshape(2, 2))
    assert len(arrows(ax)) == 4


def test_a_path_that_a_callback_has_ended(ax: Any) -> None:
    path = bcd.lasso_path(np.eye(2), np.array([3.0, 1.0]), [2.0, 1.0, 0.5], callback=lambda progress: True)
    assert path.reason[1:] == ("callback", "callback")
    path.plot(ax)
    ((weights, coefficients),) = curves(ax).values()
    assert weights.tolist() == [2.0] and coefficients.tolist() == [path.value[0, 0]]


def test_a_path_without_weights(ax: Any) -> None:
    bcd.lasso_path(np.eye(2), np.array([3.0, 1.0]), []).plot(ax)
    assert curves(ax) == {} and ax.get_legend() is None
    ax.figure.canvas.draw()


# ---- Grids ----------------------------------------------------------------------------------------------------------


def arrows(ax: Any) -> dict[tuple[int, int], tuple[float, float]]:
    """Return the steps right and down of the arrows by their row and column."""
    (quiver,) = ax.collections
    return {(int(y), int(x)): (u, v) for (x, y), u, v in zip(quiver.XY, quiver.U, quiver.V, strict=True)}


def corridor() -> mdp.MDP:
    """Two rows of three cells, the last of which ends; action 0 moves right and 1 down, and both wrap around."""
    to = np.zeros((2, 6, 6))
    for cell in range(6):
        y, x = divmod(cell, 3)
        to[0, cell, 3 * y + (x + 1) % 3] = to[1, cell, 3 * (1 - y) + x] = 1
    return mdp.MDP(to, np.full((6, 2), -1.0), 0.9, terminal=[5])


def test_a_grid(ax: Any) -> None:
    found = corridor().solve()
    moves = np.array([[0, 1], [1, 0]])
    assert found.plot_grid((2, 3), moves=moves, ax=ax) is ax
    np.testing.assert_array_equal(ax.images[0].get_array(), found.value.reshape(2, 3))
    assert ax.images[0].colorbar is not None
    drawn = arrows(ax)
    assert set(drawn) == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)}  # all but the terminal state
    for (y, x), step in drawn.items():
        assert step == tuple(moves[found.policy[3 * y + x]][::-1])
    assert ax.yaxis.get_inverted()  # so that row 0 is the upper one and down is downwards


def test_the_compass_of_gridworld(ax: Any) -> None:
    """Each arrow but that of the goal leads to the cell that is nearest to it without slips."""
    found = mdp.examples.gridworld(4, 1.0, slip=0.0).solve()
    found.plot_grid((4, 4), ax=ax)
    values = found.value.reshape(4, 4)
    for (y, x), (right, down) in arrows(ax).items():
        if (y, x) != (3, 3):
            assert values[y + int(down), x + int(right)] == values[y, x] + 1


@pytest.mark.parametrize(("shape", "rows", "columns"), [((1, 60), [0], 20), ((60, 1), range(1, 60, 3), 1)])
def test_larger_grids_have_fewer_arrows(shape: tuple[int, int], rows: Any, columns: int, ax: Any) -> None:
    stay = mdp.MDP(np.eye(60)[None], np.arange(60.0)[:, None], 0.5).solve()
    stay.plot_grid(shape, moves=[(0, 1)], ax=ax)
    assert {y for y, _ in arrows(ax)} == set(rows) and len({x for _, x in arrows(ax)}) == columns


def test_a_grid_of_one_of_several_models(ax: Any) -> None:
    found = several(mdp.examples.gridworld(3), 1.0, 2.0).solve()
    found.plot_grid((3, 3), model=1, ax=ax)
    np.testing.assert_array_equal(ax.images[0].get_array(), found.value[1].reshape(3, 3))
    for model in (None, 2, -1, True):
        with pytest.raises((TypeError, ValueError), match=r"^plot_grid: model must be .*, got "):
            found.plot_grid((3, 3), model=model)


def test_wrong_grids_are_refused() -> None:
    from matplotlib import pyplot

    found = mdp.examples.gridworld(3).solve()
    for shape, error in (((2, 3), ValueError), (9, TypeError), ((9,), TypeError), ((0, 9), ValueError)):
        with pytest.raises(error, match=r"^plot_grid: shape(\[0\])? must .*, got "):
            found.plot_grid(shape)  # type: ignore[arg-type]
    for moves, error in (([(0, 1)], ValueError), ([0, 1], ValueError), ("news", TypeError), (None, TypeError)):
        with pytest.raises(error, match=r"^plot_grid: moves must .*, got "):
            found.plot_grid((3, 3), moves=moves)
    with pytest.raises(TypeError, match=r"^plot_grid: model must be None, .*, got 0$"):
        found.plot_grid((3, 3), model=0)
    assert pyplot.get_fignums() == []


# ---- Axes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(name="pyplot")
def without_a_display() -> Iterator[Any]:
    from matplotlib import pyplot

    before = matplotlib.get_backend()
    pyplot.switch_backend("Agg")
    yield pyplot
    pyplot.close("all")
    pyplot.switch_backend(before)


def test_a_new_figure_by_default(pyplot: Any) -> None:
    found = relax.sor(TRIDIAGONAL, B)
    one, other = found.plot_history(), found.plot_history()
    assert one.figure is not other.figure and pyplot.gcf() is other.figure


def test_other_axes_are_refused(ax: Any) -> None:
    found = relax.sor(TRIDIAGONAL, B)
    for other, kind in ((ax.figure, "Figure"), ([ax], "list"), ("ax", "str")):
        with pytest.raises(TypeError, match=rf"^plot_history: ax must be the Axes .*, got \S*{kind}$"):
            found.plot_history(other)
    with pytest.raises(TypeError, match=r"^plot: ax must be"):
        bcd.lasso_path(np.eye(2), np.ones(2)).plot(ax.figure)


def test_without_a_history() -> None:
    found = replace(relax.sor(TRIDIAGONAL, B), history=None)
    with pytest.raises(ValueError, match=r"^plot_history: the solver must have recorded a history, got None$"):
        found.plot_history()


def test_what_did_not_converge_is_drawn(ax: Any) -> None:
    with pytest.warns(ConvergenceWarning):
        found = relax.jacobi(np.array([[1.0, 2.0], [3.0, 1.0]]), np.ones(2))
    found.plot_history(ax)
    np.testing.assert_array_equal(curves(ax)["jacobi"][1], found.history)


def test_without_matplotlib_the_error_names_it() -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy as np; from fastiter import relax\n"
        "relax.sor(np.eye(2), np.ones(2)).plot_history()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    expected = "plot_history needs matplotlib, which is not installed: pip install fastiter-kernels[plot]"
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: {expected}"
