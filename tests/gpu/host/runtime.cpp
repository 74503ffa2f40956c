// The main program of a .cu over shim.hpp: runs one launch described by a file. Each CUDA thread is a fiber, a stack of
// its own that runs until it waits, as hundreds of threads of the system would spend nearly all of the time on their
// barriers. ThreadSanitizer sees each fiber as a thread, ordered with the others by barriers and atomics alone.
// host.py writes the file and reads the memory.
#include "shim.hpp"
#include <cstdio>
#include <functional>
#include <memory>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FIBERS_RACE // the functions of ThreadSanitizer for fibers, which this file itself is compiled without
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#else
#define __tsan_acquire(address)
#define __tsan_release(address)
#endif

namespace host {
namespace {
constexpr size_t kPage = size_t(1) << 16, kStack = size_t(1) << 19;

struct Fiber : Self {
    ucontext_t context;
    Fiber* next = nullptr; // in the list that it waits in
    const void* stack = nullptr;
    size_t bytes = 0;
    void* seen = nullptr; // by ThreadSanitizer
};
Fiber beginning; // runs `main`, and again once no other fiber is ready
Fiber* current() { return static_cast<Fiber*>(self); }

// Fibers that are ready to run, first come first served
struct {
    Fiber *first = nullptr, *last = nullptr;
    void push(Fiber* x) {
        x->next = nullptr;
        (first ? last->next : first) = x;
        last = x;
    }
    Fiber* pop() {
        Fiber* const x = first;
        if (x) first = x->next;
        return x ? x : &beginning;
    }
} ready;

void run_next() {
    Fiber *const from = current(), *const to = ready.pop();
    if (to == from) return;
    self = to;
#ifdef FIBERS_RACE
    __tsan_switch_to_fiber(to->seen, 1); // 1: the order in which fibers run is no order of their memory accesses
#endif
#ifdef __SANITIZE_ADDRESS__
    void* frames;
    __sanitizer_start_switch_fiber(&frames, to->stack, to->bytes);
#endif
    swapcontext(&from->context, &to->context);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(frames, nullptr, nullptr);
#endif
}

// The last fiber to arrive goes on at once and the others follow in reverse, so a missing barrier shows in either order.
class Barrier {
public:
    explicit Barrier(unsigned size) : size_(size) {}
    void arrive_and_wait() {
        [[maybe_unused]] char* const phase = &phases_[odd_];
        __tsan_release(phase);
        if (++arrived_ < size_) {
            current()->next = waiting_;
            waiting_ = current();
            run_next();
        } else {
            arrived_ = 0;
            odd_ = !odd_;
            while (Fiber* const each = waiting_) {
                waiting_ = each->next;
                ready.push(each);
            }
        }
        __tsan_acquire(phase);
    }

private:
    unsigned size_, arrived_ = 0;
    Fiber* waiting_ = nullptr;
    bool odd_ = false;
    char phases_[2] = {}; // two, as a fiber may arrive again before the others have left
};

struct RunningWarp : Warp {
    explicit RunningWarp(int lanes) : Warp{lanes, {}}, meet(unsigned(lanes)) {}
    Barrier meet;
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
    Barrier meet;
    std::unique_ptr<unsigned char, Free> held;
    std::vector<std::unique_ptr<RunningWarp>> warps;
    Cluster* cluster = nullptr;
};
struct Cluster {
    explicit Cluster(unsigned threads) : meet(threads) {}
    Barrier meet;
    std::vector<RunningBlock*> blocks;
};
RunningBlock& own_block() { return *static_cast<RunningBlock*>(self->block); }

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

// Fibers and what each of them runs
class Fibers {
public:
    explicit Fibers(size_t count) : fibers_(count), running_(count) {
        // Memory is used as it is touched. A page before each stack is inaccessible.
        stacks_ = static_cast<unsigned char*>(
            mmap(nullptr, count * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (stacks_ == MAP_FAILED) std::exit(3);
    }
    ~Fibers() { munmap(stacks_, fibers_.size() * kStack); }

    void add(std::function<void()> run) {
        Fiber& own = fibers_[added_];
        unsigned char* const lowest = stacks_ + added_ * kStack;
        mprotect(lowest, kPage, PROT_NONE);
        own.stack = lowest + kPage;
        own.bytes = kStack - kPage;
        getcontext(&own.context);
        own.context.uc_stack.ss_sp = lowest + kPage;
        own.context.uc_stack.ss_size = own.bytes;
        makecontext(&own.context, begin, 0);
        own.context.uc_stack.ss_size = 0; // AddressSanitizer would forget all it knows of the stack at each switch
#ifdef FIBERS_RACE
        own.seen = __tsan_create_fiber(0);
#endif
        running_[added_++] = std::move(run);
        ready.push(&own);
    }

    void run() {
        now_ = this;
        left_ = added_;
#ifdef FIBERS_RACE
        beginning.seen = __tsan_get_current_fiber();
#endif
        self = &beginning;
        run_next();
        __tsan_acquire(&left_);
        if (left_ == 0) return;
        std::fprintf(stderr, "%zu of %zu threads wait at a barrier that the others do not reach\n", left_, added_);
        std::exit(5);
    }

private:
    static void begin() {
#ifdef __SANITIZE_ADDRESS__
        const bool is_first = !beginning.stack;
        __sanitizer_finish_switch_fiber(nullptr, is_first ? &beginning.stack : nullptr,
                                        is_first ? &beginning.bytes : nullptr);
#endif
        now_->running_[size_t(current() - now_->fibers_.data())]();
        __tsan_release(&now_->left_);
        --now_->left_;
        run_next();
    }

    static inline Fibers* now_ = nullptr;
    std::vector<Fiber> fibers_;
    std::vector<std::function<void()>> running_;
    unsigned char* stacks_;
    size_t added_ = 0, left_ = 0;
};

void take_place(RunningBlock& own, unsigned t, dim3 thread, dim3 at) {
    static_cast<Self&>(*current()) = {&own, own.warps[t / 32].get(), int(t % 32), thread, at};
}

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
        Fibers fibers(size_t(threads) * size);
        for (unsigned t = 0; t < threads; ++t)
            for (unsigned rank = 0; rank < size; ++rank)
                fibers.add([&, t, rank] {
                    take_place(*blocks[rank], t, {t, 0, 0}, {first + rank, 0, 0});
                    kernel(launch.at.data());
                });
        fibers.run();
    }
}

// Runs a kernel for every thread of the grid: all blocks at once if `together`, else one after the other.
void run_blocks(Launch& launch, Call kernel) {
    const dim3 grid = launch.grid, block = launch.block;
    const unsigned threads = block.x * block.y * block.z, blocks = grid.x * grid.y * grid.z;
    const unsigned at_once = launch.together ? blocks : 1;
    std::vector<std::unique_ptr<RunningBlock>> resident;
    for (unsigned b = 0; b < at_once; ++b) resident.push_back(std::make_unique<RunningBlock>(threads, launch.shared));
    auto one = [&](RunningBlock& own, unsigned t, unsigned b) {
        take_place(own, t, {t % block.x, t / block.x % block.y, t / (block.x * block.y)},
                   {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)});
        kernel(launch.at.data());
    };
    Fibers fibers(size_t(threads) * at_once);
    for (unsigned t = 0; t < threads; ++t)
        if (launch.together)
            for (unsigned b = 0; b < blocks; ++b) fibers.add([&, t, b] { one(*resident[b], t, b); });
        else
            fibers.add([&, t] {
                RunningBlock& own = *resident[0];
                for (unsigned b = 0; b < blocks; ++b) {
                    one(own, t, b);
                    own.meet.arrive_and_wait();
                    if (t == 0) own.start();
                    own.meet.arrive_and_wait();
                }
            });
    fibers.run();
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

void meet_warp() { static_cast<RunningWarp*>(self->warp)->meet.arrive_and_wait(); }
void meet_block() { own_block().meet.arrive_and_wait(); }
void meet_cluster() { own_block().cluster->meet.arrive_and_wait(); }
Block* block_of_cluster(int rank) {
    const std::vector<RunningBlock*>& blocks = own_block().cluster->blocks;
    return rank >= 0 && size_t(rank) < blocks.size() ? blocks[size_t(rank)] : nullptr;
}
void yield() {
    ready.push(current());
    run_next();
}
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
