#include "decode/packed.hpp"
#include "core/launch.hpp"
#include <algorithm>
#include <cstring>

namespace fastiter::decode {
namespace {

constexpr int64_t kMinNumbers = 1 << 15; // numbers that are worth waking a thread

// Places of a code and of a scale
struct Layout {
    int64_t bits;   // the width of a code
    int64_t inputs; // inputs per line, to a multiple of which K is rounded up
    int64_t scale_bytes;
};

Layout layout_of(Weight format) {
    switch (format) {
    case Weight::f32:
        return {32, 4, 0};
    case Weight::f64:
        return {64, 4, 0};
    case Weight::bf16:
        return {16, 4, 0};
    case Weight::int8:
        return {8, 4, 2};
    case Weight::mxfp8:
        return {8, 4, 1};
    case Weight::int4:
    case Weight::nf4:
        return {4, 8, 2};
    case Weight::mxfp4:
    case Weight::nvfp4:
        return {4, 8, 1};
    }
    __builtin_unreachable();
}

// One code per input, kTile numbers apart
template <class T> void put_numbers(const void* from, int64_t K, uint8_t* tile, int64_t lane) {
    auto* to = reinterpret_cast<T*>(tile) + lane;
    for (int64_t k = 0; k < K; ++k) to[k * kTile] = static_cast<const T*>(from)[k];
}

void put_pairs(const void* from, int64_t K, uint8_t* tile, int64_t lane) {
    auto* to = reinterpret_cast<uint16_t*>(tile) + 2 * lane;
    for (int64_t k = 0; k < K; ++k) to[k / 2 * 2 * kTile + k % 2] = static_cast<const uint16_t*>(from)[k];
}

// Eight codes in a word, kTile words apart
void put_nibbles(const void* from, int64_t K, uint8_t* tile, int64_t lane, unsigned offset) {
    const auto* codes = static_cast<const uint8_t*>(from);
    auto* to = reinterpret_cast<uint32_t*>(tile) + lane;
    for (int64_t k = 0; k < K; k += 8) {
        uint32_t word = 0;
        const int64_t count = std::min<int64_t>(8, K - k);
        for (int64_t j = 0; j < count; ++j) word |= ((codes[k + j] + offset) & 15) << 4 * j;
        to[k / 8 * kTile] = word;
    }
}

// Calls f with the kernels of a matrix, for double or for float.
template <class F> void run(const Packed& w, F f) {
    if (w.format == Weight::f64)
        f(kernels_of<double>(packed(), w));
    else
        f(kernels_of<float>(packed(), w));
}

} // namespace

PackedMatrix::PackedMatrix(Weight format, int64_t N, int64_t K, int64_t group, float scale) {
    const Layout layout = layout_of(format);
    const int64_t inputs = (K + layout.inputs - 1) / layout.inputs * layout.inputs;
    view_ = {format, N,    K, layout.scale_bytes ? group : 0, nullptr, nullptr, inputs * kTile * layout.bits / 8,
             0,      scale};
    view_.tile_scale_bytes = groups() * kTile * layout.scale_bytes;
    codes_ = Block<uint8_t>(view_.tile_bytes * tiles());
    scales_ = Block<uint8_t>(view_.tile_scale_bytes * tiles());
    // The kernels also compute outputs beyond N, with zeros: other contents might be subnormal numbers, which are slow.
    std::fill_n(codes_.data(), codes_.size(), uint8_t(0));
    std::fill_n(scales_.data(), scales_.size(), uint8_t(0));
    view_.codes = codes_.data();
    view_.scales = scales_.data();
}

void PackedMatrix::pack_rows(int64_t first, int64_t count, const void* codes, const void* scales) {
    const Layout layout = layout_of(view_.format);
    const int64_t K = view_.K, code_bytes = std::max<int64_t>(layout.bits / 8, 1), groups = this->groups();
    const auto pack = [&](int64_t row) {
        const int64_t tile = (first + row) / kTile, lane = (first + row) % kTile;
        uint8_t* to = codes_.data() + tile * view_.tile_bytes;
        const uint8_t* from = static_cast<const uint8_t*>(codes) + row * K * code_bytes;
        switch (view_.format) {
        case Weight::f32:
            put_numbers<float>(from, K, to, lane);
            break;
        case Weight::f64:
            put_numbers<double>(from, K, to, lane);
            break;
        case Weight::bf16:
            put_pairs(from, K, to, lane);
            break;
        case Weight::int8:
        case Weight::mxfp8:
            put_numbers<uint8_t>(from, K, to, lane);
            break;
        default:
            put_nibbles(from, K, to, lane, view_.format == Weight::int4 ? 8 : 0);
        }
        uint8_t* scales_to = scales_.data() + tile * view_.tile_scale_bytes;
        const uint8_t* scales_from = static_cast<const uint8_t*>(scales) + row * groups * layout.scale_bytes;
        if (layout.scale_bytes == 2) put_numbers<uint16_t>(scales_from, groups, scales_to, lane);
        if (layout.scale_bytes == 1) put_numbers<uint8_t>(scales_from, groups, scales_to, lane);
    };
    launch(
        [&](Team team) {
            const Range rows = share(count, team);
            for (int64_t row = rows.begin; row < rows.end; ++row) pack(row);
        },
        [&](int threads) { return threads_for(count * K, kMinNumbers, threads); });
}

void PackedMatrix::unpack(int64_t first, int64_t count, void* out) const {
    run(view_, [&]<class T>(const PackedFormat<T>& kernels) {
        launch(
            [&](Team team) {
                const Range rows = share(count, team);
                kernels.unpack(view_, {first + rows.begin, first + rows.end},
                               static_cast<T*>(out) + rows.begin * view_.K, view_.K);
            },
            [&](int threads) { return threads_for(count * view_.K, kMinNumbers, threads); });
    });
}

void PackedMatrix::multiply(int64_t M, const void* x, int64_t stride, void* y) const {
    const Packed& w = view_;
    run(w, [&]<class T>(const PackedFormat<T>& kernels) {
        launch(
            [&](Team team) {
                const Range mine = share(tiles(), team);
                for (int64_t tile = mine.begin; tile < mine.end && !has_to_stop(team, M * w.K * kTile); ++tile) {
                    for (int64_t row = 0; row < M; row += kMaxRows)
                        kernels.product(w, {tile, tile + 1}, int(std::min<int64_t>(kMaxRows, M - row)),
                                        static_cast<const T*>(x) + row * stride, stride,
                                        static_cast<T*>(y) + row * w.N + tile * kTile, w.N);
                }
            },
            [&](int threads) { return threads_for(M * w.N * w.K, kMinNumbers, threads); }, Stops::on_request);
    });
}

} // namespace fastiter::decode
