// A plan with its weights, which advances up to 8 sequences by one token per call. The caller keeps the states.
#pragma once
#include "core/launch.hpp"
#include "decode/fields.hpp"
#include "decode/sample.hpp"

namespace fastiter::decode {

// Where the sequences are, and their states. Arrays of int64 have one number per row.
struct Places {
    int rows = 0;
    const int64_t* positions = nullptr; // for rotary embeddings
    const int64_t* firsts = nullptr;    // first key that is seen; null: 0
    int64_t length = 0;                 // keys stored so far
    int64_t capacity = 0;               // room in the states of keys and values
    void* const* states = nullptr;      // in the order of the plan's, each contiguous: (rows, ...), but keys and values
                                        // (rows, heads, capacity, width)
    int64_t state_count = 0;
};

// Tokens of a generation: `count` of each row, into `out` (rows, count)
struct Generation {
    const int64_t* first = nullptr; // (rows): the tokens of the first step
    int64_t count = 0;
    Sampling sampling;
    const double* uniform = nullptr; // (rows, count) numbers in [0, 1); null: the most probable token
    const int64_t* stops = nullptr;  // tokens that end a row
    int64_t stop_count = 0;
    int64_t pad = 0;               // follows the end of a row
    const int64_t* seen = nullptr; // (rows, seen_count): earlier tokens, for the repetition penalty; -1: none
    int64_t seen_count = 0;
    int64_t* out = nullptr; // after the end of a row: pad
};

class Program {
public:
    virtual ~Program() = default;
    // Computes the logits (rows, vocabulary), contiguous, and advances the states.
    virtual void step(const Places& places, const int64_t* tokens, void* logits) = 0;
    // Returns the number of steps until the last row has ended. After an interruption, the states are between two
    // steps or incomplete.
    virtual int64_t generate(const Places& places, const Generation& generation) = 0;
    // Uses this number of threads, whatever the machine's load; 0, the default: the usual number, or fewer where a
    // thread would have too little work
    virtual void set_threads(int threads) = 0;
    virtual int64_t vocabulary() const = 0;         // numbers of logits per row
    virtual std::vector<int64_t> waits() const = 0; // operations before which the threads wait for each other
    virtual int64_t bytes() const = 0;              // bytes of weights
};

// Throws std::invalid_argument for a plan that the kernel cannot run.
std::unique_ptr<Program> program_of(int bits, PlanSpec plan);

} // namespace fastiter::decode
