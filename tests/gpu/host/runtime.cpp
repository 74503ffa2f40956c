// The main program of a .cu over shim.hpp: runs one launch described by a file, with one thread per CUDA thread and
// std::barrier as barrier. host.py writes the file and reads the memory.
#include "shim.hpp"
#include <barrier>
#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

namespace host {
namespace {
struct RunningWarp : Warp {
    explicit RunningWarp(int lanes) : Warp{lanes, {}}, meet(lanes) {}
    std::barrier<> meet;
};
struct Cluster;
struct RunningBlock : Block {
    RunningBlock(unsigned threads, size_t size)
        : Block{static_cast<unsigned char*>(std::aligned_alloc(128, (size + 128) / 128 * 128)), size}, meet(threads),
          held(shared) {
        for (unsigned at = 0; at < threads; at += 32)
            warps.push_back(std::make_unique<RunningWarp>(int(std::min(32u, threads - at))));
        start();
    }
    void start() { std::memset(shared, 0xff, bytes); }
    struct Free {
        void operator()(unsigned char* x) const { std::free(x); }
    };
    std::barrier<> meet;
    std::unique_ptr<unsigned char, Free> held;
    std::vector<std::unique_ptr<RunningWarp>> warps;
    Cluster* cluster = nullptr;
};
struct Cluster {
    explicit Cluster(unsigned threads) : meet(threads) {}
    std::barrier<> meet;
    std::vector<RunningBlock*> blocks;
};
RunningBlock& own_block() { return *static_cast<RunningBlock*>(self.block); }

struct Launch {
    dim3 grid, block;
    size_t shared = 0;
    bool together = false;
    unsigned cluster = 1;
    std::vector<std::unique_ptr<unsigned char[]>> memory;
    std::vector<int64> bytes;
    std::vector<uint64> values; // scalars and addresses
    std::vector<void*> at;
};

using Call = void (*)(void** at);

// Runs a kernel for every thread of a grid along x, whose blocks form clusters: one cluster after the other.
void run_clusters(Launch& launch, Call kernel) {
    const unsigned size = launch.cluster, threads = launch.block.x;
    for (unsigned first = 0; first < launch.grid.x; first += size) {
        Cluster cluster(size * threads);
        std::vector<std::unique_ptr<RunningBlock>> blocks;
        for (unsigned rank = 0; rank < size; ++rank) {
            blocks.push_back(std::make_unique<RunningBlock>(threads, launch.shared));
            blocks.back()->cluster = &cluster;
            cluster.blocks.push_back(blocks.back().get());
        }
        std::vector<std::thread> running;
        for (unsigned t = 0; t < threads; ++t)
            for (unsigned rank = 0; rank < size; ++rank)
                running.emplace_back([&, t, rank] {
                    RunningBlock& own = *blocks[rank];
                    threadIdx = {t, 0, 0}, blockIdx = {first + rank, 0, 0};
                    self = {&own, own.warps[t / 32].get(), int(t % 32)};
                    kernel(launch.at.data());
                });
        for (auto& thread : running) thread.join();
    }
}

// Runs a kernel for every thread of the grid: all blocks at once if `together`, else one after the other.
void run_blocks(Launch& launch, Call kernel) {
    const dim3 grid = launch.grid, block = launch.block;
    const unsigned threads = block.x * block.y * block.z, blocks = grid.x * grid.y * grid.z;
    std::vector<std::unique_ptr<RunningBlock>> resident;
    for (unsigned b = 0; b < (launch.together ? blocks : 1); ++b)
        resident.push_back(std::make_unique<RunningBlock>(threads, launch.shared));
    auto one = [&](RunningBlock& own, unsigned t, unsigned b) {
        threadIdx = {t % block.x, t / block.x % block.y, t / (block.x * block.y)};
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        self = {&own, own.warps[t / 32].get(), int(t % 32)};
        kernel(launch.at.data());
    };
    std::vector<std::thread> running;
    for (unsigned t = 0; t < threads; ++t)
        if (launch.together)
            for (unsigned b = 0; b < blocks; ++b) running.emplace_back([&, t, b] { one(*resident[b], t, b); });
        else
            running.emplace_back([&, t] {
                RunningBlock& own = *resident[0];
                for (unsigned b = 0; b < blocks; ++b) {
                    one(own, t, b);
                    own.meet.arrive_and_wait();
                    if (t == 0) own.start();
                    own.meet.arrive_and_wait();
                }
            });
    for (auto& thread : running) thread.join();
}

template <class T> T take(std::FILE* file) {
    T x;
    if (std::fread(&x, sizeof x, 1, file) != 1) std::exit(3);
    return x;
}

Launch read(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (!file) std::exit(3);
    Launch launch;
    for (unsigned* x :
         {&launch.grid.x, &launch.grid.y, &launch.grid.z, &launch.block.x, &launch.block.y, &launch.block.z})
        *x = unsigned(take<int64>(file));
    launch.shared = size_t(take<int64>(file));
    launch.together = take<int64>(file) != 0;
    launch.cluster = unsigned(take<int64>(file));
    for (int64 left = take<int64>(file); left > 0; --left) {
        const int64 bytes = take<int64>(file);
        launch.bytes.push_back(bytes);
        launch.memory.emplace_back(new unsigned char[size_t(bytes)]);
        if (bytes && std::fread(launch.memory.back().get(), size_t(bytes), 1, file) != 1) std::exit(3);
    }
    for (int64 left = take<int64>(file); left > 0; --left) {
        const int64 which = take<int64>(file); // -2: a number; -1: null; else in this memory
        const uint64 value = take<uint64>(file);
        launch.values.push_back(which >= 0 ? uint64(launch.memory[size_t(which)].get()) + value : value);
    }
    for (uint64& x : launch.values) launch.at.push_back(&x);
    std::fclose(file);
    return launch;
}

void write(const char* path, const Launch& launch) {
    std::FILE* file = std::fopen(path, "wb");
    for (size_t i = 0; i < launch.memory.size(); ++i)
        if (launch.bytes[i] && std::fwrite(launch.memory[i].get(), size_t(launch.bytes[i]), 1, file) != 1) std::exit(3);
    std::fclose(file);
}
} // namespace

void meet_warp() { static_cast<RunningWarp*>(self.warp)->meet.arrive_and_wait(); }
void meet_block() { own_block().meet.arrive_and_wait(); }
void meet_cluster() { own_block().cluster->meet.arrive_and_wait(); }
Block* block_of_cluster(int rank) {
    const std::vector<RunningBlock*>& blocks = own_block().cluster->blocks;
    return rank >= 0 && size_t(rank) < blocks.size() ? blocks[size_t(rank)] : nullptr;
}
void yield() { std::this_thread::yield(); }
} // namespace host

int main(int, char** argv) {
    const host::Kernel* const kernel = host::find(argv[1]);
    if (!kernel) return 2;
    host::Launch launch = host::read(argv[2]);
    if (launch.at.size() != kernel->arguments) {
        std::fprintf(stderr, "the kernel takes %zu arguments, got %zu\n", kernel->arguments, launch.at.size());
        return 4;
    }
    gridDim = launch.grid, blockDim = launch.block;
    (launch.cluster > 1 ? host::run_clusters : host::run_blocks)(launch, kernel->call);
    host::write(argv[3], launch);
}
