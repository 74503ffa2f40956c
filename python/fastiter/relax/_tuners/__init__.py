"""Tuners of the relaxation factor for sequences of systems."""
