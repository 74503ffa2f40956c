"""Names that other libraries have for fastiter's, for messages that say which name was probably meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_TOLERANCES, _STEPS = ("rtol", "atol", "tol"), ("max_steps", "max_iter", "steps")
#: Parameters of SciPy, scikit-learn, PyAMG, POT, pymdptoolbox, QuantEcon, torch, torchdeq, jaxopt, transformers, fla,
#: xlstm and mamba_ssm, and the names here, of which the first that a function has is meant
PARAMETERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("tol", "ftol", "xtol", "gtol", "f_tol", "stopThr"), _TOLERANCES),
    **dict.fromkeys(("eps", "epsilon"), ("atol", *_TOLERANCES)),
    **dict.fromkeys(("maxiter", "max_iter", "max_iterations", "n_iter", "iterations"), _STEPS),
    **dict.fromkeys(("f_max_iter", "numItermax", "num_iters", "num_steps"), _STEPS),
    **dict.fromkeys(("x_0", "x_init", "init_params", "initial_guess", "coef_init"), ("x0",)),
    **dict.fromkeys(("v_init", "initial_value", "v0"), ("value0",)),
    **dict.fromkeys(("h0", "h_0", "hx", "init", "initial_state", "initial_states"), ("state", "x0")),
    **dict.fromkeys(("seed", "random_state", "generator"), ("rng",)),
    **dict.fromkeys(("solver", "algorithm", "f_solver"), ("method",)),
    **dict.fromkeys(("disp", "verbose"), ("callback",)),
    **dict.fromkeys(("M", "preconditioner"), ("precond", "preconditioner")),
    **dict.fromkeys(("w", "weight", "relaxation"), ("omega",)),
    **dict.fromkeys(("blocksize", "blocks"), ("block_size",)),
    "sweep": ("order",),
    **dict.fromkeys(("alphas", "alpha", "lam", "lambda_"), ("l1", "alpha")),
    "l1_ratio": ("l2",),
    "reg": ("epsilon", "l1", "alpha"),
    "positive": ("nonnegative", "positive"),
    "sample_weight": ("weights",),
    "bounds": ("lower",),
    **dict.fromkeys(("discount", "discount_factor", "beta"), ("gamma",)),
    **dict.fromkeys(("transitions", "Q", "T"), ("P",)),
    **dict.fromkeys(("reward", "rewards"), ("R",)),
    **dict.fromkeys(("args", "params"), ("*params",)),
    **dict.fromkeys(("jac", "fprime"), ("jacobian", "jvp")),
    "history_size": ("m", "memory"),
    "tau": ("damping",),
    **dict.fromkeys(("nheads", "n_heads", "heads", "num_attention_heads"), ("num_heads",)),
    **dict.fromkeys(("d_model", "input_dim", "in_features", "embedding_dim"), ("input_size", "embedding_size")),
    "hidden_dim": ("hidden_size",),
    **dict.fromkeys(("n_layers", "num_hidden_layers"), ("num_layers",)),
    **dict.fromkeys(("d_conv", "conv_kernel"), ("conv_size",)),
    "weights": ("weight",),
    **dict.fromkeys(("activation", "activations"), ("input",)),
}
#: Names of methods there, in lower case without separators, and here
CHOICES: dict[str, tuple[str, ...]] = {
    "valueiteration": ("vi",),
    "policyiteration": ("pi", "howard"),
    "modifiedpolicyiteration": ("mpi",),
    "relativevalueiteration": ("rvi",),
    "prioritizedsweeping": ("ps",),
    "gaussseidel": ("gs",),
    "goodbroyden": ("broyden",),
    "fixedpointiter": ("picard",),
    "simplefixedpointiter": ("picard",),
    "fixedpointiteration": ("picard",),
    "andersonacceleration": ("anderson",),
    "krylov": ("newton_krylov",),
    "loop": ("sequential",),
    "deer": ("newton",),
    "quasideer": ("quasi",),
}


def did_you_mean(word: str, names: Iterable[str], others: Mapping[str, tuple[str, ...]] | None = None) -> str:
    """Return the end of a message, "; did you mean 'rtol'?", about a word that is not among the names; "" if unlikely.

    Parameters
    ----------
    word : str
        The word that was given.
    names : iterable of str
        The valid words.
    others : mapping, optional
        The words of other libraries, and the names that may take their places, in order of preference.
    """
    import difflib  # only for messages

    known = list(names)
    meant = [name for name in (others or {}).get(word, ()) if name in known][:1]
    meant = meant or difflib.get_close_matches(word, known, 3)
    return f"; did you mean {' or '.join(', '.join(map(repr, meant)).rsplit(', ', 1))}?" if meant else ""


def other_choice(word: str, choices: Sequence[str]) -> str:
    """Return the end of a message that lists the choices, about another library's word for one of them."""
    plain = word.lower().translate(dict.fromkeys(map(ord, " -_")))
    meant = next((name for name in CHOICES.get(plain, ()) if name in choices), None)
    return "" if meant is None else f"; did you mean {meant!r}?"


def refuse_unknown(function: Callable[..., Any], given: Iterable[str]) -> None:
    """Raise a TypeError if a keyword that a call has given is not a parameter of the function."""
    parameters = [each for name, each in inspect.signature(function).parameters.items() if name != "self"]
    if any(each.kind == each.VAR_KEYWORD for each in parameters):
        return
    name = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    for word in given:
        if word not in names:
            several = [f"*{each.name}" for each in parameters if each.kind == each.VAR_POSITIONAL]
            meant = did_you_mean(word, [*names, *several], PARAMETERS)
            listed = "its parameters" if meant else ", ".join(names)
            raise TypeError(f"{name}: keywords must be among {listed}, got {word!r}{meant}") from None


@cache
def suggesting(function: F) -> F:
    """Return a function whose message about an unknown keyword says which parameter was probably meant.

    A call costs a fraction of a microsecond more: this is for solvers and constructors, not for single kernels.
    """
    if hasattr(function, "__suggests__"):
        return function

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        try:
            return function(*args, **named)
        except TypeError:
            refuse_unknown(function, named)
            raise

    call.__suggests__ = True  # type: ignore[attr-defined]
    return cast(F, call)
