// A thread waits for the signals, which are blocked everywhere.
#include "apps/bench_serve/interrupt.h"

#include <csignal>
#include <cstdlib>

namespace deepflight {
namespace {

constexpr long kPollNs = 20'000'000;
constexpr int kExitCode = 130;  // as a shell reports SIGINT

sigset_t stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

Interrupt::Interrupt() {
  const sigset_t signals = stop_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { watch(); });
}

Interrupt::~Interrupt() {
  stopping_ = true;
  thread_.join();
  const sigset_t signals = stop_signals();
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

void Interrupt::watch() {
  const sigset_t signals = stop_signals();
  const timespec limit = {0, kPollNs};
  while (!stopping_) {
    if (sigtimedwait(&signals, nullptr, &limit) < 0) continue;
    if (came_.exchange(true)) std::_Exit(kExitCode);
  }
}

}  // namespace deepflight
