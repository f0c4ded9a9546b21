// How one kernel of the family is built: tiles, stages, who multiplies what. The host chooses and
// prints it, the compiler gets it as a template argument; both derive the layout of shared memory
// from here. Compiles under NVRTC.
#pragma once

namespace deepflight::gemm_fp8 {

// NOTE: constants that kernels use are enumerators in this folder. NVRTC gives each constexpr
// variable a place in the module's memory, used or not, and loading such modules takes three times
// as long.
enum : int {
  kBlockK = 128,     // of k, with one scale: the tensor cores' longest sum
  kMaxGroups = 512,  // whose tile counts fit in shared memory
  kBandRows = 2048,  // of x, that tiles running together share in L2
  kSharedLimit = 227 * 1024,
  kProducerThreads = 128
};

struct Config {
  bool swapped = false;  // the weights are the tensor cores' operand of 64 rows, and x the other
  bool grouped = false;
  bool out_f32 = false;
  int rows = 128;         // of x, in a tile
  int columns = 128;      // of out, in a tile
  int warpgroups = 2;     // that multiply: 1 to 3
  int stages = 4;         // of 128 of k, on their way to shared memory
  int multicast = 1;      // blocks of a cluster that share the rows of x, with columns of their own
  bool shared_w = false;  // or that share the weights, with rows of their own
  int split_k = 1;        // blocks of a cluster that share a tile, each with a part of k
  int blocks_per_sm = 1;
  bool staged = false;  // out passes through shared memory; BF16, not swapped, 64 divides columns
  // The columns are 128 of gate and the same 128 of up, each warpgroup with 64 of both; what leaves
  // is silu(gate) * up, quantised. Not swapped, 256 columns, two warpgroups.
  bool swiglu = false;

  friend constexpr bool operator==(const Config&, const Config&) = default;

  constexpr int left() const { return swapped ? columns : rows; }  // operand of 64 rows a warpgroup
  constexpr int right() const {                                    // operand of 8 to 256
    return swapped ? rows : swiglu ? columns / 2 : columns;
  }
  constexpr int left_warpgroups() const {
    return swiglu ? 1 : warpgroups;
  }                                                                     // with rows of their own
  constexpr int repeat_rows() const { return 64 * left_warpgroups(); }  // from one to the next
  constexpr int repeats() const { return left() / repeat_rows(); }
  // Whether a warpgroup's registers hold the products of two blocks of k beside the sums.
  constexpr bool pipelined() const {
    return repeats() == 1 && warpgroups < 3 &&
           right() <= (blocks_per_sm == 1 ? 128
                       : warpgroups == 1  ? 64
                                          : 32);
  }
  constexpr int cluster() const { return multicast * split_k; }
  // What the blocks of a cluster work on together.
  constexpr int cluster_rows() const { return shared_w ? rows * multicast : rows; }
  constexpr int cluster_columns() const { return shared_w ? columns : columns * multicast; }
  constexpr int threads() const { return warpgroups * 128 + kProducerThreads; }
  // Registers of a thread that multiplies and of one that copies, where they part: together what
  // the block is launched with, 168 (80) for each thread, of three warpgroups 128.
  constexpr int multiplying_registers() const {
    return warpgroups == 3 ? 160 : blocks_per_sm == 1 ? 232 : 104;
  }
  constexpr int copying_registers() const {
    return warpgroups == 3 ? 32 : blocks_per_sm == 1 ? 40 : 24;
  }
  // Tiles of x's scale blocks that a tile of columns can touch.
  constexpr int column_scales() const { return 128 % columns == 0 ? 1 : 2; }

  // Rows of x that one copy brings: a block's share, or what one repeat takes.
  constexpr int x_box_rows() const {
    return repeats() == 2 ? rows / 2 : shared_w ? rows : rows / multicast;
  }
  constexpr int w_box_columns() const {
    return swiglu ? 64 : shared_w ? columns / multicast : columns;
  }

  constexpr int x_bytes() const { return rows * kBlockK; }
  constexpr int w_bytes() const { return columns * kBlockK; }
  constexpr int x_scale_bytes() const { return (rows * 4 + 127) / 128 * 128; }
  constexpr int w_scale_bytes() const { return 8; }
  constexpr int stage_bytes() const {
    return x_bytes() + w_bytes() + x_scale_bytes() + w_scale_bytes() + 16;  // and two barriers
  }
  constexpr int staged_box_bytes() const { return 64 * 128; }  // 64 rows of 64 columns of BF16
  constexpr int out_bytes() const {
    return swiglu ? 1024 : staged ? rows * columns * 2 : 0;  // swiglu: two times 2 x 64 magnitudes
  }
  // Sums of a split tile, which take the stages' place; rows padded against bank conflicts.
  constexpr int partial_stride() const { return columns + 4; }
  constexpr int partial_bytes() const { return split_k > 1 ? rows * partial_stride() * 4 : 0; }
  constexpr int feed_bytes() const { return grouped ? 24 : 0; }  // numbers of tiles, and barriers
  constexpr int shared_bytes() const {
    return 1024 + out_bytes() + stages * stage_bytes() + feed_bytes() +
           (grouped ? (kMaxGroups + 1) * 4 : 0);
  }
};

}  // namespace deepflight::gemm_fp8
