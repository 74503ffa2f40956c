// Packs codes of any integer type into the lanes that the tiles read.
#include "quant/cpu/matmul/fixed_lanes.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

// out[i * step] = code << left of item first + i of the index, starting at x[offset]
template <class T>
using ReadLine = void (*)(const void* x, int64_t offset, const Index3& index, int64_t first, int64_t count, int left,
                          T* out, int64_t step);

template <class S, class T>
void read_line(const void* x, int64_t offset, const Index3& index, int64_t first, int64_t count, int left, T* out,
               int64_t step) {
    while (count > 0) {
        const int64_t run = min_of(count, index.size[2] - first % index.size[2]), by = index.stride[2];
        const S* from = static_cast<const S*>(x) + offset + index.at(first);
        auto code = [&](int64_t i) { return T(uint64_t(int64_t(from[i])) << left); };
        if (by == 1 && step == 1)
            for (int64_t i = 0; i < run; ++i) out[i] = code(i);
        else
            for (int64_t i = 0; i < run; ++i) out[i * step] = code(i * by);
        first += run;
        count -= run;
        out += run * step;
    }
}

template <class T> ReadLine<T> reader(const FixedCodes& x) {
    return with_size<int8_t, int16_t, int32_t, int64_t>(x.bytes, [&]<class S>() -> ReadLine<T> {
        using U = std::conditional_t<sizeof(S) == 8, S, std::make_unsigned_t<S>>; // modulo 2^64, both are the same
        return x.is_signed ? read_line<S, T> : read_line<U, T>;
    });
}

// True if x is contiguous in k but not in its items: the panel is then filled along k.
bool along_k(const FixedCodes& x) { return x.k.stride[2] == 1 && x.item.stride[2] != 1; }

constexpr int64_t kBlock = 64; // lines of k per block, which stay in the first-level cache while they are filled

template <class T> void clear_beyond(int64_t count, int64_t columns, int64_t lines, T* out) {
    for (int64_t i = 0; i < lines && count < columns; ++i)
        for (int64_t n = count; n < columns; ++n) out[i * columns + n] = 0;
}

template <class D, class T> void write(const T* x, int64_t count, void* out, int64_t offset, int64_t step) {
    D* to = static_cast<D*>(out) + offset;
    if (step == 1)
        for (int64_t i = 0; i < count; ++i) to[i] = D(x[i]);
    else
        for (int64_t i = 0; i < count; ++i) to[i * step] = D(x[i]);
}

} // namespace

template <class T>
void pack_rows(const FixedCodes& x, const int64_t* rows, int64_t first, int64_t count, int64_t K, int64_t padded_K,
               int left, T* out) {
    const ReadLine<T> read = reader<T>(x);
    for (int64_t i = 0; i < count; ++i, out += padded_K) {
        const int64_t row = rows ? rows[first + i] : first + i;
        read(x.data, x.item.at(row), x.k, 0, K, left, out, 1);
        for (int64_t k = K; k < padded_K; ++k) out[k] = 0;
    }
}

template <class T>
void pack_panel(const FixedCodes& x, int64_t first, int64_t count, int64_t K, int left, int64_t columns, T* out) {
    const ReadLine<T> read = reader<T>(x);
    if (along_k(x)) {
        for (int64_t k0 = 0; k0 < K; k0 += kBlock)
            for (int64_t n = 0; n < count; ++n)
                read(x.data, x.item.at(first + n), x.k, k0, min_of(kBlock, K - k0), left, out + k0 * columns + n,
                     columns);
    } else {
        for (int64_t k = 0; k < K; ++k) read(x.data, x.k.at(k), x.item, first, count, left, out + k * columns, 1);
    }
    clear_beyond(count, columns, K, out);
}

void pack_pairs(const FixedCodes& x, int64_t first, int64_t count, int64_t K, int left, int64_t columns, int32_t* out) {
    const ReadLine<int16_t> read = reader<int16_t>(x);
    auto join = [](int16_t low, int16_t high) { return int32_t(uint32_t(uint16_t(low)) | uint32_t(high) << 16); };
    if (along_k(x)) {
        int16_t line[kBlock + 1];
        for (int64_t k0 = 0; k0 < K; k0 += kBlock)
            for (int64_t n = 0; n < count; ++n) {
                const int64_t block = min_of(kBlock, K - k0);
                read(x.data, x.item.at(first + n), x.k, k0, block, left, line, 1);
                line[block] = 0;
                for (int64_t k = 0; k < block; k += 2) out[(k0 + k) / 2 * columns + n] = join(line[k], line[k + 1]);
            }
    } else {
        int16_t low[kMaxVectors * lanes<int32_t>], high[kMaxVectors * lanes<int32_t>];
        for (int64_t k = 0; k < K; k += 2) {
            read(x.data, x.k.at(k), x.item, first, count, left, low, 1);
            if (k + 1 < K) read(x.data, x.k.at(k + 1), x.item, first, count, left, high, 1);
            for (int64_t n = 0; n < count; ++n) out[k / 2 * columns + n] = join(low[n], k + 1 < K ? high[n] : 0);
        }
    }
    clear_beyond(count, columns, ceil_div(K, 2), out);
}

template <class T> void write_line(const T* x, int64_t count, void* out, int bytes, int64_t offset, int64_t step) {
    with_size<int8_t, int16_t, int32_t, int64_t>(bytes, [&]<class D>() { write<D>(x, count, out, offset, step); });
}

#define FASTITER_INSTANTIATE(T)                                                                              \
    template void pack_rows(const FixedCodes&, const int64_t*, int64_t, int64_t, int64_t, int64_t, int, T*); \
    template void pack_panel(const FixedCodes&, int64_t, int64_t, int64_t, int, int64_t, T*);                \
    template void write_line(const T*, int64_t, void*, int, int64_t, int64_t);
FASTITER_INSTANTIATE(int16_t)
FASTITER_INSTANTIATE(int32_t)
FASTITER_INSTANTIATE(int64_t)

} // namespace fastiter::quant::FASTITER_LEVEL
