// A raw TCP client for tests: sends bytes exactly as given (malformed, in pieces, pipelined) and
// reads with a time limit. Header only, used by *_test.cpp.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"

namespace deepflight {

class TestSocket {
 public:
  // `receive_buffer_bytes`: small ones make a slow reader; 0 is the system's choice.
  explicit TestSocket(uint16_t port, int receive_buffer_bytes = 0)
      : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer_bytes > 0) {
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    // Called again after a signal, Linux's connect() waits for the connection already begun.
    connected_ = unless_interrupted([&] {
                   return ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address);
                 }) == 0;
  }
  ~TestSocket() { close(); }
  TestSocket(const TestSocket&) = delete;
  TestSocket& operator=(const TestSocket&) = delete;

  bool connected() const { return connected_; }

  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent =
          unless_interrupted([&] { return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL); });
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  // Reads until `text` has been seen; returns all that was read up to then (more if it came along).
  std::string read_until(std::string_view text, int timeout_ms = 5000) {
    while (received_.find(text) == std::string::npos && read_some(timeout_ms)) {
    }
    return received_;
  }

  // Reads until the server closes. Check closed() for whether it did in time.
  std::string read_all(int timeout_ms = 5000) {
    while (read_some(timeout_ms)) {
    }
    return received_;
  }

  void clear() { received_.clear(); }
  bool closed() const { return closed_; }  // the server's side

  void shut_down_send() { ::shutdown(fd_, SHUT_WR); }

  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  template <typename Call>
  static ssize_t unless_interrupted(const Call& call) {
    ssize_t result = call();
    while (result < 0 && errno == EINTR) result = call();
    return result;
  }

  bool read_some(int timeout_ms) {
    pollfd poll{fd_, POLLIN, 0};
    // A signal is no answer: a fuzzer's clock sends them.
    if (unless_interrupted([&] { return ::poll(&poll, 1, timeout_ms); }) <= 0) return false;
    char bytes[4096];
    const ssize_t size = unless_interrupted([&] { return ::recv(fd_, bytes, sizeof bytes, 0); });
    if (size <= 0) {
      closed_ = true;
      return false;
    }
    received_.append(bytes, static_cast<size_t>(size));
    return true;
  }

  int fd_ = -1;
  bool connected_ = false;
  bool closed_ = false;
  std::string received_;
};

// Polls a condition that another thread makes true.
template <typename Condition>
bool eventually(Condition condition, int timeout_ms = 5000) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    ::usleep(1000);
  }
  return true;
}

}  // namespace deepflight
