// One discrete-ordinates sweep through a slab with diamond differences, for a batch of slabs with the same cells and
// directions. Along a direction with cosine mu, the flux that leaves a cell of width h is
//
//   psi <- ((2 |mu| - sigma h) psi + h q) / (2 |mu| + sigma h)
//
// and the cell's mean flux is the average of the fluxes at its two edges. Every slab is computed by one thread, so that
// results are bitwise the same for any number of threads.
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(fixedpoint)

namespace fastiter::fixedpoint {

template <class T> struct Transport {
    int64_t batch = 0, cells = 0, directions = 0;
    int64_t forward = 0;         // number of leading directions that go to higher cells; the others go to lower ones
    const T* source = nullptr;   // (batch, cells), the same for all directions
    const T* sigma = nullptr;    // (batch, cells)
    const T* width = nullptr;    // (cells)
    const T* cosine = nullptr;   // (directions), |mu|
    const T* weight = nullptr;   // (directions)
    const T* incoming = nullptr; // (batch, directions)
    T* phi = nullptr;            // (batch, cells), the sum over directions of weight times mean flux
    T* outgoing = nullptr;       // (batch, directions)
};

template <class T> struct TransportOf {
    void (*sweep)(const Transport<T>&, Team);
};

using Transports = ByType<TransportOf<float>, TransportOf<double>>;

FASTITER_TABLE(Transports, transports)

} // namespace fastiter::fixedpoint
