// The loop of value iteration and its variants, without Python between sweeps: many small processes, each on one
// thread, or one process on all threads, with the same stopping tests and bitwise the same results.
#pragma once
#include "mdp/bounds.hpp"
#include "mdp/model.hpp"
#include "mdp/progress.hpp"
#include <memory>
#include <vector>

namespace fastiter::mdp {

enum class Kind : uint8_t { vi, mpi, gs };
enum class Reason : uint8_t { converged, diverged, stagnated, max_steps };
enum class Order : uint8_t { ascending, descending, symmetric, own };

// Options of a solve, the same for all models
struct Options {
    double discount = 1, atol = 0;
    bool sup = false; // the residual is the width of symmetric bounds; else that of MacQueen's
    int64_t max_steps = 1, patience = 1, policy_sweeps = 0;
    double omega = 1;
    bool exact = true;
    Order order = Order::ascending;
    int64_t longest = 0;  // the largest number of entries in a row
    bool is_many = false; // each process is solved by one thread
    Judgement judgement;  // for methods whose steps are all backups: it ends with `max_steps` where they are left
};

// One model and its own arrays
template <class T> struct Input {
    const Model<T>* model = nullptr;
    Kind kind = Kind::vi;
    Vectors<T> x;                   // the initial values, overwritten; w = T v at the end
    const int32_t* order = nullptr; // (states), if each model has its own
    Accuracy accuracy;
};

struct Result {
    Span change;
    Bounds bounds;
    int64_t steps = 0;
    Reason reason = Reason::max_steps;
    std::vector<double> history;
};

template <class T> class Loop;

template <class T> class Loops {
public:
    Loops(std::vector<Input<T>> inputs, const Options&);
    Loops(const Loops&) = delete;
    Loops& operator=(const Loops&) = delete;
    ~Loops();
    // Returns whether all have ended. For one process on all threads it returns false after about a twentieth of a
    // second, and must be called again. Many small processes end in one call, which throws after a request to stop.
    bool run();
    const std::vector<Result>& results() const { return results_; }

private:
    void run_many();

    std::vector<Input<T>> inputs_;
    Options options_;
    size_t ended_ = 0;
    std::vector<Result> results_;
    std::vector<Loop<T>> loops_;
};

} // namespace fastiter::mdp
