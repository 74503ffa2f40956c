// Requests that a team stops before its work is done: Ctrl-C, if Python's main thread made the call.
#pragma once
#include "core/cpu/team.hpp"

namespace fastiter {

// Callbacks of the language that calls the library. Both run in the thread that called the team, the first of them
// while its kernel runs.
struct StopRequests {
    bool (*is_pending)() = nullptr; // whether to stop
    void (*raise)() = nullptr;      // throws the exception of the last request of this thread
};
void use_stop_requests(StopRequests requests);

// Makes calls from the main thread end with the exception that a Python signal handler raises, such as
// KeyboardInterrupt.
void answer_signals();

// During its lifetime, the calling thread polls for a request each time that it has slept while waiting for its team.
class ChecksWhileWaiting {
public:
    explicit ChecksWhileWaiting(const Team& team);
    ~ChecksWhileWaiting();
    ChecksWhileWaiting(const ChecksWhileWaiting&) = delete;
    ChecksWhileWaiting& operator=(const ChecksWhileWaiting&) = delete;

private:
    const Team* before_; // team of the outer call, if a signal handler made this call within it
};
bool checks_while_waiting();
void check_while_waiting();

// Throws if the team was requested to stop.
void raise_if_stopped(const Stop& stop);

} // namespace fastiter
