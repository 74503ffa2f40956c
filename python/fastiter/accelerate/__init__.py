"""Existing PyTorch models on fastiter's kernels: :func:`fastiter.torch.accelerate`."""
