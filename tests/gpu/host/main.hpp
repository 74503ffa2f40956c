// Runs one launch described by a file: main.hpp, shim.hpp and a .cu form a program. host.py writes the file and reads
// the memory.
#pragma once
#include <cstdio>
#include <string>

namespace host {
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

template <class T> T take(std::FILE* file) {
    T x;
    if (std::fread(&x, sizeof x, 1, file) != 1) std::exit(3);
    return x;
}

inline Launch read(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (!file) std::exit(3);
    Launch launch;
    for (unsigned* x : {&launch.grid.x, &launch.grid.y, &launch.grid.z, &launch.block.x, &launch.block.y, &launch.block.z})
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

inline void write(const char* path, const Launch& launch) {
    std::FILE* file = std::fopen(path, "wb");
    for (size_t i = 0; i < launch.memory.size(); ++i)
        if (launch.bytes[i] && std::fwrite(launch.memory[i].get(), size_t(launch.bytes[i]), 1, file) != 1) std::exit(3);
    std::fclose(file);
}

template <class... A> void launch_kernel(void (*kernel)(A...), const char* from, const char* to) {
    Launch launch = read(from);
    if (launch.at.size() != sizeof...(A)) {
        std::fprintf(stderr, "the kernel takes %zu arguments, got %zu\n", sizeof...(A), launch.at.size());
        std::exit(4);
    }
    run(launch.grid, launch.block, launch.shared, launch.together, launch.cluster, [&] { call(kernel, launch.at.data()); });
    write(to, launch);
}
} // namespace host
