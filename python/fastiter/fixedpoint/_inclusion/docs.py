"""Parts of the docstrings of the methods for monotone inclusions."""

from __future__ import annotations

PARTS = {
    "resolvent": """
        resolvent : callable
            ``resolvent(y, t)`` returns (I + t A)^-1 y: the proximal operator of t f where A is the subdifferential of
            f, the projection where A is the normal cone of a set. Neither this nor another operator may change its
            argument, which is read-only if it is an array.""",
    "forward": """
        forward : callable
            ``forward(x)`` returns B x, in the shape and dtype of x.""",
    "x0": """
        x0 : array or tensor, float32 or float64
            The first point. Gradients do not flow through the solution.""",
    "steps": """
        step : float, optional
            The step size t.
        lipschitz : float, optional
            A Lipschitz constant of B, from which t follows. Without it and without ``step``, t is searched for: it is
            halved while norm(B z - B x) > ... norm(z - x) / t for the trial point z, else slowly increased.""",
    "t": """
        step : float
            The step size t, which affects the speed but not the solution.""",
    "limits": """
        rtol, atol : float
            The tolerance: it has converged when ``residual <= rtol * norm(x) + atol``; rtol is 1e-5 in float32 and
            1e-8 in float64 by default.
        max_steps : int
            The maximum number of steps.
        callback : callable, optional
            Called with a :class:`fastiter.Progress` after each step; the method ends if it returns True.
        throw : bool
            Whether to raise :class:`fastiter.ConvergenceError` if it does not converge, in place of a warning.""",
    "returns": """
        Returns
        -------
        InclusionSolution
            x, whether it converged, why it ended, the residuals.""",
    "raises": """
        Raises
        ------
        TypeError, ValueError
            If an argument, or what an operator returns, is not as described.
        fastiter.ConvergenceError
            If it does not converge and ``throw`` is True.""",
}
