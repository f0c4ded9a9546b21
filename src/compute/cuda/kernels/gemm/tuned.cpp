// One JSON object: what it is for, and a row for each shape.
#include "compute/cuda/kernels/gemm/tuned.h"

#include <algorithm>

#include "base/files.h"

namespace deepflight::gemm_fp8 {
namespace {

std::optional<Config> candidate_named(const Shape& shape, std::string_view name) {
  const auto all = candidates(shape);
  const auto found =
      std::ranges::find_if(all, [&](const Config& config) { return to_string(config) == name; });
  return found == all.end() ? std::nullopt : std::optional(*found);
}

bool in_range(const Shape& shape) {
  constexpr int64_t kMax = int64_t{1} << 30;
  return shape.m > 0 && shape.m < kMax && shape.n > 0 && shape.n < kMax && shape.k > 0 &&
         shape.k < kMax && shape.num_groups >= 0 && shape.num_groups <= kMaxGroups &&
         (!shape.swiglu || shape.n % 256 == 0);
}

}  // namespace

void TunedTable::set(const Shape& shape, const Config& config, double us) {
  rows_[{rounded_rows(shape.m), shape.n, shape.k, shape.num_groups, shape.out_f32, shape.swiglu}] =
      {config, us};
}

std::optional<Config> TunedTable::find(const Shape& shape) const {
  const auto found = rows_.find(
      {rounded_rows(shape.m), shape.n, shape.k, shape.num_groups, shape.out_f32, shape.swiglu});
  return found == rows_.end() ? std::nullopt : std::optional(found->second.config);
}

std::string TunedTable::text(const TunedFor& of) const {
  nlohmann::json shapes = nlohmann::json::array();
  for (const auto& [key, row] : rows_) {
    const auto& [m, n, k, num_groups, out_f32, swiglu] = key;
    shapes.push_back({{"m", m},
                      {"n", n},
                      {"k", k},
                      {"groups", num_groups},
                      {"out_f32", out_f32},
                      {"swiglu", swiglu},
                      {"config", to_string(row.config)},
                      {"us", row.us}});
  }
  return nlohmann::json{{"gpu", of.gpu},
                        {"driver", of.driver},
                        {"kernels", of.kernels},
                        {"shapes", std::move(shapes)}}
      .dump(0);
}

Result<TunedTable> TunedTable::parse(std::string_view text, const TunedFor& of,
                                     std::string_view where) {
  ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(text, where));
  TunedTable table;
  try {
    const TunedFor written{json.at("gpu"), json.at("driver"), json.at("kernels")};
    if (written != of) {
      return invalid_argument("{}: tuned for another GPU, driver or version of the kernels", where);
    }
    for (const auto& row : json.at("shapes")) {
      const Shape shape{row.at("m"),      row.at("n"),       row.at("k"),
                        row.at("groups"), row.at("out_f32"), row.at("swiglu")};
      if (!in_range(shape)) return invalid_argument("{}: a shape out of range", where);
      const auto config = candidate_named(shape, row.at("config").get<std::string>());
      if (config) table.set(shape, *config, row.at("us"));
    }
  } catch (const nlohmann::json::exception& error) {
    return invalid_argument("{}: {}", where, error.what());
  }
  return table;
}

}  // namespace deepflight::gemm_fp8
