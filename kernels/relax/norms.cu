// Adds up partial norms in an order that depends only on the number of threads per block.

// sums (gridDim.y, k): block (c, s) sums column c over share s of the rows of parts (count, k)
KERNEL __launch_bounds__(256) relax_norms_kernel(const double* parts, int64 count, int64 k, double* sums) {
    SHARED_MEMORY(double, of_thread); // (blockDim.x), a power of two
    const int64 column = blockIdx.x, each = (count + gridDim.y - 1) / gridDim.y;
    const int64 first = blockIdx.y * each, last = min(count, first + each);
    double sum = 0;
    for (int64 i = first + threadIdx.x; i < last; i += blockDim.x) sum += parts[i * k + column];
    of_thread[threadIdx.x] = sum;
    for (uint32 half = blockDim.x / 2; half > 0; half /= 2) {
        block_barrier();
        if (threadIdx.x < half) of_thread[threadIdx.x] += of_thread[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.y * k + column] = of_thread[0];
}
