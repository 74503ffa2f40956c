"""Shared parts of the families' calls that are divided among the ranks of a process group of torch.distributed."""
