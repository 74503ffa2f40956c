"""Parts of the docstrings of the proximal operators on arrays and tensors."""

from __future__ import annotations

PARTS = {
    "y": """
        y : ndarray, float32 or float64
            The points: any shape and strides.""",
    "groups": """
        y : ndarray, float32 or float64
            The points: any shape and strides, a group of numbers along ``axis``.""",
    "axis": """
        axis : int
            The axis of the groups.""",
    "t": """
        t : float
            The weight of f, at least 0.""",
    "backend": """
        backend : {"cpu", "reference"}, optional
            "reference" runs the specification in plain NumPy, by sorting or bisection in float64.""",
    "returns": """
        Returns
        -------
        ndarray
            x, in the shape and dtype of y.""",
    "raises": """
        Raises
        ------
        TypeError, ValueError
            For a wrong type or dtype; for a wrong shape or value.""",
}
