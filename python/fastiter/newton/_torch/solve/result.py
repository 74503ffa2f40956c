"""The result of solve_recurrence."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...._solution import Solution, Value


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RecurrenceSolution(Solution[Value]):
    """All states of a recurrence h[t] = f(h[t-1], x[t]), and how they were found; B is the batch.

    Attributes
    ----------
    value : (B, T, ...) or tuple of these
        The states of all steps; a tuple if the state has several parts. Fewer steps if ``callback`` stopped the solver.
    converged : (B,) bool
        True where every state is finite and either comes from the loop or satisfies the tolerances
        ``|h[t] - f(h[t-1], x[t])| <= atol + rtol |h[t]|`` with a small next correction. Sequences that did not converge
        were run as a loop, so False means that the loop's own result has an infinity or a NaN.
    steps : (B,) int64
        The number of evaluations of all steps of a window at once, summed over the windows; 0 if the loop computed
        everything.
    residual : (B,)
        The maximum of ``|h[t] - f(h[t-1], x[t])|``, measured before the last correction, which reduces it further; 0 if
        the loop computed everything, as its states are the function's values themselves.
    method : str
        ``"sequential"``, ``"newton"``, ``"quasi"`` or ``"elk"``: the method that ran, also if ``"auto"`` chose it.
    reason : tuple of str
        ``"converged"``, ``"nan"`` or ``"diverged"`` if the loop has NaN or infinities, too, and ``"callback"`` if the
        callback stopped the solver; one for each sequence.
    last : (B, ...) or tuple of these
        The states after the last step: the initial state for the steps that follow.
    jacobian : str or None
        ``"diagonal"``, ``"block K"``, ``"dense"`` or ``"quasi"``: the part of the Jacobians that was used; None if no
        Jacobian was evaluated.
    window : int
        The number of steps that were solved at once.
    sequential : (B, windows) bool
        True where a window was run as a loop: all windows with the method ``"sequential"``, and with the other methods
        the windows that did not converge.
    lyapunov : (B,)
        An estimate of the largest Lyapunov exponent, the mean logarithm of the factor by which a step amplifies a small
        difference between two states, from the last Jacobians along the iterates. Below 0 the recurrence forgets its
        past; far above 0 only a loop can compute it. NaN where no Jacobian was evaluated.

    See Also
    --------
    solve_recurrence : The function that returns it.
    fastiter.Solution : The attributes that all solvers' results have.
    fastiter.ConvergenceWarning : The warning if it has not converged.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def cell(h, x, a):
    ...     return torch.tanh(a * h + x)
    >>> found = fastiter.torch.solve_recurrence(cell, torch.randn(2, 600, 4), torch.tensor(0.5), method="newton")
    >>> found.value.shape, found.last.shape, found.jacobian, found.reason
    (torch.Size([2, 600, 4]), torch.Size([2, 4]), 'diagonal', ('converged', 'converged'))
    """

    converged: Tensor
    steps: Tensor
    residual: Tensor
    reason: tuple[str, ...]
    last: Value
    jacobian: str | None
    window: int
    sequential: Tensor
    lyapunov: Tensor

    def _failure(self) -> str | None:
        lost = int((~self.converged).sum())
        if lost == 0:
            return None
        count = len(self.converged)
        return (
            f"the states must be finite, got infinities or NaN in {lost} of {count} sequences, which the loop has too"
        )

    def _details(self) -> list[str]:
        return [] if self.jacobian is None else [f"jacobian {self.jacobian}"]


# Results pickle by their public names, also if nobody has looked those up.
RecurrenceSolution.__module__ = "fastiter.torch"
