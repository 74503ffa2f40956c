"""Shared by the public calls of all families: the loop of the solvers, with its limits, progress and reasons."""
