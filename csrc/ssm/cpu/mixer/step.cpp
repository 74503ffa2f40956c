// One step of a whole mixer: the products of a few rows with the weights, each of which is read once, and the gated
// norm.
#include "core/cpu/vmath.hpp"
#include "ssm/cpu/mixer/kernels.hpp"
#include "ssm/cpu/sums.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {
namespace {

constexpr int W = lanes<float>;
constexpr int kRows = min_of(4, W); // rows that are computed together

// A vector of outputs of some rows. Each sum of products fills a vector before its lanes are added, and as many sums as
// a vector has lanes are formed at once: those of all outputs for one row, or of some outputs for several rows.
template <class S> class Product {
public:
    explicit Product(const RowsProduct& p) : p_(p) {}

    // Outputs [n, n + W), up to the last one
    void run(int64_t n) const {
        int64_t b = 0;
        for (; b + kRows <= p_.B; b += kRows) rows<kRows>(b, n);
        for (; b + 2 <= p_.B; b += 2) rows<2>(b, n);
        for (; b < p_.B; ++b) rows<1>(b, n);
    }

private:
    template <int Rows> void rows(int64_t b, int64_t n) const {
        constexpr int outputs = W / Rows;
        alignas(64) float out[Rows][W];
        for (int part = 0; part < Rows; ++part) {
            alignas(64) float sums[W];
            store(sums, some<Rows>(b, n + part * outputs));
            for (int o = 0; o < outputs; ++o)
                for (int r = 0; r < Rows; ++r) out[r][part * outputs + o] = sums[o * Rows + r];
        }
        const int64_t count = min_of(W, p_.N - n);
        const S* bias = static_cast<const S*>(p_.bias);
        const vec<float> start = bias ? load_up_to(bias + n, count) : vec<float>{};
        for (int r = 0; r < Rows; ++r)
            store_up_to(static_cast<S*>(p_.out) + (b + r) * p_.out_row + n, load(out[r]) + start, count);
    }

    // Lane o Rows + r: output n + o of row b + r
    template <int Rows> FASTITER_NOINLINE vec<float> some(int64_t b, int64_t n) const {
        constexpr int outputs = W / Rows;
        const S *x[Rows], *w[outputs];
        for (int r = 0; r < Rows; ++r) x[r] = static_cast<const S*>(p_.x) + (b + r) * p_.x_row;
        for (int o = 0; o < outputs; ++o) w[o] = static_cast<const S*>(p_.w) + min_of(n + o, p_.N - 1) * p_.K;
        vec<float> sum[W] = {};
        auto add = [&](int64_t k, auto read) __attribute__((always_inline)) {
            vec<float> of_x[Rows];
#pragma GCC unroll 4
            for (int r = 0; r < Rows; ++r) of_x[r] = read(x[r] + k);
#pragma GCC unroll 16
            for (int o = 0; o < outputs; ++o) {
                const vec<float> of_w = read(w[o] + k);
#pragma GCC unroll 4
                for (int r = 0; r < Rows; ++r) sum[o * Rows + r] = fma(of_w, of_x[r], sum[o * Rows + r]);
            }
        };
        int64_t k = 0;
        for (; k + W <= p_.K; k += W) add(k, [](const S* at) { return load(at); });
        if (k < p_.K) add(k, [left = p_.K - k](const S* at) { return load_up_to(at, left); });
        return sums_of<float>(sum);
    }

    const RowsProduct& p_;
};

// Calls f with a null pointer to the storage type.
template <class F> FASTITER_INLINE void with_type(Storage storage, F f) {
    with_storage<float>({nullptr, 0, 0, 0, storage}, f);
}

void product(const RowsProduct& p, Team team) {
    const int64_t blocks = ceil_div(p.N, W);
    with_type(p.storage, [&]<class S>(S*) {
        const Product<S> kernel(p);
        for (int64_t i = blocks * team.id / team.size; i < blocks * (team.id + 1) / team.size; ++i) kernel.run(i * W);
    });
}

template <class S> void norm_group(const GatedNorm& p, int64_t b, int64_t from) {
    const S *x = static_cast<const S*>(p.x) + b * p.D + from, *weight = static_cast<const S*>(p.weight) + from;
    const S* gate = static_cast<const S*>(p.gate) + b * p.gate_row + from;
    vec<float> squares{};
    for (int64_t i = 0; i < p.group; i += W) {
        const int64_t left = p.group - i;
        const vec<float> z = load_up_to(gate + i, left), h = load_up_to(x + i, left) * (z * sigmoid<float>(z));
        squares = fma(h, h, squares); // 0 in lanes beyond the last number
        store_up_to(p.workspace + i, h, left);
    }
    float sum = 0;
    for (int i = 0; i < W; ++i) sum += squares[i];
    const float scale = 1 / __builtin_sqrtf(sum / float(p.group) + float(p.eps));
    S* out = static_cast<S*>(p.out) + b * p.D + from;
    for (int64_t i = 0; i < p.group; i += W) {
        const int64_t left = p.group - i;
        store_up_to(out + i, load_up_to(p.workspace + i, left) * scale, left); // rounded
        store_up_to(out + i, load_up_to(weight + i, left) * load_up_to(out + i, left), left);
    }
}

void norm(const GatedNorm& p) {
    with_type(p.storage, [&]<class S>(S*) {
        for (int64_t b = 0; b < p.B; ++b)
            for (int64_t from = 0; from < p.D; from += p.group) norm_group<S>(p, b, from);
    });
}

void rates(Signal log, int64_t count, float* out) {
    with_storage<float>(log, [&]<class S>(S* from) {
        for (int64_t i = 0; i < count; i += W)
            store_up_to(out + i, -exp<float>(load_up_to(from + i, count - i)), count - i);
    });
}

} // namespace

const MixerKernels mixer_kernels = {product, norm, rates};

} // namespace fastiter::ssm::FASTITER_LEVEL
