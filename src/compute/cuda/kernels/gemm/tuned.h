// Measured choices of configurations, which stand above the cost model's. Pure: tested without a
// GPU.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "base/result.h"
#include "compute/cuda/kernels/gemm/choose.h"

namespace deepflight::gemm_fp8 {

// What a table was measured on. Another card, driver or kernel source makes it worthless.
struct TunedFor {
  std::string gpu;
  int driver = 0;       // as cudaDriverGetVersion() has it
  std::string kernels;  // hash of their source
  friend bool operator==(const TunedFor&, const TunedFor&) = default;
};

class TunedTable {
 public:
  // m counts as choose() rounds it.
  void set(const Shape& shape, const Config& config, double us);
  std::optional<Config> find(const Shape& shape) const;
  bool empty() const { return rows_.empty(); }

  // JSON. Error: kInvalidArgument, if the text is no table or one of something else than `of`;
  // `where` begins the message. Shapes whose configuration is no candidate any more are left out.
  std::string text(const TunedFor& of) const;
  static Result<TunedTable> parse(std::string_view text, const TunedFor& of,
                                  std::string_view where);

 private:
  // m, n, k, groups, out_f32, swiglu
  using Key = std::tuple<int64_t, int64_t, int64_t, int, bool, bool>;
  struct Row {
    Config config;
    double us;
  };
  std::map<Key, Row> rows_;
};

}  // namespace deepflight::gemm_fp8
