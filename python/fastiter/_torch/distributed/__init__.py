"""Shared code for calls of all families that are distributed over the ranks of a process group of torch.distributed."""
