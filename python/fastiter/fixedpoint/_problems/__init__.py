"""Specific fixed-point problems: refinement of linear systems, optimal transport."""
