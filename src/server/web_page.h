// The web page: the files of src/server/web, embedded in the program. `/` is index.html and
// /web/NAME any other one. They hold no data and need no key; what the page asks the API for does.
#pragma once

#include <optional>
#include <string_view>

#include "net/http_message.h"

namespace deepflight {

// The answer to a GET of `path`, or none where the page has no such file.
std::optional<HttpResponse> web_page_response(std::string_view path);

}  // namespace deepflight
