"""Figures of results in one style. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ._array_like import as_array
from ._check import count, type_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[Any]

#: Maximum number of curves that a legend names, and of arrows along one side of a grid
_NAMED, _ARROWS = 10, 25
_THIN: dict[str, Any] = {"color": "grey", "linewidth": 0.8}


class PlotsHistory:
    """A result with the residual at each check, (checks,) or (checks, k) for k columns, samples or models."""

    history: Any
    #: Whether the first residual is that before the first step
    _begins_before: ClassVar[bool] = True

    def plot_history(self, ax: Axes | None = None, *, label: str | None = None) -> Axes:
        """Draw the residual at each check on a logarithmic axis, and the tolerance as a thin line.

        Calls with the same axes compare solvers. Each column, sample or model has a curve, which ends with it; if their
        tolerances differ, there are lines at the smallest and the largest.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.
        label : str, optional
            The name of the curve in the legend, by default the method.

        Returns
        -------
        matplotlib.axes.Axes
            The axes, with the curves as their lines.

        Raises
        ------
        ModuleNotFoundError
            If matplotlib is not installed.
        TypeError
            If ``ax`` is no Axes.
        ValueError
            If the solver has not recorded a history.
        """
        if self.history is None:
            raise ValueError("plot_history: the solver must have recorded a history, got None")
        return _draw_history(self, axes_of("plot_history", ax), label)

    def _residuals(self) -> Array:
        """Return the residuals with the checks along axis 0."""
        return numbers(self.history)


def axes_of(function: str, ax: object) -> Axes:
    """Return the axes to draw on, those of a new figure for None."""
    try:
        from matplotlib import pyplot
        from matplotlib.axes import Axes
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        needs = f"{function} needs matplotlib, which is not installed"
        raise ModuleNotFoundError(f"{needs}: pip install fastiter-kernels[plot]", name="matplotlib") from None
    if ax is None:
        return pyplot.subplots(layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"{function}: ax must be the Axes of a matplotlib figure, got {type_name(ax)}")
    return ax


def numbers(x: Any) -> Array:
    """Return an array, also of a tensor."""
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


def _draw_history(solution: Any, ax: Axes, label: str | None) -> Axes:
    residuals, steps = solution._residuals(), numbers(solution.steps)
    name = solution.method if label is None else label
    names = [name] if residuals.ndim == 1 else [f"{name}, {k}" for k in range(residuals.shape[1])]
    curves = np.array(residuals[:, None] if residuals.ndim == 1 else residuals, np.float64)
    at = np.arange(len(curves)) + (not solution._begins_before)
    is_every_step = at.size > 0 and steps.size > 0 and at[-1] == steps.max()
    if is_every_step:
        curves[at[:, None] > steps] = np.nan
    for curve, each in zip(curves.T, names, strict=True):
        ax.plot(at, curve, label=each)
    if (curves > 0).any():
        ax.set_yscale("log")
    tolerances = np.unique(numbers(solution.tolerance))
    for tolerance in np.unique(tolerances[[0, -1]] if tolerances.size else tolerances):
        if tolerance > 0:
            ax.axhline(tolerance, **_THIN)
    ax.set(xlabel="step" if is_every_step else "check", ylabel="residual")
    _name_curves(ax)
    return ax


def _name_curves(ax: Axes) -> None:
    """Add a legend, unless it would be empty or hide the figure."""
    if 0 < len(ax.get_legend_handles_labels()[0]) <= _NAMED:
        ax.legend()


def draw_path(weights: Array, solutions: Array, ax: Axes) -> Axes:
    """Draw the columns of solutions that are not zero throughout over the weights, the largest on the left."""
    for j in np.flatnonzero(solutions.any(axis=0)):
        ax.plot(weights, solutions[:, j], label=f"x[{j}]")
    ax.axhline(0, **_THIN)
    ax.set(xscale="log", xlabel="weight of the l1 norm", ylabel="coefficient")
    ax.xaxis.set_inverted(True)
    _name_curves(ax)
    return ax


def grid_of(function: str, shape: Any, states: int) -> tuple[int, int]:
    """Return the numbers of rows and columns; refuse those of another number of states."""
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        got = f"{len(shape)} numbers" if isinstance(shape, (tuple, list)) else type_name(shape)
        raise TypeError(f"{function}: shape must be a tuple of two, the rows and columns of the grid, got {got}")
    rows, columns = (count(function, f"shape[{k}]", n, 1) for k, n in enumerate(shape))
    if rows * columns != states:
        raise ValueError(f"{function}: shape must have as many cells as there are states, {states}, got {shape}")
    return rows, columns


def moves_of(function: str, moves: Any, actions: int) -> Array:
    """Return the steps down and right of each action (A, 2); refuse them for fewer than ``actions`` actions."""
    steps = as_array(function, "moves", moves)
    if not isinstance(steps, np.ndarray) or steps.dtype.kind not in "iuf":
        raise TypeError(f"{function}: moves must be pairs of numbers, got {type_name(moves)}")
    if steps.ndim != 2 or steps.shape[1] != 2 or len(steps) < actions:
        raise ValueError(f"{function}: moves must have shape ({actions} or more actions, 2), got {steps.shape}")
    return steps


def draw_grid(values: Array, policy: Array, moves: Array, ax: Axes) -> Axes:
    """Draw values (rows, columns) as an image, and an arrow in each cell whose policy is an action."""
    rows, columns = values.shape
    image = ax.imshow(values)
    ax.figure.colorbar(image, ax=ax, label="value")
    strides = [-(-n // _ARROWS) for n in values.shape]
    y, x = np.mgrid[strides[0] // 2 : rows : strides[0], strides[1] // 2 : columns : strides[1]]
    is_action = policy[y, x] >= 0
    y, x = y[is_action], x[is_action]
    down, right = moves[policy[y, x]].T
    sizes: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1 / (0.6 * min(strides)), "pivot": "mid"}
    ax.quiver(x, y, right, down, color="white", edgecolor="black", linewidth=0.4, **sizes)
    ax.set(xlabel="column", ylabel="row")
    return ax
