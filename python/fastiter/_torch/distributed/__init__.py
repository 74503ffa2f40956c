"""What families share to divide their work among the ranks of a process group of torch.distributed."""
