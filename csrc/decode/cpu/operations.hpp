// The operations of a decoder's step as plain data, and the kernel that runs them. python/fastiter/decode/plan.py
// describes each operation, python/fastiter/decode/reference.py specifies it. csrc/decode/operations.cpp has checked
// everything that the kernel relies on: parts lie inside buffers, and sizes agree.
#pragma once
#include "core/cpu/team.hpp"
#include "decode/cpu/packed.hpp"

namespace fastiter::decode {

enum class Kind : int32_t {
    embed,
    linear,
    norm,
    conv,
    gate,
    activate,
    decay,
    add,
    selective,
    ssd,
    delta,
    rope,
    attention,
    route,
    experts,
    lru,
    mlstm
};
constexpr int kKinds = 17;

enum class Activation : int32_t {
    none,
    silu,
    sigmoid,
    gelu,
    gelu_tanh,
    relu,
    relu2,
    softplus,
    tanh,
    exp,
    softcap,
    clip
};
constexpr int kActivations = 12;

enum class Routing : int32_t { softmax, topk_softmax, sigmoid };
constexpr int kRoutings = 3;
constexpr int kCuts = 7; // parts of the outputs of a product

// Numbers of a buffer per row: row b has `size` of them at base[is_own] + offset + b row. Every thread has its own copy
// of the buffers that all threads compute for themselves.
struct Part {
    int64_t offset = 0, size = 0, row = 0;
    bool is_own = false;
};

// The state of row b: at states[index] + b size, but keys and values at states[index] + b size capacity
struct StateRef {
    int32_t index = 0;
    int64_t size = 0;
};

template <class T> struct Embed {
    static constexpr Kind kind = Kind::embed;
    Part out;
    Packed table;
    T scale = 1;
};

template <class T> struct Linear {
    static constexpr Kind kind = Kind::linear;
    Part x, out;
    Packed w;
    const T* bias = nullptr; // or null
    Activation activation = Activation::none;
    T scale = 1;
    bool adds = false;
    int64_t cuts[kCuts] = {}; // outputs before and after a cut are divided among the threads separately; 0: no cut
};

template <class T> struct Norm {
    static constexpr Kind kind = Kind::norm;
    Part x, out, gate; // without a gate its size is 0
    const T* weight = nullptr;
    const T* bias = nullptr;
    int64_t size = 0;                   // numbers of a group
    int64_t step = 0, step_of_bias = 0; // between the weights of two groups: `size`, or 0 for the same weights
    T eps = 0;
    bool centers = false; // subtracts the mean
    bool gate_first = false;
    Activation activation = Activation::none; // the gate's
};

template <class T> struct Conv {
    static constexpr Kind kind = Kind::conv;
    Part x, out;
    StateRef state;
    const T* weight = nullptr;
    const T* bias = nullptr;
    int64_t width = 0, saved = 0; // W and W'
    Activation activation = Activation::none;
};

template <class T> struct Gate {
    static constexpr Kind kind = Kind::gate;
    Part a, b, out;
    const T* vector = nullptr; // takes the place of b
    Activation activation = Activation::none;
};

template <class T> struct Activate {
    static constexpr Kind kind = Kind::activate;
    Part x, out;
    Activation activation = Activation::none;
    T cap = 1;
};

template <class T> struct Decay {
    static constexpr Kind kind = Kind::decay;
    Part x, out;
    const T* rate = nullptr;
    const T* bias = nullptr;
};

template <class T> struct Add {
    static constexpr Kind kind = Kind::add;
    Part a, b, out;
    T scale_a = 1, scale_b = 1;
};

template <class T> struct Selective {
    static constexpr Kind kind = Kind::selective;
    Part u, dt, B, C, out;
    StateRef state;
    const T* A = nullptr;
    const T* skip = nullptr;
    const T* bias = nullptr;
};

template <class T> struct Ssd {
    static constexpr Kind kind = Kind::ssd;
    Part x, dt, B, C, out;
    StateRef state;
    const T* A = nullptr;
    const T* skip = nullptr;
    const T* bias = nullptr;
    int64_t heads = 0, width = 0, groups = 0, states = 0;
    T lowest = 0, highest = 0; // step sizes
};

template <class T> struct Delta {
    static constexpr Kind kind = Kind::delta;
    Part q, k, v, decay, beta, out;
    StateRef state;
    int64_t key_heads = 0, value_heads = 0, key_width = 0, value_width = 0;
    T scale = 1, eps = 0;
    bool normalizes = false, per_key = false;
};

template <class T> struct Rope {
    static constexpr Kind kind = Kind::rope;
    Part x, out;
    int64_t heads = 0, width = 0, rotary = 0;
    int64_t table = 0; // place of cosines and sines: those of row b at angles + table + b rotary
    bool interleaved = false;
};

template <class T> struct Attention {
    static constexpr Kind kind = Kind::attention;
    Part q, k, v, out;
    StateRef keys, values;
    int64_t heads = 0, key_heads = 0, key_width = 0, value_width = 0;
    int64_t rest = 0;     // size of the ends of latent keys, which `values` holds; `keys` has the others, the value
    T scale = 1, cap = 0; // cap 0: none
    int64_t window = 0;   // 0: none
    const T* sinks = nullptr;
};

template <class T> struct Route {
    static constexpr Kind kind = Kind::route;
    Part logits, out;
    int64_t top_k = 0, groups = 1, top_groups = 1;
    Routing routing = Routing::softmax;
    bool normalizes = false;
    T eps = 0, scale = 1;
    const T* bias = nullptr;
};

template <class T> struct Experts {
    static constexpr Kind kind = Kind::experts;
    Part x, routes, out;
    const Packed* gate = nullptr; // or null
    const Packed* up = nullptr;
    const Packed* down = nullptr;
    Activation activation = Activation::none;
    bool adds = false;
};

template <class T> struct Lru {
    static constexpr Kind kind = Kind::lru;
    Part x, input_gate, recurrent_gate, out;
    StateRef state;
    const T* rate = nullptr;
};

template <class T> struct MLstm {
    static constexpr Kind kind = Kind::mlstm;
    Part q, k, v, i, f, out;
    StateRef memory, normalizer, maximum;
    int64_t heads = 0, key_width = 0, value_width = 0;
    T scale = 1, eps = 0;
};

struct Item {
    Kind kind;
    bool waits = false;      // for the other threads, before the operation
    bool everywhere = false; // every thread computes all of it, into its own buffer
    const void* operation = nullptr;
};

template <class T> struct Step {
    const Item* items = nullptr;
    int64_t count = 0;
    int rows = 0;
    const int64_t* tokens = nullptr;    // (rows)
    const int64_t* positions = nullptr; // (rows)
    const int64_t* firsts = nullptr;    // (rows): first key
    int64_t length = 0;                 // keys stored before the step
    int64_t capacity = 0;               // room for keys and values
    T* const* states = nullptr;
    const T* angles = nullptr; // tables of the rotary embeddings: the cosines, then the sines of a row
    T* shared = nullptr;       // buffers that all threads share
    T* own = nullptr;          // that of thread i from own + i own_size on
    T* scratch = nullptr;      // that of thread i from scratch + i scratch_size on
    T* hidden = nullptr;       // inner numbers of the experts, shared
    int64_t own_size = 0, scratch_size = 0;
};

constexpr int64_t kLine = 64;         // numbers: rows of buffers and scratch memory are multiples of it
constexpr int64_t kKeysTogether = 64; // keys of a block of attention
constexpr int64_t kTilesTogether = 8; // tiles of the products of experts, and of products that are added

template <class T> struct StepKernels {
    // Scratch memory of a thread, in numbers
    int64_t (*scratch)(const Item& item, int rows);
    void (*run)(const Step<T>& step, Team team);
};

using StepTable = ByType<StepKernels<float>, StepKernels<double>>;

FASTITER_TABLE(StepTable, steps)

} // namespace fastiter::decode
