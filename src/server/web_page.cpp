// From a path to a file, its type, and headers that let a browser run nothing but these files.
#include "server/web_page.h"

#include <array>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/embedded_file.h"

namespace deepflight {

std::span<const EmbeddedFile> web_page_files();  // embedded by CMake

namespace {

constexpr std::string_view kFolder = "server/web/";  // of the files, below src/
constexpr std::string_view kIndex = "index.html";
constexpr std::string_view kRoute = "/web/";
// Scripts, styles and requests of this server alone; no inline code, no markup made from text, no
// embedding elsewhere.
constexpr const char* kPolicy =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'; require-trusted-types-for 'script'";

const char* content_type(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, const char*>, 4> kTypes = {
      {{".html", "text/html; charset=utf-8"},
       {".css", "text/css; charset=utf-8"},
       {".js", "text/javascript; charset=utf-8"},
       {".svg", "image/svg+xml"}}};
  for (const auto& [suffix, type] : kTypes) {
    if (name.ends_with(suffix)) return type;
  }
  CHECK(false, name);
  return nullptr;
}

}  // namespace

std::optional<HttpResponse> web_page_response(std::string_view path) {
  std::string_view name = kIndex;
  if (path.starts_with(kRoute)) {
    name = path.substr(kRoute.size());
    if (name == kIndex) return std::nullopt;  // its links are relative to `/`
  } else if (path != "/") {
    return std::nullopt;
  }
  for (const EmbeddedFile& file : web_page_files()) {
    if (file.path.substr(kFolder.size()) != name) continue;
    return HttpResponse{200,
                        {{"Content-Type", content_type(name)},
                         {"Cache-Control", "no-cache"},
                         {"Content-Security-Policy", kPolicy},
                         {"Referrer-Policy", "no-referrer"},
                         {"X-Content-Type-Options", "nosniff"}},
                        std::string(file.text)};
  }
  return std::nullopt;
}

}  // namespace deepflight
