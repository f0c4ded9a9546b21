// From a shape to the kernel that should be fastest, by a cost model and, for a few products, by
// what was measured. Pure: tested without a GPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compute/cuda/kernels/gemm/config.h"

namespace deepflight::gemm_fp8 {

struct Shape {
  int64_t m = 0;  // rows of all groups
  int64_t n = 0;
  int64_t k = 0;
  int num_groups = 0;  // 0: dense
  bool out_f32 = false;
  bool swiglu = false;  // of the products' halves, quantised; see Fp8GemmProblem::activated
  bool batch_invariant = false;  // only configurations that give a row the same bits
};

// What the model needs to know of the device.
struct Machine {
  int num_sms = 132;
  double dram_bytes_per_us = 4.8e6;  // nominal
};

// Whether the configuration is one of the family that gives an element of out the same bits, which
// shapes with batch_invariant are held to: its sum runs over the blocks of 128 of k in one order
// (no split), and x is the tensor cores' operand of 64 rows. How these add up a block is not
// documented; nothing says that the two sides do it alike, so one is kept to.
bool is_batch_invariant(const Config& config);

// m as the choice sees it, and all such values up to `max_m`: between them the choice is the same,
// so that a warm-up can know every kernel that will be asked for.
int64_t rounded_rows(int64_t m);
std::vector<int64_t> row_steps(int64_t max_m);

// What was measured stands above the model.
Config choose(const Shape& shape, const Machine& machine);

// Whether one kernel for the product and swiglu() should be faster than two. 256 divides n.
bool swiglu_pays(const Shape& shape, const Machine& machine);

// Microseconds, as the model has it. `config`: one of candidates().
double estimated_us(const Config& config, const Shape& shape, const Machine& machine);

// All that choose() weighs for a shape.
std::vector<Config> candidates(const Shape& shape);

// Blocks of the launch. Of host-known numbers only, so that it can be captured.
int num_blocks(const Config& config, const Shape& shape, const Machine& machine);

// "normal_r128_c128_w2_s5_m2": also the kernel's name.
std::string to_string(const Config& config);

}  // namespace deepflight::gemm_fp8
