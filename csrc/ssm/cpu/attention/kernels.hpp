// Interface of the kernels of linear attention, whose state is a matrix for each head: plain data, declared once.
#pragma once
#include "ssm/cpu/kernels.hpp"

namespace fastiter::ssm {

// Numbers with indices (row, time, head, unit), with any strides in elements; the units are the signal's channels.
struct Heads {
    Signal units;
    int64_t head = 0;
};

// The factor of the state at each step: none, one per head, or one per row of the state (K)
enum class Decay : int { none, scalar, vector };

// The form in which a factor of the state is given: the factor, or its logarithm. The numbers are those of DECAY_FORMS
// in python/fastiter/ssm/_attention_shapes.py.
enum class DecayForm : int { factor, logarithm };

// `heads` value heads; head h reads q and k of head h / per_key.
struct AttentionShape {
    Sequences sequences;
    int64_t heads = 1, per_key = 1, K = 0, V = 0;
    Decay decay = Decay::none;
    DecayForm form = DecayForm::factor;
    double scale = 1; // factor of q
};

// Steps between two saved states: a tile of time, a multiple of the steps that share a pass over the state.
constexpr int64_t kAttentionTile = 48;

// The gates of mLSTM, (row, time, head): with lf = log sigmoid(f) and m = max(lf + m', i), the decay is
// e^(lf + m' - m), k is multiplied by e^(i - m), n = decay n + k, and o is divided by max(|q n|, e^-m) + eps. `present`
// distinguishes empty gates from none. n (sequences, heads, K; null = 0) and m (sequences, heads; null = 0) are
// contiguous; `states_n` and `states_m` are their values before every tile.
template <class T> struct Gates {
    bool present = false;
    Heads i, f;
    double eps = 0;
    const T *first_n = nullptr, *first_m = nullptr;
    T *last_n = nullptr, *last_m = nullptr, *states_n = nullptr, *states_m = nullptr;
};

// S[t] = diag(decay) S[t-1] + k v^T, a matrix (K, V);   o = S[t]^T q, or, with a bonus, o = (S[t-1] + diag(bonus) k v^T)^T q.
// bonus (heads, K), `first` (sequences, heads, K, V; null = 0), `last` and `states` (tiles of all sequences, heads, K,
// V: the state before every kAttentionTile-th step, if not null) are contiguous. Steps past the end of a sequence have
// o 0.
template <class T> struct Attention {
    AttentionShape shape;
    Heads q, k, v, decay, o;
    Gates<T> gates; // replace the decay, which is then scalar
    const T* bonus = nullptr;
    const T* first = nullptr;
    T* last = nullptr;
    T* states = nullptr;
    void* workspace = nullptr;
};

// Gradients from d_o and dlast (each null = 0), with the states that the forward pass saved. dq and dk have the heads
// of q and k; gradients that are null are not requested. dbonus (sequences, heads, K) and dfirst are contiguous. Sums
// are in a fixed order, whatever the number of threads. With gates, dm (sequences, heads) holds on entry the gradient
// of the last m minus the products of the last C and n with their gradients; on return, the gradient of the first m
// without the products of the first C and n. Unless `through_normalizer`, the divisor of o, and m, are treated as
// constants.
template <class T> struct AttentionGradient {
    Attention<T> forward; // o and last are not read
    Heads d_o, dq, dk, dv, ddecay, d_i, d_f;
    bool through_normalizer = true;
    const T* dlast = nullptr;
    const T* dlast_n = nullptr;
    T* dm = nullptr;
    T* dfirst_n = nullptr;
    T* dbonus = nullptr;
    T* dfirst = nullptr;
    void* workspace = nullptr;
};

// S = decay S' + b w^T + k v^T with w = S'^T a, o = S^T q: a correction of rank one. a and b (row, time, head, unit)
// have the heads of v. `w`, if given, is written by the forward pass and read by the backward pass. There is no bonus
// and there are no gates. With beta (row, time, head) it is the delta rule, S = R + beta k (v - R^T k)^T with
// R = decay S': a = -beta decay k, b = k and beta v take the places of a, b and v, and a and b are not given.
template <class T> struct LowRank {
    Attention<T> attention;
    Heads a, b, beta, w;
};

template <class T> struct LowRankGradient {
    AttentionGradient<T> attention;
    Heads a, b, beta, w, da, db, dbeta;
};

template <class T> struct LowRankTable {
    size_t (*workspace)(const LowRank<T>&, int threads);
    void (*forward)(const LowRank<T>&, Team);
    size_t (*gradient_workspace)(const LowRankGradient<T>&, int threads);
    void (*gradient)(const LowRankGradient<T>&, Team);
};

using LowRankKernels = ByType<LowRankTable<float>, LowRankTable<double>>;

FASTITER_TABLE(LowRankKernels, low_rank_kernels)

template <class T> struct AttentionTable {
    size_t (*workspace)(const Attention<T>&, int threads);
    void (*forward)(const Attention<T>&, Team);
    size_t (*gradient_workspace)(const AttentionGradient<T>&, int threads);
    void (*gradient)(const AttentionGradient<T>&, Team);
};

using AttentionKernels = ByType<AttentionTable<float>, AttentionTable<double>>;

FASTITER_TABLE(AttentionKernels, attention_kernels)

} // namespace fastiter::ssm
