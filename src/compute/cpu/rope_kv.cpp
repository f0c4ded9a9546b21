// Rotary embedding, and the write of latent rows to their pages.
#include "compute/cpu/cpu_backend.h"
#include "compute/cpu/paged_softmax.h"
#include "compute/ops/kv_token.h"

namespace deepflight {

using cpu::kPage;
using cpu::page_address;

void CpuBackend::rope(const TensorView& q_pe, const TensorView& positions, const RopeTable& table) {
  const int64_t num_heads = q_pe.dim(1);
  const int64_t half = q_pe.dim(2) / 2;
  CHECK(table.cos_sin.dim(1) == 2 * half, table.cos_sin.to_string(), q_pe.to_string());
  const int64_t step = table.interleaved ? 2 : 1;
  const int64_t other = table.interleaved ? 1 : half;
  for_rows(q_pe.dim(0), num_heads * half * 4, [&](int64_t token) {
    const int32_t position = positions.data<int32_t>()[token];
    CHECK(position >= 0 && position < table.cos_sin.dim(0), position, table.cos_sin.to_string());
    const float* cosines = table.cos_sin.row<float>(position);
    const float* sines = cosines + half;
    for (int64_t head = 0; head < num_heads; ++head) {
      float* values = q_pe.row<float>(token) + head * q_pe.stride(1);
      for (int64_t i = 0; i < half; ++i) {
        const float x = values[i * step];
        const float y = values[i * step + other];
        values[i * step] = x * cosines[i] - y * sines[i];
        values[i * step + other] = y * cosines[i] + x * sines[i];
      }
    }
  });
}

void CpuBackend::write_kv(const TensorView& latent, const StepState& state,
                          const StepInputs& inputs, const KvPool& pool, int64_t layer) {
  CHECK(latent.dim(1) == pool.token_dim, latent.to_string(), pool.token_dim);
  for (int64_t token = 0; token < inputs.num_tokens; ++token) {
    const int32_t slot = inputs.token_slots.data<int32_t>()[token];
    if (slot < 0) continue;
    const int32_t position = inputs.positions.data<int32_t>()[token];
    CHECK(position >= 0 && position < state.page_table.dim(1) * kPage, position, slot);
    const int32_t page = state.page_table.row<int32_t>(slot)[position / kPage];
    char* target = page_address(pool, page, layer) + position % kPage * pool.token_bytes();
    store_kv_token(pool, layer, latent.row<float>(token), target);
  }
}

}  // namespace deepflight
