// Python's signals while a kernel runs
#pragma once

namespace fastiter {

// Lets calls of the main thread end with the exception of a signal handler, such as KeyboardInterrupt.
void answer_signals();

} // namespace fastiter
