"""Sources of the GPU kernels, compiled on first use: cuda/<stem>.cu by NVRTC, triton/<stem>.py by Triton."""
