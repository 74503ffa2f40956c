"""Unknown keywords and values: the message has the name that was meant, also for the words of other libraries."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter._suggest import CHOICES, PARAMETERS
from tests.public.table import public_names

A, B = np.array([[4.0, -1], [-1, 4]]), np.ones(2)


def process() -> Any:
    return fastiter.mdp.examples.forest()


def tensors() -> Any:
    return importlib.import_module("fastiter.torch")


#: Calls as users of other libraries write them, and the name that is meant
WRITTEN: dict[str, tuple[Callable[[], Any], str]] = {
    "scipy.sparse.linalg.cg": (lambda: fastiter.relax.sor(A, B, tol=1e-3), "rtol"),
    "its maxiter": (lambda: fastiter.relax.ssor_cg(A, B, maxiter=10), "max_steps"),
    "its M": (lambda: fastiter.relax.flexible_cg(A, B, M=A), "precond"),
    "pyamg's iterations": (lambda: fastiter.relax.gauss_seidel(A, B, iterations=3), "max_steps"),
    "pyamg's sweep": (lambda: fastiter.relax.gauss_seidel(A, B, sweep="symmetric"), "order"),
    "scipy.optimize.anderson": (lambda: fastiter.fixedpoint.fixed_point(np.cos, B, f_tol=1e-3), "rtol"),
    "a misspelt option": (lambda: fastiter.fixedpoint.fixed_point(np.cos, B, dampng=0.5), "damping"),
    "jaxopt's history_size": (lambda: fastiter.fixedpoint.fixed_point(np.cos, B, history_size=5), "m"),
    "sklearn.linear_model.lasso_path": (lambda: fastiter.bcd.lasso_path(A, B, alphas=[1.0]), "l1"),
    "its positive": (lambda: fastiter.bcd.lasso_path(A, B, [1.0], positive=True), "nonnegative"),
    "an estimator": (lambda: fastiter.bcd.Lasso(lam=0.1), "alpha"),
    "sample weights": (lambda: fastiter.bcd.LeastSquares(A, B, sample_weight=B), "weights"),
    "random_state": (lambda: fastiter.bcd.sketch_solve(A, B, random_state=0), "rng"),
    "pymdptoolbox's discount": (lambda: fastiter.mdp.MDP([np.eye(2)], np.ones((2, 1)), discount=0.9), "gamma"),
    "its epsilon": (lambda: process().solve(epsilon=0.01), "atol"),
    "quantecon's v_init": (lambda: process().solve(v_init=B), "value0"),
    "quantecon's max_iter": (lambda: fastiter.mdp.average(process(), max_iter=10), "max_steps"),
    "torch.nn": (lambda: tensors().nn.LSTM(3, 4, n_layers=2), "num_layers"),
    "transformers": (lambda: tensors().nn.DeltaNet(4, 4, num_attention_heads=2), "num_heads"),
    "torchdeq": (lambda: tensors().nn.DEQ(np.cos, f_max_iter=10), "max_steps"),
    "torchao": (lambda: tensors().nn.QuantPlan(weights="int8"), "weight"),
    "mamba_ssm": (lambda: tensors().ssm.ssd(initial_states=None), "state"),
    "a tuple of parameters": (lambda: tensors().solve_recurrence(np.cos, B, params=(1,)), "*params"),
    "a hidden state": (lambda: tensors().solve_recurrence(np.cos, B, h0=B), "state"),
}
#: Names of methods, and the name that is meant
CHOSEN: dict[str, tuple[Callable[[str], Any], dict[str, str]]] = {
    "MDP.solve": (
        lambda method: process().solve(method),
        {
            "value_iteration": "vi",
            "policy_iteration": "pi",
            "Modified Policy Iteration": "mpi",
            "prioritized-sweeping": "ps",
            "gauss_seidel": "gs",
        },
    ),
    "average": (
        lambda method: fastiter.mdp.average(process(), method=method),
        {"policy_iteration": "howard", "relative_value_iteration": "rvi"},
    ),
    "fixed_point": (
        lambda method: fastiter.fixedpoint.fixed_point(np.cos, B, method=method),
        {
            "good_broyden": "broyden",
            "fixed_point_iter": "picard",
            "simple_fixed_point_iter": "picard",
            "FixedPointIteration": "picard",
            "AndersonAcceleration": "anderson",
            "krylov": "newton_krylov",
        },
    ),
    "solve_recurrence": (
        lambda method: tensors().solve_recurrence(
            lambda h, x: x, importlib.import_module("torch").ones(2, 3), method=method
        ),
        {"loop": "sequential", "DEER": "newton", "quasi-DEER": "quasi"},
    ),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_words_of_other_libraries(case: str) -> None:
    call, meant = WRITTEN[case]
    if "tensors" in call.__code__.co_names:
        pytest.importorskip("torch")
    with pytest.raises(TypeError, match=rf"^\w+: .*, (got|only) .*; did you mean {re.escape(repr(meant))}\?$"):
        call()


@pytest.mark.parametrize("case", CHOSEN)
def test_methods_of_other_libraries(case: str) -> None:
    call, words = CHOSEN[case]
    if "tensors" in call.__code__.co_names:
        pytest.importorskip("torch")
    for word, meant in words.items():
        with pytest.raises(ValueError, match=rf"method must be .*, got '{word}'; did you mean '{meant}'\?$"):
            call(word)


def test_every_word_for_a_method_is_tried() -> None:
    tried = {re.sub("[ _-]", "", word.lower()) for _, words in CHOSEN.values() for word in words}
    assert tried >= set(CHOICES)


@cache
def suggesting() -> dict[str, Callable[..., Any]]:
    """Return the public functions, methods and constructors that say which parameter was meant."""

    def members(name: str, found: Any) -> Iterator[tuple[str, Any]]:
        yield name, found
        if inspect.isclass(found):
            yield from ((f"{name}.{own}", method) for own, method in vars(found).items() if inspect.isfunction(method))

    modules = [fastiter, *([tensors()] if importlib.util.find_spec("torch") else [])]
    every = [each for module in modules for name, found in public_names(module) for each in members(name, found)]
    return {name: found for name, found in every if hasattr(found, "__suggests__")}


def parameters(function: Callable[..., Any]) -> set[str]:
    """Return the names of parameters, with the star of those by position."""
    found = inspect.signature(function).parameters.values()
    return {f"*{each.name}" if each.kind == each.VAR_POSITIONAL else each.name for each in found}


def test_every_word_is_answered_by_every_solver_and_constructor() -> None:
    """Each word of the table is given to each function that has one of the names in its place, and not the word."""
    assert len(suggesting()) > (100 if any("torch" in name for name in suggesting()) else 50)
    answered = set()
    for name, function in suggesting().items():
        own = parameters(function)
        if any(each.kind == each.VAR_KEYWORD for each in inspect.signature(function).parameters.values()):
            continue  # its options are checked by its method
        for word in PARAMETERS.keys() - own:
            possible = [each for each in PARAMETERS[word] if each in own]
            if possible:
                with pytest.raises(TypeError) as raised:
                    function(**{word: None})
                expected = rf"\w+: keywords must be among its parameters, got '{word}'; did you mean '(.*)'\?"
                found = re.fullmatch(expected, str(raised.value))
                assert found and found[1] == possible[0], f"{name}: {raised.value}"
                answered.add(word)
        with pytest.raises(TypeError, match=r"^\w+: keywords must be among .*, got 'xyzzy'$") as raised:
            function(xyzzy=None)
        listed = re.findall("[*\\w]+", str(raised.value).partition(" among ")[2].partition(", got ")[0])
        assert set(listed) == {each for each in own if each[0] != "*"} - {"self"}, name
    if any("torch" in name for name in suggesting()):
        assert sorted(PARAMETERS.keys() - answered) == []


def test_functions_of_single_kernels_are_called_directly() -> None:
    """A wrapper would take some percent of the time of their small calls."""
    for function in (fastiter.lstm, fastiter.linear_scan, fastiter.delta_scan, fastiter.quant.quantize):
        assert not hasattr(function, "__wrapped__")


def test_errors_of_the_call_itself_are_unchanged() -> None:
    def fails(x: Any) -> Any:
        raise TypeError("of the user")

    with pytest.raises(TypeError, match=r"^of the user$"):
        fastiter.fixedpoint.fixed_point(fails, B)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):
        fastiter.relax.sor(A)  # type: ignore[call-arg]
    assert list(inspect.signature(fastiter.relax.sor).parameters)[:3] == ["A", "b", "x0"]
