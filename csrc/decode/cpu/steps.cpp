// The loop over a step's operations.
#include "decode/cpu/context.hpp"

namespace fastiter::decode::FASTITER_LEVEL {
namespace {

template <class O, class T> void run_as(const Item& item, const Context<T>& c) {
    run(*static_cast<const O*>(item.operation), c);
}

template <class T> using Run = void(const Item&, const Context<T>&);

// In the order of Kind
template <class T>
constexpr Run<T>* kRuns[kKinds] = {
    run_as<Embed<T>, T>,     run_as<Linear<T>, T>,   run_as<Norm<T>, T>,    run_as<Conv<T>, T>,
    run_as<Gate<T>, T>,      run_as<Activate<T>, T>, run_as<Decay<T>, T>,   run_as<Add<T>, T>,
    run_as<Selective<T>, T>, run_as<Ssd<T>, T>,      run_as<Delta<T>, T>,   run_as<Rope<T>, T>,
    run_as<Attention<T>, T>, run_as<Route<T>, T>,    run_as<Experts<T>, T>, run_as<Lru<T>, T>,
    run_as<MLstm<T>, T>,
};

template <class T> int64_t scratch_of(const Item& item, int rows) {
    const void* const o = item.operation;
    switch (item.kind) {
    case Kind::linear:
        return linear_scratch(*static_cast<const Linear<T>*>(o), rows);
    case Kind::delta:
        return 4 * round_up(static_cast<const Delta<T>*>(o)->key_width, kLine);
    case Kind::mlstm:
        return 2 * round_up(static_cast<const MLstm<T>*>(o)->key_width, kLine);
    case Kind::attention:
        return attention_scratch(*static_cast<const Attention<T>*>(o));
    case Kind::route:
        return route_scratch(*static_cast<const Route<T>*>(o));
    case Kind::experts:
        return experts_scratch(*static_cast<const Experts<T>*>(o), rows);
    default:
        return 0;
    }
}

template <class T> void run_step(const Step<T>& step, Team team) {
    for (int64_t i = 0; i < step.count; ++i) {
        const Item& item = step.items[i];
        if (item.waits) wait(*team.barriers, team.size);
        const Context<T> c{step, team, item.everywhere ? 0 : team.id, item.everywhere ? 1 : team.size};
        kRuns<T>[int(item.kind)](item, c);
    }
}

template <class T> constexpr StepKernels<T> kernels_of = {scratch_of<T>, run_step<T>};

} // namespace

const StepTable steps = {kernels_of<float>, kernels_of<double>};

} // namespace fastiter::decode::FASTITER_LEVEL
