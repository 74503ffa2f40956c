"""Triton kernels, a file a family: @triton.jit functions and nothing else. Launched from fastiter.torch."""
