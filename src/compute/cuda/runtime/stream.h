// RAII for streams, events and instantiated graphs. Streams never synchronise with the legacy one.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "compute/cuda/runtime/device.h"

namespace deepflight {

class Stream {
 public:
  Stream() { CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }

  cudaStream_t get() const { return stream_; }
  void synchronize() const { CUDA_CHECK(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

// Without timing: for order only.
class Event {
 public:
  Event() { CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }

  void record(const Stream& stream) { CUDA_CHECK(cudaEventRecord(event_, stream.get())); }
  // Work issued to `stream` from now on starts after the last record().
  void hold(const Stream& stream) const {
    CUDA_CHECK(cudaStreamWaitEvent(stream.get(), event_, 0));
  }
  void wait() const { CUDA_CHECK(cudaEventSynchronize(event_)); }

 private:
  cudaEvent_t event_ = nullptr;
};

// The work that `issue` puts on `stream`, to be run again with one call.
class Graph {
 public:
  template <typename Issue>
  Graph(const Stream& stream, const Issue& issue) {
    CUDA_CHECK(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      issue();
    } catch (...) {
      cudaStreamEndCapture(stream.get(), &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    CUDA_CHECK(cudaStreamEndCapture(stream.get(), &graph));
    const cudaError_t error = cudaGraphInstantiate(&exec_, graph, 0);
    cudaGraphDestroy(graph);
    CUDA_CHECK(error);
    CUDA_CHECK(cudaGraphUpload(exec_, stream.get()));
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { cudaGraphExecDestroy(exec_); }

  void launch(const Stream& stream) const { CUDA_CHECK(cudaGraphLaunch(exec_, stream.get())); }

 private:
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace deepflight
