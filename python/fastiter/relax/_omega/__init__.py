"""The choice of the relaxation factor."""
