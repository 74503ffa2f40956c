// A program for activations of one type: its memory, and the steps.
#pragma once
#include "decode/program.hpp"
#include <atomic>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace fastiter::decode {

template <class T> class Stepper final : public Program {
public:
    explicit Stepper(PlanSpec plan);
    Stepper(const Stepper&) = delete;

    void step(const Places& places, const int64_t* tokens, void* logits) override;
    int64_t generate(const Places& places, const Generation& generation) override;
    void set_threads(int threads) override { threads_ = threads; }
    int64_t vocabulary() const override { return plan_.buffers[size_t(logits_)].size; }
    std::vector<int64_t> waits() const override { return waits_; }
    int64_t bytes() const override { return operations_.bytes; }

private:
    void check(const char* function, const Places& places, const int64_t* tokens, int64_t steps) const;
    void check_tokens(const char* function, const char* name, const int64_t* tokens, int64_t count) const;
    void check_keys(const char* function, const Places& places, int64_t steps) const;
    void prepare(const Places& places, const int64_t* tokens);
    int prepare_threads(int threads);
    void fill_angles(const int64_t* positions);
    const T* logits_of(int64_t row) const;

    // Serialises the calls of several threads, and refuses those of a signal handler, which would never return.
    class Use {
    public:
        explicit Use(Stepper& program) : program_(program) {
            if (program.user_.load() == std::this_thread::get_id())
                throw std::runtime_error("Program: a signal handler must not call the program that it interrupts");
            program.mutex_.lock();
            program.user_ = std::this_thread::get_id();
        }
        Use(const Use&) = delete;
        ~Use() {
            program_.user_ = std::thread::id();
            program_.mutex_.unlock();
        }

    private:
        Stepper& program_;
    };

    static const StepKernels<T>& kernels() { return steps().of<StepKernels<T>>(); }

    struct Run; // a generation in progress
    void generate_for_a_while(Run& run, Team team);
    void advance(Run& run);

    PlanSpec plan_;
    Layout layout_;
    Operations<T> operations_;
    int64_t logits_ = -1; // index of the buffer
    Step<T> step_;
    int64_t scratch_size_ = 0;
    std::vector<int64_t> waits_;
    int threads_ = 0; // as set; 0: the usual number
    Block<T> shared_, own_, scratch_, hidden_, angles_;
    bool pauses_ = false; // a generation, to be launched again
    std::mutex mutex_;
    std::atomic<std::thread::id> user_; // who holds the mutex
};

} // namespace fastiter::decode
