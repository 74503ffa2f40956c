"""A Poisson problem over two processes; run it by `torchrun --nproc-per-node 2`."""

import scipy.sparse
import torch
import torch.distributed as dist

from fastiter.torch import distributed

dist.init_process_group("gloo")
rank, size, m = dist.get_rank(), dist.get_world_size(), 64
line, eye = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m)), scipy.sparse.eye_array(m)
A = (scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line)).tocsr()

own = distributed.RowMatrix(A[m * m * rank // size : m * m * (rank + 1) // size])  # this process's rows
b = torch.ones(len(own.rows), dtype=torch.float64)
solution = distributed.solve(own, b, preconditioner="block_jacobi", rtol=1e-8)
print(f"rank {rank} of {size}: {solution.reason} after {solution.steps} steps")
dist.destroy_process_group()
