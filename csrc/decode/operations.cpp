// The fields of each kind of operation, in the order in which python/fastiter/decode/_program.py lists them.
#include "decode/fields.hpp"
#include <algorithm>
#include <utility>

namespace fastiter::decode {
namespace {

template <class T> void read_embed(Fields<T>& f) {
    Embed<T> o;
    const int64_t width = f.size(0);
    o.table = f.matrix(0, "table", f->matrices[0].N, width);
    o.scale = f.real(0);
    o.out = f.out(width, kUnknown);
    int64_t& vocabulary = f.to().vocabulary;
    vocabulary = vocabulary ? std::min(vocabulary, o.table.N) : o.table.N;
    f.finish(o);
}

// Whether the threads divide a slot of an operation in tiles
bool is_in_tiles(const Description& o, size_t slot) {
    switch (o.kind) {
    case Kind::conv:
    case Kind::gate:
    case Kind::activate:
    case Kind::decay:
    case Kind::add:
    case Kind::lru:
        return true;
    case Kind::selective:
        return slot < 2; // u and dt
    default:
        return false;
    }
}

// Where later operations divide the outputs of a product, until they are written again: a thread that computes its share
// of each of their parts need not wait for the others.
template <class T> std::vector<int64_t> cuts_of(const Fields<T>& f) {
    const Slot& out = f.slot(1);
    std::vector<int64_t> cuts;
    const std::vector<Description>& all = f.plan().operations;
    for (size_t i = f.index() + 1; i < all.size(); ++i) {
        for (size_t k = 0; k < all[i].slots.size(); ++k) {
            const Slot& s = all[i].slots[k];
            if (!is_in_tiles(all[i], k) || !is_inside(s, out)) continue;
            for (int64_t cut : {s.start - out.start, s.start + s.size - out.start})
                if (cut > 0 && cut < out.size && cut % kTile == 0) cuts.push_back(cut);
        }
        const Slot* const written = out_of(all[i], f.plan());
        if (written && overlap(*written, out)) break;
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    if (int64_t(cuts.size()) > kCuts) cuts.clear();
    return cuts;
}

template <class T> void read_linear(Fields<T>& f) {
    Linear<T> o;
    const int64_t N = f.size(1), K = f.size(0);
    o.w = f.matrix(0, "matrix", N, K);
    o.x = f.in(0, "x", K, kWhole);
    o.bias = f.vector(0, "bias", N, true);
    o.activation = f.activation(0);
    o.adds = f.flag(1);
    o.scale = f.real(0);
    const std::vector<int64_t> cuts = cuts_of(f);
    std::copy(cuts.begin(), cuts.end(), o.cuts);
    o.out = f.out(N, cuts);
    f.finish(o);
}

template <class T> void read_norm(Fields<T>& f) {
    Norm<T> o;
    const int64_t n = f.size(0);
    o.size = f.integer(0, "size", 1, n);
    f.require(n % o.size == 0, "size must divide the " + text(n) + " numbers of x, got " + text(o.size));
    auto units = [&](int i) { return units_of(f.slot(i), n / o.size); };
    auto step = [&](int i) { return f.length(i) == o.size ? 0 : o.size; };
    o.x = f.in(0, "x", n, units(0));
    o.centers = f.flag(1);
    o.gate_first = f.flag(2);
    o.activation = f.activation(3);
    o.eps = f.real(0);
    o.step = step(0);
    o.step_of_bias = step(1);
    o.weight = f.vector(0, "weight", o.step ? n : o.size, true);
    o.bias = f.vector(1, "bias", o.step_of_bias ? n : o.size, true);
    if (f.has_slot(2)) o.gate = f.in(2, "gate", n, units(2));
    o.out = f.out(n, units(1), true);
    f.finish(o);
}

template <class T> void read_conv(Fields<T>& f) {
    Conv<T> o;
    const int64_t C = f.size(0);
    o.x = f.in(0, "x", C, tiles_of(f.slot(0)));
    o.width = f.integer(0, "width", 1);
    o.activation = f.activation(1);
    o.saved = f.shape(0).empty() ? 0 : f.shape(0)[0];
    f.require(o.saved >= std::max<int64_t>(1, o.width - 1),
              "state must hold at least " + text(std::max<int64_t>(1, o.width - 1)) + " inputs, got " + text(o.saved));
    o.state = f.state(0, "state", {o.saved, C});
    o.weight = f.vector(0, "weight", o.width * C);
    o.bias = f.vector(1, "bias", C, true);
    o.out = f.out(C, tiles_of(f.slot(1)), true);
    f.finish(o);
}

template <class T> void read_gate(Fields<T>& f) {
    Gate<T> o;
    const int64_t n = f.size(2);
    o.a = f.in(0, "a", n, tiles_of(f.slot(0)));
    f.require(f.has_slot(1) != f.has_vector(0), "b must be a slot or a vector, got both or none");
    if (f.has_slot(1)) o.b = f.in(1, "b", n, tiles_of(f.slot(1)));
    o.vector = f.vector(0, "b", n, true);
    o.activation = f.activation(0);
    o.out = f.out(n, tiles_of(f.slot(2)), true);
    f.finish(o);
}

template <class T> void read_activate(Fields<T>& f) {
    Activate<T> o;
    const int64_t n = f.size(1);
    o.x = f.in(0, "x", n, tiles_of(f.slot(0)));
    o.activation = f.activation(0, true);
    o.cap = f.real(0);
    f.require(o.activation < Activation::softcap || o.cap > 0, "cap must be above 0, got " + text(double(o.cap)));
    o.out = f.out(n, tiles_of(f.slot(1)), true);
    f.finish(o);
}

template <class T> void read_decay(Fields<T>& f) {
    Decay<T> o;
    const int64_t n = f.size(1);
    o.x = f.in(0, "x", n, tiles_of(f.slot(0)));
    o.rate = f.vector(0, "rate", n);
    o.bias = f.vector(1, "bias", n);
    o.out = f.out(n, tiles_of(f.slot(1)), true);
    f.finish(o);
}

template <class T> void read_add(Fields<T>& f) {
    Add<T> o;
    const int64_t n = f.size(2);
    o.a = f.in(0, "a", n, tiles_of(f.slot(0)));
    o.b = f.in(1, "b", n, tiles_of(f.slot(1)));
    o.scale_a = f.real(0);
    o.scale_b = f.real(1);
    o.out = f.out(n, tiles_of(f.slot(2)), true);
    f.finish(o);
}

template <class T> void read_selective(Fields<T>& f) {
    Selective<T> o;
    const int64_t D = f.size(4), N = f.size(2);
    o.u = f.in(0, "u", D, tiles_of(f.slot(0)));
    o.dt = f.in(1, "dt", D, tiles_of(f.slot(1)));
    o.B = f.in(2, "B", N, kWhole);
    o.C = f.in(3, "C", N, kWhole);
    o.A = f.vector(0, "A", D * N);
    o.skip = f.vector(1, "skip", D);
    o.bias = f.vector(2, "bias", D);
    o.state = f.state(0, "state", {D, N});
    o.out = f.out(D, tiles_of(f.slot(4)));
    f.finish(o);
}

template <class T> void read_ssd(Fields<T>& f) {
    Ssd<T> o;
    o.heads = f.integer(0, "heads", 1);
    o.width = f.integer(1, "width", 1);
    o.groups = f.integer(2, "groups", 1);
    o.states = f.integer(3, "states", 1);
    const int64_t H = o.heads, P = o.width, N = o.states;
    f.require(H % o.groups == 0, "groups must divide the " + text(H) + " heads, got " + text(o.groups));
    f.require(f.size(0) % H == 0, "x must have " + text(H * P) + " numbers, got " + text(f.size(0)));
    o.x = f.in(0, "x", H * P, units_of(f.slot(0), H));
    o.dt = f.in(1, "dt", H, kWhole);
    o.B = f.in(2, "B", o.groups * N, kWhole);
    o.C = f.in(3, "C", o.groups * N, kWhole);
    o.lowest = f.real(0);
    o.highest = f.real(1);
    o.A = f.vector(0, "A", H);
    o.skip = f.vector(1, "skip", H);
    o.bias = f.vector(2, "bias", H);
    o.state = f.state(0, "state", {H, P, N});
    o.out = f.out(H * P, units_of(f.slot(4), H));
    f.finish(o);
}

template <class T> void read_delta(Fields<T>& f) {
    Delta<T> o;
    o.key_heads = f.integer(0, "key_heads", 1);
    o.value_heads = f.integer(1, "value_heads", 1);
    o.key_width = f.integer(2, "key_width", 1);
    o.value_width = f.integer(3, "value_width", 1);
    o.normalizes = f.flag(4);
    o.per_key = f.flag(5);
    const int64_t H = o.value_heads, K = o.key_width, V = o.value_width;
    o.q = f.in(0, "q", o.key_heads * K, kWhole);
    o.k = f.in(1, "k", o.key_heads * K, kWhole);
    o.v = f.in(2, "v", H * V, units_of(f.slot(2), H));
    o.decay = f.in(3, "decay", o.per_key ? H * K : H, kWhole);
    o.beta = f.in(4, "beta", H, kWhole);
    o.scale = f.real(0);
    o.eps = f.real(1);
    o.state = f.state(0, "state", {H, K, V});
    o.out = f.out(H * V, units_of(f.slot(5), H));
    f.finish(o);
}

template <class T> int64_t table_of(Operations<T>& to, const std::vector<double>& frequencies, double scaling) {
    for (const RotaryTable& table : to.tables)
        if (table.frequencies == frequencies && table.scaling == scaling) return table.offset;
    to.tables.push_back({frequencies, scaling, to.angles});
    to.angles += 2 * int64_t(frequencies.size());
    return to.tables.back().offset;
}

template <class T> void read_rope(Fields<T>& f) {
    Rope<T> o;
    o.heads = f.integer(0, "heads", 1);
    o.width = f.integer(1, "width", 1);
    o.rotary = f.integer(2, "rotary", 2, o.width);
    o.interleaved = f.flag(3);
    const int64_t n = o.heads * o.width;
    f.require(o.rotary % 2 == 0, "rotary must be even, got " + text(o.rotary));
    f.vector(0, "frequencies", o.rotary / 2);
    o.table = table_of(f.to(), f->vectors[0], f->reals[0]);
    o.x = f.in(0, "x", n, units_of(f.slot(0), o.heads));
    o.out = f.out(n, units_of(f.slot(1), o.heads), true);
    f.finish(o);
}

template <class T> void read_attention(Fields<T>& f) {
    Attention<T> o;
    o.heads = f.integer(0, "heads", 1);
    o.key_heads = f.integer(1, "key_heads", 1);
    o.key_width = f.integer(2, "key_width", 1);
    o.value_width = f.integer(3, "value_width", 1);
    o.window = f.integer(4, "window", 0);
    f.require(o.heads % o.key_heads == 0,
              "key_heads must divide the " + text(o.heads) + " heads, got " + text(o.key_heads));
    o.q = f.in(0, "q", o.heads * o.key_width, kUnknown);
    const bool is_latent = f.flag(5);
    f.require(!is_latent || o.value_width < o.key_width,
              "value_width must be below the key_width of latent keys, got " + text(o.value_width));
    o.rest = is_latent ? o.key_width - o.value_width : 0;
    const int64_t first = o.key_width - o.rest, second = is_latent ? o.rest : o.value_width;
    o.k = f.in(1, "k", o.key_heads * first, kUnknown);
    o.v = f.in(2, "v", o.key_heads * second, kUnknown);
    o.scale = f.real(0);
    o.cap = f.real(1);
    f.require(o.cap >= 0, "cap must be above 0, got " + text(double(o.cap)));
    o.sinks = f.vector(0, "sinks", o.heads, true);
    o.keys = f.state(0, "keys", {o.key_heads, first}, true);
    o.values = f.state(1, "values", {o.key_heads, second}, true);
    o.out = f.out(o.heads * o.value_width, kUnknown);
    f.to().attends = true;
    f.finish(o);
}

template <class T> void read_route(Fields<T>& f) {
    Route<T> o;
    const int64_t E = f.size(1);
    o.logits = f.in(0, "logits", E, kUnknown);
    o.routing = Routing(f.integer(1, "method", 0, kRoutings - 1));
    o.normalizes = f.flag(2);
    o.groups = f.integer(3, "groups", 1, E);
    f.require(E % o.groups == 0, "groups must divide the " + text(E) + " experts, got " + text(o.groups));
    o.top_groups = o.groups == 1 ? 1 : f.integer(4, "top_groups", 1, o.groups);
    o.top_k = f.integer(0, "top_k", 1, E / o.groups * o.top_groups);
    o.eps = f.real(0);
    o.scale = f.real(1);
    o.bias = f.vector(0, "bias", E, true);
    o.out = f.out(E, kUnknown);
    f.finish(o);
}

template <class T> void read_experts(Fields<T>& f) {
    Experts<T> o;
    const int64_t E = f.size(1), parts = f.flag(2) ? 3 : 2, total = int64_t(f->matrices.size());
    f.require(total == parts * E, "matrices must number " + text(parts * E) + ", got " + text(total));
    const int64_t inputs = f.size(0), outputs = f.size(2), inner = f->matrices[size_t(total - E)].K;
    std::vector<Packed> all;
    for (int64_t i = 0; i < total; ++i) {
        const bool is_down = i >= total - E;
        const char* const name = is_down ? "down" : parts == 3 && i < E ? "gate" : "up";
        all.push_back(f.matrix(int(i), name, is_down ? outputs : inner, is_down ? inner : inputs));
    }
    const Packed* const matrices = f.to().matrices.emplace_back(std::move(all)).data();
    if (parts == 3) o.gate = matrices;
    o.up = matrices + (parts - 2) * E;
    o.down = matrices + (parts - 1) * E;
    o.x = f.in(0, "x", inputs, kWhole);
    o.routes = f.in(1, "routes", E, kWhole);
    o.activation = f.activation(0);
    o.adds = f.flag(1);
    f.use_hidden(E * ((inner + kLine - 1) / kLine * kLine));
    o.out = f.out(outputs, tiles_of(f.slot(2)));
    f.finish(o);
}

template <class T> void read_lru(Fields<T>& f) {
    Lru<T> o;
    const int64_t C = f.size(3);
    o.x = f.in(0, "x", C, tiles_of(f.slot(0)));
    o.input_gate = f.in(1, "input_gate", C, tiles_of(f.slot(1)));
    o.recurrent_gate = f.in(2, "recurrent_gate", C, tiles_of(f.slot(2)));
    o.rate = f.vector(0, "rate", C);
    o.state = f.state(0, "state", {C});
    o.out = f.out(C, tiles_of(f.slot(3)), true);
    f.finish(o);
}

template <class T> void read_mlstm(Fields<T>& f) {
    MLstm<T> o;
    o.heads = f.integer(0, "heads", 1);
    o.key_width = f.integer(1, "key_width", 1);
    o.value_width = f.integer(2, "value_width", 1);
    const int64_t H = o.heads, K = o.key_width, V = o.value_width;
    o.q = f.in(0, "q", H * K, kWhole);
    o.k = f.in(1, "k", H * K, kWhole);
    o.v = f.in(2, "v", H * V, kWhole);
    o.i = f.in(3, "i", H, kWhole);
    o.f = f.in(4, "f", H, kWhole);
    o.scale = f.real(0);
    o.eps = f.real(1);
    o.memory = f.state(0, "memory", {H, K, V});
    o.normalizer = f.state(1, "normalizer", {H, K});
    o.maximum = f.state(2, "maximum", {H, 1});
    o.out = f.out(H * V, units_of(f.slot(5), H));
    f.finish(o);
}

constexpr Expected kExpected[kKinds] = {
    {1, 0, 1, 0, 1, 0},  // Embed: out; scale; table
    {2, 2, 1, 1, 1, 0},  // Linear: x, out; activation, add; scale; bias; matrix
    {3, 4, 1, 2, 0, 0},  // Norm: x, out, gate; size, centers, gate_first, activation; eps; weight, bias
    {2, 2, 0, 2, 0, 1},  // Conv: x, out; width, activation; weight, bias; state
    {3, 1, 0, 1, 0, 0},  // Gate: a, b, out; activation; the vector b
    {2, 1, 1, 0, 0, 0},  // Activate: x, out; activation; cap
    {2, 0, 0, 2, 0, 0},  // Decay: x, out; rate, bias
    {3, 0, 2, 0, 0, 0},  // Add: a, b, out; scale_a, scale_b
    {5, 0, 0, 3, 0, 1},  // Selective: u, dt, B, C, out; A, skip, bias; state
    {5, 4, 2, 3, 0, 1},  // SSD: x, dt, B, C, out; heads, width, groups, states; limits; A, skip, bias; state
    {6, 6, 2, 0, 0, 1},  // Delta: q, k, v, decay, beta, out; heads and widths, normalizes, per_key; scale, eps; state
    {2, 4, 1, 1, 0, 0},  // Rope: x, out; heads, width, rotary, interleaved; scaling; frequencies
    {4, 6, 2, 1, 0, 2},  // Attention: q, k, v, out; heads and widths, window, latent; scale, cap; sinks; keys, values
    {2, 5, 2, 1, 0, 0},  // Route: logits, out; top_k, method, normalize, groups, top_groups; eps, scale; bias
    {3, 3, 0, 0, -1, 0}, // Experts: x, routes, out; activation, add, whether there are gates; gates, ups, downs
    {4, 0, 0, 1, 0, 1},  // Lru: x, input_gate, recurrent_gate, out; rate; state
    {6, 3, 2, 0, 0, 3},  // MLstm: q, k, v, i, f, out; heads and widths; scale, eps; memory, normalizer, maximum
};

template <class T> using Read = void(Fields<T>&);

template <class T>
constexpr Read<T>* kReads[kKinds] = {
    read_embed,     read_linear, read_norm,      read_conv, read_gate,  read_activate,
    read_decay,     read_add,    read_selective, read_ssd,  read_delta, read_rope,
    read_attention, read_route,  read_experts,   read_lru,  read_mlstm,
};

} // namespace

template <class T> Operations<T> read_operations(const PlanSpec& plan, const Layout& layout) {
    Operations<T> to;
    std::vector<bool> used(plan.states.size(), false);
    std::vector<std::vector<Access>> accesses;
    for (size_t i = 0; i < plan.operations.size(); ++i) {
        const Kind kind = plan.operations[i].kind;
        Fields<T> fields(plan, layout, i, to, used, kExpected[int(kind)]);
        kReads<T>[int(kind)](fields);
        accesses.push_back(fields.accesses());
    }
    schedule(accesses, to.items);
    return to;
}

template Operations<float> read_operations(const PlanSpec&, const Layout&);
template Operations<double> read_operations(const PlanSpec&, const Layout&);

} // namespace fastiter::decode
