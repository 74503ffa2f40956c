// The solver loop without Python between sweeps: many small processes, each on one thread, or one process on all
// threads, with the same stopping tests and bitwise the same results.
#pragma once
#include "mdp/bounds.hpp"
#include "mdp/model.hpp"
#include "mdp/progress.hpp"
#include <memory>
#include <vector>

namespace fastiter::mdp {

enum class How : uint8_t { vi, mpi, gs };
enum class Reason : uint8_t { converged, diverged, stagnated, max_steps };
enum class Order : uint8_t { ascending, descending, symmetric, given };

// Options of a solve, the same for all models
struct Rule {
    double discount = 1, tol = 0;
    bool sup = false; // the residual is the width of symmetric bounds; else that of MacQueen's
    int64_t max_steps = 1, patience = 1, policy_sweeps = 0;
    double omega = 1;
    bool exact = true;
    Order order = Order::ascending;
    Judgement judgement; // for methods whose steps are all backups: it ends with `max_steps` where they are left
};

// One model and its own arrays; values have the model's type T.
struct Item {
    Model* model = nullptr;
    How how = How::vi;
    void *v = nullptr, *w = nullptr; // (states): the initial values, overwritten; w = T v at the end
    int32_t* action = nullptr;       // (states)
    const int32_t* order = nullptr;  // (states), if the order is given
    Accuracy accuracy;
};

struct Found {
    Span change;
    Bounds bounds;
    int64_t steps = 0;
    Reason reason = Reason::max_steps;
    std::vector<double> history;
};

class Several {
public:
    virtual ~Several() = default;
    // Returns whether all have ended. For one process on all threads it returns false after about a twentieth of a
    // second, and must be called again. Many small processes end in one call, which throws after a request to stop.
    virtual bool run() = 0;
    const std::vector<Found>& found() const { return found_; }

protected:
    std::vector<Found> found_;
};

// are_small: each process is solved by one thread
template <class T> std::unique_ptr<Several> several(std::vector<Item> items, const Rule& rule, bool are_small);

} // namespace fastiter::mdp
