// The fields of a chat request about tools: definitions, the choice of one, and the calls in former
// messages. Names, sizes and forms are checked; what parameters mean is the model's business.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "server/api_request.h"
#include "server/json_fields.h"

namespace deepflight {

// tools, tool_choice and parallel_tool_calls. `body`: the request's text, from which the tools are
// read once more with their keys in order, for the model sees them so. `error` is shared by fields.
void parse_tools(JsonFields& fields, std::string_view body, ToolOptions& tools,
                 std::optional<ApiError>& error);

// tool_calls of an assistant's message, as templates read them; null if there are none.
nlohmann::ordered_json parse_tool_calls(JsonFields& message_fields, std::optional<ApiError>& error);

}  // namespace deepflight
