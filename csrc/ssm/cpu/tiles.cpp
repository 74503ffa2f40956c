// The copies between arrays and tiles, for every storage type
#include "ssm/cpu/tiles.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

#define FASTITER_PIECES(S)                                                      \
    template void read_piece(const Piece<const S>&, accumulate_t<S>*, int64_t); \
    template void write_piece(const Piece<S>&, const accumulate_t<S>*, int64_t, bool);
FASTITER_PIECES(float)
FASTITER_PIECES(double)
FASTITER_PIECES(bf16)
FASTITER_PIECES(f16)

} // namespace fastiter::ssm::FASTITER_LEVEL
