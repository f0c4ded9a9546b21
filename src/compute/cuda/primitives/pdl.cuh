// Programmatic dependent launch: a kernel may start while the one before it drains. Whoever is
// launched with the attribute must wait before it touches what earlier kernels wrote.
#pragma once

namespace deepflight::device {

// Returns when all kernels before this one in the stream have finished and their writes are seen.
// Without the launch attribute it does nothing.
__device__ inline void wait_for_previous_kernel() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Lets the next kernel's blocks be scheduled from now on.
__device__ inline void allow_next_kernel() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace deepflight::device
