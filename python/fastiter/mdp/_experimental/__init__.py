"""Solvers and learners without a stable interface, which fastiter.experimental exports."""
