// Runs the scans: chooses threads, provides a workspace.
#pragma once
#include "scan/cpu/kernels.hpp"

namespace fastiter::scan {

template <class S, class T> void run_linear_scan(LinearScan<S, T> p);
template <class S, class T> void run_linear_scan_gradient(LinearScanGradient<S, T> p);
template <class T> void run_block_scan(BlockScan<T> p);
template <class T> void run_block_scan_gradient(BlockScanGradient<T> p);

} // namespace fastiter::scan
