"""The base of the tuners, which holds the arms, the state and the order of the calls, and the checks of arguments."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._check import fits_float, type_name
from .._sweeps.vectors import count

Array = npt.NDArray[Any]
Rng = int | np.random.Generator | None

#: Maximum number of iterations, or loss; the learners sum these, divided by probabilities
MAX_COST = 1e300
#: Maximum number of bins of the contexts: each has an estimate for every arm.
MAX_BINS = 1_000_000

_MASK = 2**64 - 1


def _mixed(z: int) -> int:
    """SplitMix64's bijection, which makes the streams of consecutive seeds unrelated."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


class Tuner:
    """Arms, draws, the order of the calls, and the arrays that hold the learner's whole state.

    The compiled learner reads and writes these arrays at their addresses, so they are never replaced.
    """

    _learner: Any

    def _connect(self) -> None:
        """Create the compiled learner on the arrays."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the compiled learner; a copy creates its own, on its own arrays."""
        arrays = {name: array.copy() for name, array in self._arrays.items()}
        return {**{name: x for name, x in self.__dict__.items() if name != "_learner"}, "_arrays": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.arms.flags.writeable = False
        self._connect()

    def __init__(self, arms: npt.ArrayLike, rng: Rng) -> None:
        self._name = type(self).__name__
        self.arms = checked_arms(self._name, arms)
        seed = _seed(self._name, rng)
        generator = np.array([_mixed(seed + 0x9E3779B97F4A7C15 & _MASK), 0], np.uint64)
        self._arrays: dict[str, Array] = {"generator": generator}

    def __repr__(self) -> str:
        """Return one line: the arms, and the number of updates."""
        arms, rounds = self.arms, int(self._arrays["rounds"].sum())
        return f"{self._name}({len(arms)} arms from {arms.min():.4g} to {arms.max():.4g}, {rounds} updates)"

    def _position(self, function: str, context: object) -> float:
        """Return the compiled learner's representation of the context."""
        raise NotImplementedError

    def predict(self, context: float | None = None) -> float:
        """Draw the omega for the next system, given its context; call :meth:`update` afterwards.

        Parameters
        ----------
        context : float, optional
            The difficulty of the system, within the bounds; :class:`TsallisINF` ignores it.

        Returns
        -------
        float
            The omega, one of the arms.

        Raises
        ------
        RuntimeError
            If the previous prediction has not been followed by an update.
        TypeError, ValueError
            If the context is not a number or is out of bounds.
        """
        expected = "update must follow each prediction, got a second prediction"
        return float(self.arms[self._draw("predict", expected, context)])

    def update(self, iterations: float) -> None:
        """Learn the number of iterations that the system took with the predicted omega.

        Parameters
        ----------
        iterations : float
            The number, or another cost, from 0 to 1e300.

        Raises
        ------
        RuntimeError
            If there is no prediction to update.
        TypeError, ValueError
            If the iterations are not a number from 0 to 1e300.
        """
        function = f"{self._name}.update"
        if self._pending[-1] < 0:
            raise RuntimeError(f"{function}: predict must be called before, got no prediction to update")
        self._learner.update(max(_cost(function, "iterations", iterations) - 1, 0.0))

    def ask(self, context: float | None = None) -> int:
        """Draw what to try next in any problem, given its context; call :meth:`tell` afterwards.

        Parameters
        ----------
        context : float, optional
            As for :meth:`predict`.

        Returns
        -------
        int
            The choice, an index of ``arms``.

        Raises
        ------
        RuntimeError
            If the previous choice has not been followed by a loss.
        TypeError, ValueError
            If the context is not a number or is out of bounds.

        Examples
        --------
        >>> from fastiter.relax import TsallisINF
        >>> ways = ["walk", "bus", "train"]
        >>> tuner = TsallisINF(range(len(ways)), rng=0)
        >>> for day in range(500):
        ...     choice = tuner.ask()
        ...     tuner.tell(choice, {"walk": 0.9, "bus": 0.5, "train": 0.2}[ways[choice]])
        >>> ways[int(tuner.probabilities().argmax())]
        'train'
        """
        return self._draw("ask", "tell must follow each choice, got a second call", context)

    def tell(self, choice: int, loss: float) -> None:
        """Learn the loss of the choice that :meth:`ask` returned. If an argument is refused, nothing changes.

        Parameters
        ----------
        choice : int
            The last result of :meth:`ask`.
        loss : float
            The loss, from 0 to 1e300; for rewards of at most 1, it is 1 - reward.

        Raises
        ------
        RuntimeError
            If there is no choice to learn about.
        TypeError, ValueError
            If the choice is not the one that was drawn, or the loss is not a number from 0 to 1e300.
        """
        function, drawn = f"{self._name}.tell", int(self._pending[-1])
        if drawn < 0:
            raise RuntimeError(f"{function}: ask must be called before, got no choice to learn about")
        if count(function, "choice", choice, 0, len(self.arms) - 1) != drawn:
            raise ValueError(f"{function}: choice must be the one that was drawn, {drawn}, got {choice}")
        self._learner.update(_cost(function, "loss", loss))

    def _draw(self, function: str, expected: str, context: object) -> int:
        if self._pending[-1] >= 0:
            raise RuntimeError(f"{self._name}.{function}: {expected}")
        return int(self._learner.predict(self._position(function, context)))

    def probabilities(self, context: float | None = None) -> Array:
        """Return the probability of drawing each arm next, without drawing.

        Parameters
        ----------
        context : float, optional
            As for :meth:`predict`.

        Returns
        -------
        ndarray (arms,)
            The probabilities.

        Raises
        ------
        TypeError, ValueError
            If the context is not a number or is out of bounds.
        """
        p = np.empty(len(self.arms))
        self._learner.probabilities(self._position("probabilities", context), p)
        return p

    def state_dict(self) -> dict[str, Array]:
        """Return copies of all arrays of the learner: its estimates, and the position in its random sequence.

        Returns
        -------
        dict of str to ndarray
            The arrays by name.
        """
        return {"arms": self.arms.copy(), **{name: array.copy() for name, array in self._arrays.items()}}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Restore the state of a tuner with the same arms and options; later draws are the same, too.

        Parameters
        ----------
        state : dict of str to array
            A result of :meth:`state_dict`.

        Raises
        ------
        TypeError, ValueError
            If the state is from another kind of tuner, or from other arms or options.
        """
        function, expected = f"{self._name}.load_state_dict", {"arms": self.arms, **self._arrays}
        if not isinstance(state, dict):
            raise TypeError(f"{function}: state must be a dict of arrays, got {type_name(state)}")
        if state.keys() != expected.keys():
            raise ValueError(f"{function}: state must have the arrays {', '.join(expected)}, got {', '.join(state)}")
        for name, array in expected.items():
            value = state[name]
            if not isinstance(value, np.ndarray) or value.dtype != array.dtype:
                raise TypeError(f"{function}: {name} must be an array of {array.dtype}, got {_dtype(value)}")
            if value.shape != array.shape:
                raise ValueError(f"{function}: {name} must have shape {array.shape}, got {value.shape}")
        if not np.array_equal(state["arms"], self.arms):
            raise ValueError(f"{function}: arms must be those of this tuner, got others")
        self._check_state(function, state)
        for name, array in self._arrays.items():
            array[...] = state[name]

    def _check_state(self, function: str, state: dict[str, Array]) -> None:
        """Refuse a state with which the compiled learner would read out of bounds, or of another context interval."""
        pending, limits = state["pending"], self._limits()
        if not ((pending >= -1).all() and (pending < limits).all() and (pending < 0).any() == (pending < 0).all()):
            raise ValueError(f"{function}: pending must be -1 or below {limits}, got {pending.tolist()}")
        if "bounds" in state and not np.array_equal(state["bounds"], self._arrays["bounds"]):
            bounds = self._arrays["bounds"].tolist()
            raise ValueError(f"{function}: bounds must be {bounds}, got {state['bounds'].tolist()}")

    def _limits(self) -> list[int]:
        raise NotImplementedError

    @property
    def _pending(self) -> Array:
        return self._arrays["pending"]


def _seed(function: str, rng: Rng) -> int:
    """Return the seed, or one drawn from a generator."""
    generator = np.random.default_rng() if rng is None else rng
    if isinstance(generator, np.random.Generator):
        return int(generator.integers(2**64, dtype=np.uint64))
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)):
        raise TypeError(f"{function}: rng must be None, an int or a numpy.random.Generator, got {type_name(rng)}")
    return count(function, "rng", rng, 0, _MASK)


# ---- checks ---------------------------------------------------------------------------------------------------------


def checked_arms(function: str, arms: npt.ArrayLike) -> Array:
    try:
        array = np.array(arms, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{function}: arms must be numbers, got {type_name(arms)}") from None
    except OverflowError:
        array = np.full(1, math.inf)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{function}: arms must be at least one finite number in a row, got {arms!r}")
    array.flags.writeable = False
    return array


def checked_bounds(function: str, bounds: object) -> Array:
    try:
        array = np.array(bounds, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{function}: bounds must be two numbers, got {type_name(bounds)}") from None
    except OverflowError:
        array = np.full(2, math.inf)
    if array.shape != (2,) or not np.isfinite(array).all() or not array[0] < array[1]:
        raise ValueError(f"{function}: bounds must be two finite numbers, the lower one first, got {bounds}")
    return array


def _cost(function: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{function}: {name} must be a number, got {type_name(value)}")
    cost = float(value) if fits_float(value) else math.inf
    if not 0 <= cost <= MAX_COST:
        raise ValueError(f"{function}: {name} must be from 0 to 1e300, got {value}")
    return cost


def share(function: str, context: object, low: float, high: float) -> float:
    """Return the relative position of the context in the interval, from 0 to 1."""
    if isinstance(context, bool) or not isinstance(context, numbers.Real):
        raise TypeError(f"{function}: context must be a number, got {type_name(context)}")
    at = float(context) if fits_float(context) else math.inf
    if not low <= at <= high:
        raise ValueError(f"{function}: context must be from {low} to {high}, got {context}")
    return (at - low) / (high - low)


def _dtype(x: object) -> str:
    return f"dtype {x.dtype}" if isinstance(x, np.ndarray) else type_name(x)
