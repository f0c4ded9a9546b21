// The blocking client: exchanges of one connection, each run to its end on an io_context of the
// client's own.
#include "net/http_client.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <exception>
#include <optional>
#include <utility>

#include "net/client_connection.h"

namespace deepflight {
namespace asio = boost::asio;

class HttpClient::Impl {
 public:
  Impl(HttpUrl url, HttpClientConfig config) : target_{std::move(url), std::move(config), {}} {}

  Result<HttpResponse> exchange(std::string_view method, std::string_view path,
                                std::string_view body, const ClientConnection::EventFn* on_event) {
    const std::string bytes = request_bytes(target_, method, path, body);
    std::optional<Result<HttpResponse>> result;
    std::exception_ptr thrown;  // by on_event
    const auto run = [&]() -> asio::awaitable<void> {
      result = co_await connection_.exchange(bytes, on_event);
    };
    context_.restart();
    asio::co_spawn(context_, run, [&](std::exception_ptr failure) { thrown = std::move(failure); });
    context_.run();
    if (thrown) std::rethrow_exception(thrown);
    return std::move(*result);
  }

 private:
  asio::io_context context_{1};
  ClientTarget target_;
  ClientConnection connection_{context_, target_};
};

HttpClient::HttpClient(HttpUrl url, HttpClientConfig config)
    : impl_(std::make_unique<Impl>(std::move(url), std::move(config))) {}
HttpClient::~HttpClient() = default;
HttpClient::HttpClient(HttpClient&& other) noexcept = default;
HttpClient& HttpClient::operator=(HttpClient&& other) noexcept = default;

Result<HttpResponse> HttpClient::get(std::string_view path) {
  return impl_->exchange("GET", path, {}, nullptr);
}

Result<HttpResponse> HttpClient::post_json(std::string_view path, std::string body) {
  return impl_->exchange("POST", path, body, nullptr);
}

Result<HttpResponse> HttpClient::post_stream(
    std::string_view path, std::string body,
    const std::function<bool(std::string_view data)>& on_event) {
  return impl_->exchange("POST", path, body, &on_event);
}

}  // namespace deepflight
