// A copy larger than the L2, and cuBLASLt's products on random operands; medians of a few runs.
#include "compute/cuda/ceilings.h"

#include <algorithm>
#include <functional>
#include <random>
#include <vector>

#include "compute/cuda/runtime/cublaslt.h"
#include "compute/cuda/runtime/memory.h"
#include "compute/cuda/runtime/stream.h"
#include "tensor/float_formats.h"

namespace deepflight {
namespace {

constexpr int64_t kSize = 8192;  // of the products
constexpr int64_t kCopyBytes = int64_t{384} << 20;

class Timer {
 public:
  Timer() {
    CUDA_CHECK(cudaEventCreate(&begin_));
    CUDA_CHECK(cudaEventCreate(&end_));
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }

  // Median over runs of ten calls each.
  double median_seconds(const Stream& stream, const std::function<void()>& call) {
    constexpr int kCalls = 10;
    for (int i = 0; i < 3; ++i) call();
    std::vector<double> seconds;
    for (int run = 0; run < 5; ++run) {
      CUDA_CHECK(cudaEventRecord(begin_, stream.get()));
      for (int i = 0; i < kCalls; ++i) call();
      CUDA_CHECK(cudaEventRecord(end_, stream.get()));
      CUDA_CHECK(cudaEventSynchronize(end_));
      float milliseconds = 0;
      CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin_, end_));
      seconds.push_back(milliseconds * 1e-3 / kCalls);
    }
    std::ranges::nth_element(seconds, seconds.begin() + 2);
    return seconds[2];
  }

 private:
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

// A matrix whose rows repeat one random block: random to the tensor cores, quick to make.
Buffer random_operand(bool fp8) {
  constexpr int64_t kBlock = int64_t{1} << 20;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<uint8_t> block;
  for (int64_t i = 0; i < kBlock; ++i) {
    if (fp8) {
      block.push_back(f32_to_f8e4m3(normal(engine)));
    } else {
      const uint16_t bits = f32_to_bf16(normal(engine));
      block.push_back(static_cast<uint8_t>(bits & 0xff));
      block.push_back(static_cast<uint8_t>(bits >> 8));
    }
  }
  const int64_t size_bytes = kSize * kSize * (fp8 ? 1 : 2);
  Buffer buffer = allocate_device(size_bytes);
  const auto block_bytes = static_cast<int64_t>(block.size());
  for (int64_t begin = 0; begin < size_bytes; begin += block_bytes) {
    CUDA_CHECK(cudaMemcpy(static_cast<char*>(buffer.data()) + begin, block.data(), block.size(),
                          cudaMemcpyHostToDevice));
  }
  return buffer;
}

double measure_product(const Stream& stream, Timer& timer, bool fp8) {
  constexpr size_t kWorkspaceBytes = size_t{32} << 20;
  const Buffer a = random_operand(fp8), b = random_operand(fp8);
  const Buffer out = allocate_device(kSize * kSize * 2);
  const Buffer workspace = allocate_device(kWorkspaceBytes);
  const std::vector<float> one{1.0f};
  const Buffer scale = allocate_device(sizeof(float));
  CUDA_CHECK(cudaMemcpy(scale.data(), one.data(), sizeof(float), cudaMemcpyHostToDevice));

  CublasltProducts products(kWorkspaceBytes);
  if (fp8) {
    products.set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scale.data());
    products.set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scale.data());
  }
  const cudaDataType in_type = fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
  CublasltPlan plan{.w = {in_type, kSize, kSize, kSize},
                    .x = {in_type, kSize, kSize, kSize},
                    .out = {CUDA_R_16BF, kSize, kSize, kSize}};
  products.plan(plan);
  if (!plan.supported) throw DeviceError("cuBLASLt: no kernel to measure its rate with");
  const double seconds = timer.median_seconds(stream, [&] {
    products.launch(plan, a.data(), b.data(), out.data(), workspace.data(), stream.get());
  });
  const auto size = static_cast<double>(kSize);
  return 2 * size * size * size / seconds;
}

}  // namespace

CudaCeilings measure_cuda_ceilings() {
  const Stream stream;
  Timer timer;
  CudaCeilings ceilings;
  {
    const Buffer from = allocate_device(kCopyBytes), to = allocate_device(kCopyBytes);
    CUDA_CHECK(cudaMemset(from.data(), 0x5a, kCopyBytes));
    const double seconds = timer.median_seconds(stream, [&] {
      CUDA_CHECK(cudaMemcpyAsync(to.data(), from.data(), kCopyBytes, cudaMemcpyDeviceToDevice,
                                 stream.get()));
    });
    ceilings.bytes_per_second = 2.0 * static_cast<double>(kCopyBytes) / seconds;
  }
  ceilings.bf16_flops_per_second = measure_product(stream, timer, false);
  ceilings.fp8_flops_per_second = measure_product(stream, timer, true);
  return ceilings;
}

}  // namespace deepflight
