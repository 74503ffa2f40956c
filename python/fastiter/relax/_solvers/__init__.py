"""Iterations until the residual is small."""
