// Requests that a team stops before its work is done: Ctrl-C, where Python has the main thread.
#pragma once
#include "core/cpu/team.hpp"

namespace fastiter {

// Functions of the language that the library is called from. They are called by the thread that called a team, the first
// while its kernel runs.
struct StopRequests {
    bool (*is_pending)() = nullptr; // whether to stop
    void (*raise)() = nullptr;      // throws the exception of the last request of this thread
};
void use_stop_requests(StopRequests requests);

// Lets calls of the main thread end with the exception of a handler of Python's signals, such as KeyboardInterrupt.
void answer_signals();

// While it lives, the calling thread looks for a request when it has slept for the others of its team.
class LooksWhileWaiting {
public:
    explicit LooksWhileWaiting(const Team& team);
    ~LooksWhileWaiting();
    LooksWhileWaiting(const LooksWhileWaiting&) = delete;
    LooksWhileWaiting& operator=(const LooksWhileWaiting&) = delete;

private:
    const Team* before_; // of the call within which a signal handler has made this one
};
bool looks_while_waiting();
void look_while_waiting();

// Throws if the team was requested to stop.
void raise_if_stopped(const Stop& stop);

} // namespace fastiter
