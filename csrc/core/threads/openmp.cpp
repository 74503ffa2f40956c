// After a torch operation its OpenMP threads spin for a while, and a second pool would compete with them for the cores,
// so our teams run on the same runtime. GCC's (libgomp) and, under compatibility names, LLVM's and Intel's export these
// functions.
#include "core/threads/openmp.hpp"
#include <atomic>
#include <cstring>
#include <dlfcn.h>
#include <mutex>
#include <string>
#include <vector>
#ifdef __linux__
#include <link.h>
#endif

namespace fastiter {
namespace {

std::atomic<const OpenMP*> loaded{nullptr};
std::atomic<bool> forgotten{false};

#ifdef __linux__
bool load(const char* path, OpenMP& omp) {
    void* library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (!library) return false;
    auto find = [&](auto& entry, const char* name) {
        void* symbol = dlsym(library, name);
        std::memcpy(&entry, &symbol, sizeof symbol);
        return symbol != nullptr;
    };
    // The handle stays open: the library must not be unloaded while its functions are in use.
    return find(omp.parallel, "GOMP_parallel") && find(omp.thread_num, "omp_get_thread_num") &&
           find(omp.num_threads, "omp_get_num_threads") && find(omp.max_threads, "omp_get_max_threads") &&
           find(omp.in_parallel, "omp_in_parallel");
}

int add_runtime(dl_phdr_info* info, size_t, void* paths) {
    const char* name = std::strrchr(info->dlpi_name, '/');
    name = name ? name + 1 : info->dlpi_name;
    for (const char* prefix : {"libgomp", "libiomp5", "libomp"})
        if (std::strncmp(name, prefix, std::strlen(prefix)) == 0) {
            static_cast<std::vector<std::string>*>(paths)->push_back(info->dlpi_name);
            break;
        }
    return 0;
}

unsigned long long count_of_loads() {
    unsigned long long loads = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
            *static_cast<unsigned long long*>(out) = info->dlpi_adds;
            return 1;
        },
        &loads);
    return loads;
}
#endif

} // namespace

#ifdef __linux__
// torch may be imported after us, so the search is repeated whenever a library was loaded since the last one.
const OpenMP* process_openmp() {
    if (forgotten.load(std::memory_order_relaxed)) return nullptr;
    if (const OpenMP* known = loaded.load(std::memory_order_acquire)) return known;
    static std::atomic<unsigned long long> searched{0};
    const unsigned long long loads = count_of_loads();
    if (searched.exchange(loads) == loads) return nullptr;
    std::vector<std::string> paths;
    dl_iterate_phdr(add_runtime, &paths);
    static OpenMP entries;
    static std::mutex mutex;
    std::lock_guard lock(mutex);
    for (const std::string& path : paths)
        if (!loaded.load() && load(path.c_str(), entries)) loaded.store(&entries, std::memory_order_release);
    return loaded.load();
}
#else
const OpenMP* process_openmp() { return nullptr; }
#endif

void forget_openmp() { forgotten.store(true); }

} // namespace fastiter
