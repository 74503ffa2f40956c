// The tables of kernels. A family declares each of its tables in its own namespace with FASTITER_TABLE(Type, name): the
// kernels' files define `name` in the namespace of every instruction set, and name() returns the table of the chosen
// one. Kernels trust their arguments, which python/fastiter/ has checked. They do not allocate: the caller passes a
// workspace of the size that the kernel reports.
#pragma once
#include "core/cpu/by_type.hpp"

namespace fastiter {

enum class Level { baseline, v3, v4, v4_bf16, v4_amx };

Level level(); // the chosen instruction set, one that is built

#ifdef FASTITER_LEVEL
namespace FASTITER_LEVEL {}
#endif

} // namespace fastiter

#ifdef FASTITER_LEVEL
// Makes the vectors and functions of core/cpu/ visible to a family's kernels.
#define FASTITER_FAMILY(family)                  \
    namespace fastiter::family::FASTITER_LEVEL { \
    using namespace fastiter::FASTITER_LEVEL;    \
    }
#else
#define FASTITER_FAMILY(family)
#endif

#ifdef FASTITER_BUILT_BASELINE
#define FASTITER_CASE_BASELINE(name) \
    case Level::baseline:            \
        return baseline::name;
#else
#define FASTITER_CASE_BASELINE(name)
#endif
#ifdef FASTITER_BUILT_V3
#define FASTITER_CASE_V3(name) \
    case Level::v3:            \
        return v3::name;
#else
#define FASTITER_CASE_V3(name)
#endif
#ifdef FASTITER_BUILT_V4
#define FASTITER_CASE_V4(name) \
    case Level::v4:            \
        return v4::name;
#define FASTITER_CASE_PARTS_OF_V4(name) \
    case Level::v4_bf16:                \
    case Level::v4_amx:                 \
        return v4::name;
#else
#define FASTITER_CASE_V4(name)
#define FASTITER_CASE_PARTS_OF_V4(name)
#endif
#ifdef FASTITER_BUILT_V4_BF16
#define FASTITER_CASE_V4_BF16(name) \
    case Level::v4_bf16:            \
        return v4_bf16::name;
#else
#define FASTITER_CASE_V4_BF16(name)
#endif
#ifdef FASTITER_BUILT_V4_AMX
#define FASTITER_CASE_V4_AMX(name) \
    case Level::v4_amx:            \
        return v4_amx::name;
#else
#define FASTITER_CASE_V4_AMX(name)
#endif

#define FASTITER_DECLARE(Type, level, name) \
    namespace level {                       \
    extern const Type name;                 \
    }

#define FASTITER_TABLE(Type, name)          \
    FASTITER_DECLARE(Type, baseline, name)  \
    FASTITER_DECLARE(Type, v3, name)        \
    FASTITER_DECLARE(Type, v4, name)        \
    inline const Type& name() {             \
        switch (level()) {                  \
            FASTITER_CASE_BASELINE(name)    \
            FASTITER_CASE_V3(name)          \
            FASTITER_CASE_V4(name)          \
            FASTITER_CASE_PARTS_OF_V4(name) \
        default:                            \
            __builtin_unreachable();        \
        }                                   \
    }

// The same for bfloat16 kernels, of which v4_bf16 and v4_amx have their own; everything else there uses v4's.
#define FASTITER_TABLE_BF16(Type, name)    \
    FASTITER_DECLARE(Type, baseline, name) \
    FASTITER_DECLARE(Type, v3, name)       \
    FASTITER_DECLARE(Type, v4, name)       \
    FASTITER_DECLARE(Type, v4_bf16, name)  \
    FASTITER_DECLARE(Type, v4_amx, name)   \
    inline const Type& name() {            \
        switch (level()) {                 \
            FASTITER_CASE_BASELINE(name)   \
            FASTITER_CASE_V3(name)         \
            FASTITER_CASE_V4(name)         \
            FASTITER_CASE_V4_BF16(name)    \
            FASTITER_CASE_V4_AMX(name)     \
        default:                           \
            __builtin_unreachable();       \
        }                                  \
    }
