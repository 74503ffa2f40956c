"""The machine code of CUDA kernels, executed for one thread with a model of its warp's latencies. No GPU is needed."""
