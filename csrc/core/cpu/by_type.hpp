// Tables for several types of numbers, and the choice of a type or a constant at run time. All functions are always
// inlined: the linker would otherwise keep one copy for the whole module, perhaps compiled for a newer processor.
#pragma once
#include <cstdint>
#include <utility>

namespace fastiter {

// One table for each type of numbers: of<Table<float>>() is float's.
template <class... Tables> struct ByType : Tables... {
    template <class Table> __attribute__((always_inline)) constexpr const Table& of() const { return *this; }
};

// Calls that one of the functions which returns a Table, for tables in separate files.
template <class Table, class First, class... Rest>
__attribute__((always_inline)) inline const Table& table_of(First first, Rest... rest) {
    if constexpr (std::is_same_v<decltype(first()), const Table&>)
        return first();
    else
        return table_of<Table>(rest...);
}

// Calls f.template operator()<T>() with the type T of `bytes` bytes; with the last type if there is none.
template <class T, class... Rest, class F> __attribute__((always_inline)) inline auto with_size(int64_t bytes, F&& f) {
    if constexpr (sizeof...(Rest) > 0) {
        if (bytes != int64_t(sizeof(T))) return with_size<Rest...>(bytes, f);
    }
    return f.template operator()<T>();
}

// Calls f.template operator()<C>() with the constant C that equals x; with the last constant if there is none.
template <auto C, auto... Rest, class F>
__attribute__((always_inline)) inline auto with_constant(decltype(C) x, F&& f) {
    if constexpr (sizeof...(Rest) > 0) {
        if (x != C) return with_constant<Rest...>(x, f);
    }
    return f.template operator()<C>();
}

} // namespace fastiter
