// Python's signals while a kernel runs.
#include "core/launch.hpp"
#include "core/threads/stop.hpp"
#include <exception>
#include <pybind11/pybind11.h>
#include <utility>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <pthread.h>
#endif

namespace py = pybind11;

namespace fastiter {
namespace {

thread_local std::exception_ptr raised;

// Python handles signals in the main thread only; the other threads need not acquire the GIL.
bool is_main_thread() {
#ifdef __linux__
    return syscall(SYS_gettid) == getpid();
#else
    return pthread_main_np() != 0;
#endif
}

bool is_pending() {
    if (!is_main_thread()) return false;
    py::gil_scoped_acquire gil;
    Block<> in_use = std::move(workspace); // the running kernel's workspace: a handler may call other kernels
    if (PyErr_CheckSignals() != 0) raised = std::make_exception_ptr(py::error_already_set());
    workspace = std::move(in_use);
    return raised != nullptr;
}

void raise() { std::rethrow_exception(std::exchange(raised, nullptr)); }

} // namespace

void answer_signals() { use_stop_requests({is_pending, raise}); }

} // namespace fastiter
