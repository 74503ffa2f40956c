"""The arguments of distributed decision processes: a rank's arguments, their checks, and comparison between ranks."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ..._call.iterate import Limits
from ..._check import check_choice, check_flag, count, integers, positive, type_name
from ..._torch.distributed.collectives import Ranks
from .._inputs import read as read_rows
from .._layouts import Rows
from .._mdp import SENSES
from .._process import Process, prepared
from .._solvers.methods import ModifiedPolicyIteration, ValueIteration
from .._solvers.state import STOPS, Method
from .exchange import EXCHANGES, new_exchange
from .partition import Owners, check_owners
from .shards import PolicyIteration, Shard

Array = npt.NDArray[Any]
Result = TypeVar("Result")

METHODS = ("mpi", "vi", "pi")
#: Defaults of the methods' options
_SWEEPS, _ALPHA = 5, 0.01


class Arguments(NamedTuple):
    """The arguments of one rank.

    Attributes
    ----------
    rows : Rows
        The rows of this rank's states; ``row`` covers all states if ``has_states`` is true.
    has_states : bool
        Whether P is a matrix with ``states``.
    S, states : int
        The total number of states, and the number of this rank's states.
    owned : (n,) int64 or None
        This rank's states, if they are given.
    gamma : object
        The discount.
    """

    rows: Rows
    has_states: bool
    S: int
    states: int
    owned: Array | None
    gamma: Any


def agreed(ranks: Ranks, prepare: Callable[[], Result], said: Mapping[str, str]) -> Result:
    """Return the result of ``prepare`` after checking that all ranks agree and that none has rejected its arguments."""
    failure: Exception | None = None
    try:
        result = prepare()
    except (TypeError, ValueError) as error:
        failure = error
    ranks.agree({"function": ranks.function} | dict(said), 0, False, failure)
    return result


def described(options: Mapping[str, object], arguments: Mapping[str, object]) -> dict[str, str]:
    """Return options as text, and whether other arguments are given."""
    result = {name: _text(x) for name, x in options.items()}
    return result | {name: "None" if x is None else "one" for name, x in arguments.items()}


def _text(x: object) -> str:
    if isinstance(x, numbers.Real) and not isinstance(x, (bool, np.bool_)):
        return f"{float(x):.17g}" if float(f"{float(x):g}") != float(x) else f"{float(x):g}"
    return repr(x)


def method_of(function: str, method: object, stop: Any, options: tuple[Any, Any], limits: Limits) -> Method:
    """Return a method by its name; raise for invalid options (policy_sweeps, alpha), and those of other methods."""
    chosen = _method_of(function, method, *options, limits)
    check_choice(function, "stop", stop, STOPS)
    chosen.stop = stop
    return chosen


def _method_of(function: str, method: object, policy_sweeps: Any, alpha: Any, limits: Limits) -> Method:
    check_choice(function, "method", method, METHODS)
    for name, x, takers in (("policy_sweeps", policy_sweeps, ("mpi", "pi")), ("alpha", alpha, ("pi",))):
        if x is not None and method not in takers:
            expected = f"None for {method!r}, as only {' and '.join(map(repr, takers))} take it"
            raise ValueError(f"{function}: {name} must be {expected}, got {x!r}")
    if method == "vi":
        return ValueIteration()
    sweeps = _SWEEPS if policy_sweeps is None else count(function, "policy_sweeps", policy_sweeps, method == "pi")
    if method == "mpi":
        return ModifiedPolicyIteration(sweeps)
    part = _ALPHA if alpha is None else positive(function, "alpha", alpha, zero=False)
    if part >= 1:
        raise ValueError(f"{function}: alpha must be below 1, got {alpha}")
    return PolicyIteration(part, sweeps, limits)


def chain_rows(rows: Rows, place: Array) -> Rows:
    """Return the rows of a policy that is given as positions within the states."""
    has_rows = place >= 0
    keep = np.zeros(len(rows.reward), np.bool_)
    keep[rows.row[:-1][has_rows] + place[has_rows]] = True
    chosen = rows.kept(keep)
    return chosen if rows.label is not None else chosen._replace(label=place[has_rows].astype(np.int64))


def read(ranks: Ranks, arguments: tuple[Any, ...], choices: Mapping[str, Any]) -> tuple[Arguments, tuple[int, ...]]:
    """Return the checked arguments (P, R, gamma, (states, actions, rows), owned), and all ranks' numbers of states."""
    local: Arguments | None = None
    failure: Exception | None = None
    try:
        check_choice("MDP", "sense", choices["sense"], SENSES)
        check_flag("MDP", "renormalize", choices["renormalize"])
        check_choice("MDP", "exchange", choices["exchange"], EXCHANGES)
        local = _read(np.inf if choices["sense"] == "min" else -np.inf, *arguments)
    except (TypeError, ValueError) as error:
        failure = error
    said = described({"function": "MDP", **choices}, {})
    if local is not None:
        is_number = not isinstance(local.gamma, np.ndarray)
        said["P"] = f"{local.rows.weight.dtype} with {local.S} columns"
        said["gamma"] = _text(local.gamma) if is_number else "an array"
        said["owned"] = "states" if local.owned is not None else "a number or None"
    counts = ranks.agree(said, 0 if local is None else local.states, False, failure).steps
    assert local is not None  # otherwise agree has raised
    return local, counts


