// What this GPU can do at its best, measured: the rates that floors of kernels are computed with.
#pragma once

namespace deepflight {

struct CudaCeilings {
  double bytes_per_second = 0;       // device copy, bytes read and written
  double bf16_flops_per_second = 0;  // cuBLASLt, 8192 x 8192 x 8192
  double fp8_flops_per_second = 0;   // the same in e4m3, one scale a tensor, exact accumulation
};

// On the current device; takes about a second and a gibibyte. Operands are random: zeros run
// faster than any real data.
CudaCeilings measure_cuda_ceilings();

}  // namespace deepflight
