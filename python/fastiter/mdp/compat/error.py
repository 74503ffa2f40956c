"""pymdptoolbox's exceptions; all are ValueErrors here."""

from __future__ import annotations

from ..._public import publish

__all__ = ["Error", "InvalidError", "NonNegativeError", "SquareError", "StochasticError"]


class Error(ValueError):
    """The base of the exceptions.

    Parameters
    ----------
    msg : str, optional
        The message.

    Attributes
    ----------
    message : str
        The message.

    See Also
    --------
    fastiter.mdp.compat.util.check : Raises them.

    Examples
    --------
    >>> from fastiter.mdp.compat import error
    >>> issubclass(error.SquareError, error.Error)
    True
    """

    default_msg = "invalid arguments"

    def __init__(self, msg: str | None = None) -> None:
        self.message = self.default_msg if msg is None else msg
        super().__init__(self.message)


class InvalidError(Error):
    """Arguments that do not define a process.

    Parameters
    ----------
    msg : str, optional
        The message.

    See Also
    --------
    fastiter.mdp.compat.util.check : Raises it.

    Examples
    --------
    >>> from fastiter.mdp.compat import error, util
    >>> try:
    ...     util.check([], [])
    ... except error.InvalidError:
    ...     print("refused")
    refused
    """


class NonNegativeError(Error):
    """A matrix with negative probabilities.

    Parameters
    ----------
    msg : str, optional
        The message.

    See Also
    --------
    fastiter.mdp.compat.util.check : Raises it.

    Examples
    --------
    >>> from fastiter.mdp.compat import error, util
    >>> try:
    ...     util.checkSquareStochastic([[1.5, -0.5], [0, 1]])
    ... except error.NonNegativeError:
    ...     print("refused")
    refused
    """

    default_msg = "The transition probability matrix is negative."


class SquareError(Error):
    """A matrix that is not square.

    Parameters
    ----------
    msg : str, optional
        The message.

    See Also
    --------
    fastiter.mdp.compat.util.check : Raises it.

    Examples
    --------
    >>> from fastiter.mdp.compat import error, util
    >>> try:
    ...     util.checkSquareStochastic([[1.0, 0.0]])
    ... except error.SquareError:
    ...     print("refused")
    refused
    """

    default_msg = "The transition probability matrix is not square."


class StochasticError(Error):
    """A matrix whose rows do not sum to 1.

    Parameters
    ----------
    msg : str, optional
        The message.

    See Also
    --------
    fastiter.mdp.compat.util.check : Raises it.

    Examples
    --------
    >>> from fastiter.mdp.compat import error, util
    >>> try:
    ...     util.checkSquareStochastic([[1.0, 1.0], [0.0, 1.0]])
    ... except error.StochasticError:
    ...     print("refused")
    refused
    """

    default_msg = "The transition probability matrix is not stochastic."


class ArgumentError(Error, AssertionError):
    """Another wrong argument; also an AssertionError, as pymdptoolbox asserts conditions."""


publish(globals())
