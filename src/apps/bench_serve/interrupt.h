// Ctrl-C (SIGINT) and SIGTERM as a flag, so that a long command can end early with what it has.
#pragma once

#include <atomic>
#include <thread>

namespace deepflight {

class Interrupt {
 public:
  // Made before any other thread, which then leave the signals to this one. A second signal ends
  // the process at once.
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool came() const { return came_; }

 private:
  void watch();

  std::atomic<bool> came_{false};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace deepflight
