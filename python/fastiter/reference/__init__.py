"""The specification of each family: plain NumPy loops over the equations, slow and meant to be read."""
