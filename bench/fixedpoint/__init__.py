"""The solvers of fastiter.fixedpoint against their peers."""
