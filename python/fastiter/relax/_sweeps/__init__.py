"""Matrices and vectors in the layout of the kernels, and their sweeps."""
