// OutputForm: what a request wants its output to be, a JSON document or calls of tools, and the
// compiler from there to a TokenGrammar. Forms that come again are found compiled, with the masks
// that earlier outputs needed.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "grammar/token_grammar.h"

namespace deepflight {

struct OutputForm {
  using Json = nlohmann::ordered_json;

  struct Tool {
    std::string name;
    Json parameters;  // schema of its arguments
  };
  // How much of the first call the prompt has already.
  enum class CallStart {
    kNothing,
    kCallsMark,  // <｜tool▁calls▁begin｜>
    kCallMark,  // and <｜tool▁call▁begin｜>, with "function<｜tool▁sep｜>" in the fenced form
    kName,      // and the name of the only tool, with what comes between it and the arguments
  };
  struct Calls {
    std::vector<Tool> tools;
    CallStart start = CallStart::kNothing;
    bool is_fenced = false;  // the form of V3, see text/tool_call_parser.h
    bool only_one = false;
  };

  // At least one of the two; with both, either.
  std::optional<Json> schema;
  std::optional<Calls> calls;
  bool may_begin_with_line_breaks = false;  // up to two
};

// Thread-safe.
class OutputFormCompiler {
 public:
  explicit OutputFormCompiler(std::shared_ptr<const TokenVocabulary> vocabulary);

  // Takes up to some tens of milliseconds. Errors as of SchemaCompiler::compile, with the tool's
  // name before those of its parameters.
  Result<std::shared_ptr<TokenGrammar>> compile(const OutputForm& form);

  const TokenVocabulary& vocabulary() const { return *vocabulary_; }

 private:
  Result<Grammar> make_grammar(const OutputForm& form) const;

  const std::shared_ptr<const TokenVocabulary> vocabulary_;
  std::mutex mutex_;  // of the cache
  struct Entry {
    std::string key;
    std::shared_ptr<TokenGrammar> grammar;
  };
  std::list<Entry> recent_;  // latest first
};

}  // namespace deepflight
