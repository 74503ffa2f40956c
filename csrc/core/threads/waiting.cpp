#include "core/threads/waiting.hpp"
#include "core/cpu/team.hpp"
#include "core/threads/stop.hpp"
#include <climits>
#include <cstdlib>
#include <ctime>
#include <sched.h>
#ifdef __linux__
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastiter {
namespace {

// ns; a longer wait more likely means that a thread has no core than that it is working. If threads have recently been
// without a core, others sleep sooner, as the steps of a recurrence synchronise thousands of times.
constexpr int64_t kPatience = 100'000, kPatienceWhenCrowded = 4'000;
constexpr int64_t kCrowdedFor = 10'000'000;
constexpr long kLongestSleep = 50'000'000; // ns, for a thread that polls for a request to stop
int64_t crowded_until = 0;                 // process-wide: a heuristic

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

inline bool is_still(const int32_t& word, int32_t value) {
    return (__atomic_load_n(&word, __ATOMIC_ACQUIRE) & ~1) == value;
}

void sleep_while(int32_t& word, int32_t value) {
#ifdef __linux__
    int32_t expected = value;
    const bool is_marked =
        __atomic_compare_exchange_n(&word, &expected, value | 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    const timespec longest{0, kLongestSleep};
    if (is_marked || expected == (value | 1))
        syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value | 1, checks_while_waiting() ? &longest : nullptr, nullptr,
                0);
#else
    (void)word;
    (void)value;
    sched_yield();
#endif
}

// Total time that this thread has waited for a core, as the scheduler reports it; 0 if the system does not.
int64_t delay_until_now() {
    int64_t delay = 0;
#ifdef __linux__
    const int file = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    char text[96]; // time on a core, time without one, slices
    const ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0) return 0;
    text[length] = 0;
    char* second = nullptr;
    std::strtoll(text, &second, 10);
    delay = std::strtoll(second, nullptr, 10);
#endif
    return delay;
}

thread_local int64_t last_delay = delay_until_now(), last_check = 0;
thread_local Delays delays{};

} // namespace

int64_t wall_clock() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

void wait_while(int32_t& word, int32_t value) {
    for (int i = 0; i < 64; ++i, pause())
        if (!is_still(word, value)) return;
    const int64_t now = wall_clock();
    const bool is_crowded = now < __atomic_load_n(&crowded_until, __ATOMIC_RELAXED);
    const int64_t end = now + (is_crowded ? kPatienceWhenCrowded : kPatience);
    while (wall_clock() < end)
        for (int i = 0; i < 64; ++i, pause())
            if (!is_still(word, value)) return;
    while (is_still(word, value)) {
        sleep_while(word, value);
        check_while_waiting();
    }
    delays.slept += wall_clock() - end;
}

void wake_all([[maybe_unused]] int32_t& word) {
#ifdef __linux__
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
}

// Unequal shares of work make threads sleep on an idle machine too, so the scheduler is queried, but not at every step.
void check_for_delay(int64_t interval) {
    const int64_t now = wall_clock();
    if (now - last_check < interval) return;
    const int64_t delay = delay_until_now(), grown = delay - last_delay;
    last_delay = delay;
    last_check = now;
    delays.without_core += grown;
    if (grown > kPatience) __atomic_store_n(&crowded_until, now + kCrowdedFor, __ATOMIC_RELAXED);
}

Delays take_delays() {
    const Delays taken = delays;
    delays = {};
    return taken;
}

void Latch::arrive() {
    const int32_t before = __atomic_fetch_sub(&word_, 2, __ATOMIC_ACQ_REL);
    if (before == (2 | 1)) wake_all(word_); // by address only: the latch may already be destroyed
}

void Latch::wait() {
    for (int32_t left; (left = __atomic_load_n(&word_, __ATOMIC_ACQUIRE) & ~1) != 0;) wait_while(word_, left);
}

void wait(Barrier& barrier, int size) {
    if (size == 1) return;
    const int32_t phase = __atomic_load_n(&barrier.phase, __ATOMIC_ACQUIRE) & ~1;
    if (__atomic_load_n(&barrier.is_open, __ATOMIC_ACQUIRE)) return;
    if (__atomic_add_fetch(&barrier.arrived, 1, __ATOMIC_ACQ_REL) < size) return wait_while(barrier.phase, phase);
    __atomic_store_n(&barrier.arrived, 0, __ATOMIC_RELAXED);
    if (__atomic_exchange_n(&barrier.phase, phase + 2, __ATOMIC_ACQ_REL) & 1) {
        wake_all(barrier.phase);
        check_for_delay(kOftenEnough);
    }
}

} // namespace fastiter
