// Documents and calls as one grammar; the cache.
#include "grammar/output_form.h"

#include <algorithm>

#include "grammar/json_schema.h"
#include "text/tool_call_parser.h"

namespace deepflight {
namespace {

constexpr size_t kMaxCached = 24;

// All that a grammar depends on.
std::string key_of(const OutputForm& form) {
  OutputForm::Json key = {{"breaks", form.may_begin_with_line_breaks}};
  if (form.schema) key["schema"] = *form.schema;
  if (form.calls) {
    auto& calls = key["calls"] = {{"start", static_cast<int>(form.calls->start)},
                                  {"fenced", form.calls->is_fenced},
                                  {"one", form.calls->only_one},
                                  {"tools", OutputForm::Json::array()}};
    for (const auto& tool : form.calls->tools) {
      calls["tools"].push_back({tool.name, tool.parameters});
    }
  }
  return key.dump();
}

// Calls in the forms that text/tool_call_parser.h reads.
class CallsWriter {
 public:
  CallsWriter(GrammarBuilder& builder, const TokenVocabulary& vocabulary,
              const OutputForm::Calls& calls, std::vector<RuleId> arguments)
      : builder_(builder),
        vocabulary_(vocabulary),
        calls_(calls),
        arguments_(std::move(arguments)) {}

  NodeId write(NodeId from) {
    using Start = OutputForm::CallStart;
    NodeId at = from;
    if (calls_.start == Start::kNothing) at = mark(at, kToolCallsBegin);
    if (calls_.start == Start::kName) {
      at = end_of_call(builder_.call(at, arguments_.front()));
    } else {
      if (calls_.start != Start::kCallMark) at = call_begin(at);
      at = call(at);
    }
    if (!calls_.only_one) {
      const RuleId next = builder_.new_rule();
      NodeId begin = builder_.start(next);
      if (calls_.is_fenced) {  // V3's template has a line for each call
        const NodeId line = builder_.literal(begin, "\n");
        builder_.jump(begin, line);
        begin = line;
      }
      builder_.jump(call(call_begin(begin)), builder_.final(next));
      at = builder_.repeat(at, next, 0, kUnbounded);
    }
    return mark(at, kToolCallsEnd);
  }

 private:
  // A mark is one token where the tokenizer has it, else its text.
  NodeId mark(NodeId from, std::string_view text) {
    const auto symbol = vocabulary_.mark(text);
    return symbol ? builder_.mark(from, *symbol) : builder_.literal(from, text);
  }
  NodeId call_begin(NodeId from) {
    const NodeId at = mark(from, kToolCallBegin);
    return calls_.is_fenced ? mark(builder_.literal(at, kToolTypeFunction), kToolSeparator) : at;
  }
  // From the name on.
  NodeId call(NodeId from) {
    const NodeId end = builder_.new_state();
    for (size_t i = 0; i < calls_.tools.size(); ++i) {
      NodeId at = builder_.new_state();
      builder_.jump(from, at);
      at = builder_.literal(at, calls_.tools[i].name);
      at = calls_.is_fenced ? builder_.literal(builder_.literal(at, "\n"), kToolFenceBegin)
                            : mark(at, kToolSeparator);
      builder_.jump(end_of_call(builder_.call(at, arguments_[i])), end);
    }
    return end;
  }
  NodeId end_of_call(NodeId from) {
    if (calls_.is_fenced) from = builder_.literal(from, kToolFenceEnd);
    return mark(from, kToolCallEnd);
  }

  GrammarBuilder& builder_;
  const TokenVocabulary& vocabulary_;
  const OutputForm::Calls& calls_;
  const std::vector<RuleId> arguments_;
};

}  // namespace

OutputFormCompiler::OutputFormCompiler(std::shared_ptr<const TokenVocabulary> vocabulary)
    : vocabulary_(std::move(vocabulary)) {}

Result<Grammar> OutputFormCompiler::make_grammar(const OutputForm& form) const {
  GrammarBuilder builder;
  SchemaCompiler schemas(builder);
  const RuleId root = builder.new_rule();
  NodeId start = builder.start(root);
  if (form.may_begin_with_line_breaks) {
    const RuleId line_break = builder.new_rule();
    builder.edge(builder.start(line_break), '\n', '\n', builder.final(line_break));
    start = builder.repeat(start, line_break, 0, 2);
  }
  if (form.schema) {
    ASSIGN_OR_RETURN(const RuleId document, schemas.compile(*form.schema));
    builder.call(start, document, builder.final(root));
  }
  std::vector<std::unique_ptr<SchemaCompiler>> compilers;  // they refer to the builder's rules
  if (form.calls) {
    std::vector<RuleId> arguments;
    for (const OutputForm::Tool& tool : form.calls->tools) {
      compilers.push_back(std::make_unique<SchemaCompiler>(builder));
      const auto rule = compilers.back()->compile(tool.parameters);
      if (!rule.ok()) {
        return make_error(rule.error().code, "{}: {}", tool.name, rule.error().message);
      }
      arguments.push_back(*rule);
    }
    CallsWriter writer(builder, *vocabulary_, *form.calls, std::move(arguments));
    builder.jump(writer.write(start), builder.final(root));
  }
  return std::move(builder).finish(root);
}

Result<std::shared_ptr<TokenGrammar>> OutputFormCompiler::compile(const OutputForm& form) {
  CHECK(form.schema || (form.calls && !form.calls->tools.empty()));
  std::string key = key_of(form);
  if (key.size() > kMaxSchemaBytes) {
    return make_error(ErrorCode::kTooLarge, "schemas of {} bytes, at most {} are allowed",
                      key.size(), kMaxSchemaBytes);
  }
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find(recent_, key, &Entry::key);
    if (found != recent_.end()) {
      recent_.splice(recent_.begin(), recent_, found);
      return recent_.front().grammar;
    }
  }
  ASSIGN_OR_RETURN(Grammar grammar, make_grammar(form));
  auto made = std::make_shared<TokenGrammar>(std::move(grammar), vocabulary_);
  const std::lock_guard lock(mutex_);
  recent_.push_front({std::move(key), made});
  if (recent_.size() > kMaxCached) recent_.pop_back();
  return made;
}

}  // namespace deepflight
