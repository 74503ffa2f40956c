"""The solvers of discounted processes: methods, their loops, bounds and the automatic choice."""