def _read(impossible: float, P: Any, R: Any, gamma: Any, pairs: tuple[Any, Any, Any], owned: Any) -> Arguments:
    gamma, states = _discount(gamma), pairs[0]
    rows = read_rows("MDP", P, R, *pairs, is_part=True, impossible=impossible)
    S = int((P[0] if isinstance(P, (list, tuple)) else P).shape[-1])
    number, own = None if states is not None else rows.states, None
    if owned is not None and np.ndim(owned) == 0:
        number = count("MDP", "owned", owned, 0, S) if number is None else _equal(number, owned)
    elif owned is not None:
        own = integers("MDP", "owned", owned)
        if own.ndim != 1 or (len(own) and not 0 <= own.min() <= own.max() < S) or (np.diff(own) <= 0).any():
            raise ValueError(f"MDP: owned must be states that rise from 0 to at most {S - 1}, got others")
        number = len(own) if number is None else _equal(number, len(own))
    if number is None:
        raise TypeError("MDP: owned must be the number of this rank's states if P is a matrix with states, got None")
    return Arguments(rows, states is not None, S, number, own, gamma)


def _equal(number: int, owned: Any) -> int:
    if count("MDP", "owned", owned) != number:
        raise ValueError(f"MDP: owned must be the n = {number} states of P, got {owned}")
    return number


def _discount(gamma: Any) -> Any:
    """Return the discount; raise for None and for 1."""
    if gamma is None:
        raise TypeError("MDP: gamma must be a number or an array, got None: averages are those of fastiter.mdp.average")
    is_array = isinstance(gamma, np.ndarray) and gamma.ndim > 0
    if is_array and gamma.dtype.kind not in "fiu":
        raise TypeError(f"MDP: gamma must be numbers, got dtype {gamma.dtype}")
    if not is_array and (isinstance(gamma, bool) or not isinstance(gamma, numbers.Real)):
        raise TypeError(f"MDP: gamma must be a number or an array, got {type_name(gamma)}")
    largest = gamma.max(initial=0) if is_array else gamma
    if largest == 1:
        raise ValueError("MDP: gamma must be below 1, got 1, which fastiter.mdp.MDP takes in one process")
    return gamma


def shard_of(
    ranks: Ranks, arguments: Arguments, counts: tuple[int, ...], options: tuple[Any, bool, str, str]
) -> tuple[Shard, Array]:
    """Return this rank's rows, and its states; options are (terminal, renormalize, sense, exchange)."""
    owners = _owners(ranks, arguments, counts)
    own = owners.states(ranks.rank)
    terminal, renormalize, sense, exchange_name = options
    process = agreed(ranks, lambda: _process(arguments, own, terminal, renormalize, sense == "min"), {})
    read_states = process.rows.next[: process.rows.entry[-1]].astype(np.int64)
    exchange = new_exchange(ranks, owners, read_states, exchange_name)
    row = np.concatenate([process.rows.row[own], process.rows.row[-1:]])
    rows = process.rows._replace(row=row, next=exchange.places(read_states))
    is_terminal = exchange.buffer(process.dtype)
    is_terminal[: len(own)] = np.diff(row) == 0
    exchange.run(is_terminal)
    assert process.discount is not None  # for the type checker: checked by _discount
    shard = Shard(ranks, rows, process.discount, exchange, is_terminal != 0)
    if shard.process.modulus(shard.discount)[1] >= 1:
        raise ValueError("MDP: gamma must be below 1, got 1 to within rounding")
    return shard, own


def _owners(ranks: Ranks, arguments: Arguments, counts: tuple[int, ...]) -> Owners:
    if arguments.owned is None:
        if sum(counts) != arguments.S:
            got = f"{' + '.join(map(str, counts))} = {sum(counts)}"
            raise ValueError(
                f"MDP: P must have a column for each state of all ranks, got {arguments.S} columns and {got}"
            )
        return Owners(counts, None)
    padded = torch.zeros(max(counts), dtype=torch.int64)
    padded[: arguments.states] = torch.from_numpy(arguments.owned)
    every = [x.numpy()[:n] for x, n in zip(ranks.all_gather(padded), counts, strict=True)]
    check_owners("MDP", every, arguments.S)
    return Owners(counts, every)


def _process(arguments: Arguments, own: Array, terminal: Any, renormalize: bool, negated: bool) -> Process:
    """Return the process of all states, of which only this rank's have rows."""
    rows, is_ended = arguments.rows, np.ones(arguments.S, np.bool_)
    if arguments.has_states:
        others = np.diff(rows.row) > 0
        others[own] = False
        if others.any():
            s = int(np.argmax(others))
            raise ValueError(f"MDP: states must be those of this rank, got state {s} of another one")
    else:
        counts = np.zeros(arguments.S, np.int64)
        counts[own] = np.diff(rows.row)
        rows = rows._replace(row=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))
    is_ended[own] = _terminal(terminal, own)
    if negated:
        rows = rows._replace(reward=-rows.reward)
    return prepared("MDP", rows, arguments.gamma, is_ended, renormalize, -1 if negated else 1)


def _terminal(terminal: Any, own: Array) -> npt.NDArray[np.bool_]:
    if terminal is None:
        return np.zeros(len(own), np.bool_)
    if isinstance(terminal, np.ndarray) and terminal.dtype == np.bool_:
        if terminal.shape != own.shape:
            raise ValueError(f"MDP: terminal must have shape (n,) = {own.shape}, got {terminal.shape}")
        return terminal.copy()
    which = np.atleast_1d(integers("MDP", "terminal", terminal))
    result = np.isin(which, own)
    if not result.all():
        raise ValueError(f"MDP: terminal must be states of this rank, got {which[~result][0]}")
    return np.isin(own, which)
