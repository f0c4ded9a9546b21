// Building, and the heights that keep walks from getting stuck.
#include "grammar/grammar.h"

#include <algorithm>

namespace deepflight {
namespace {

// Nodes whose height follows from another's.
std::vector<std::vector<NodeId>> dependents_of(const Grammar& grammar) {
  std::vector<std::vector<NodeId>> dependents(grammar.nodes.size());
  for (size_t i = 0; i < grammar.nodes.size(); ++i) {
    const GrammarNode& node = grammar.nodes[i];
    const auto id = static_cast<NodeId>(i);
    for (const GrammarEdge& edge : node.edges) dependents[edge.target].push_back(id);
    for (const NodeId target : node.jumps) dependents[target].push_back(id);
    if (node.kind == GrammarNode::Kind::kCall || node.kind == GrammarNode::Kind::kRepeat) {
      dependents[node.next].push_back(id);
      dependents[grammar.rules[node.rule].start].push_back(id);
    }
  }
  return dependents;
}

// What a node's height is by those that are known.
int32_t derived_height(const Grammar& grammar, const GrammarNode& node) {
  using Kind = GrammarNode::Kind;
  if (node.kind == Kind::kFinal) return 0;
  int32_t height = kUnreachable;
  for (const GrammarEdge& edge : node.edges) {
    height = std::min(height, grammar.nodes[edge.target].height);
  }
  for (const NodeId target : node.jumps) height = std::min(height, grammar.nodes[target].height);
  if (node.kind == Kind::kState) return height;
  const int32_t after = grammar.nodes[node.next].height;
  if (node.kind == Kind::kRepeat && node.min > node.max) return kUnreachable;
  if (node.kind == Kind::kRepeat && node.min == 0) return after;
  const int32_t inside = grammar.nodes[grammar.rules[node.rule].start].height;
  if (after == kUnreachable || inside == kUnreachable) return kUnreachable;
  return std::max(after, inside + 1);
}

// Heights from the lowest up: a node's is settled when it is found.
void compute_heights(Grammar& grammar) {
  const auto dependents = dependents_of(grammar);
  std::vector<std::vector<NodeId>> found(kMaxNesting + 1);
  for (size_t i = 0; i < grammar.nodes.size(); ++i) {
    const GrammarNode& node = grammar.nodes[i];
    if (node.kind == GrammarNode::Kind::kFinal) found[0].push_back(static_cast<NodeId>(i));
  }
  for (int32_t height = 0; height <= kMaxNesting; ++height) {
    std::vector<NodeId>& level = found[height];
    for (size_t i = 0; i < level.size(); ++i) {
      GrammarNode& node = grammar.nodes[level[i]];
      if (node.height != kUnreachable) continue;
      node.height = height;
      for (const NodeId dependent : dependents[level[i]]) {
        if (grammar.nodes[dependent].height != kUnreachable) continue;
        const int32_t derived = derived_height(grammar, grammar.nodes[dependent]);
        if (derived <= kMaxNesting) found[derived].push_back(dependent);
      }
    }
  }
}

// Rounds that derive nothing fill any minimum, and walks leave them out: without that, the ways of
// `((a{0,50}){0,50}){0,50}` to be empty alone are more than a server has time for.
void drop_empty_rounds(Grammar& grammar) {
  using Kind = GrammarNode::Kind;
  const auto dependents = dependents_of(grammar);
  std::vector<bool> is_nullable(grammar.nodes.size());
  const auto derives_nothing = [&](const GrammarNode& node) {
    if (std::ranges::any_of(node.jumps, [&](NodeId target) { return is_nullable[target]; })) {
      return true;
    }
    if (node.kind != Kind::kCall && node.kind != Kind::kRepeat) return node.kind == Kind::kFinal;
    const bool skips = node.kind == Kind::kRepeat && node.min == 0;
    return is_nullable[node.next] && (skips || is_nullable[grammar.rules[node.rule].start]);
  };
  std::vector<NodeId> pending;
  for (size_t i = 0; i < grammar.nodes.size(); ++i) {
    if (grammar.nodes[i].kind == Kind::kFinal) pending.push_back(static_cast<NodeId>(i));
  }
  while (!pending.empty()) {
    const NodeId id = pending.back();
    pending.pop_back();
    if (is_nullable[id] || !derives_nothing(grammar.nodes[id])) continue;
    is_nullable[id] = true;
    pending.insert(pending.end(), dependents[id].begin(), dependents[id].end());
  }
  for (GrammarNode& node : grammar.nodes) {
    if (node.kind != Kind::kRepeat || node.min > node.max) continue;
    if (is_nullable[grammar.rules[node.rule].start]) node.min = 0;
  }
}

}  // namespace

NodeId GrammarBuilder::add(GrammarNode node) {
  if (grammar_.nodes.size() >= kMaxGrammarNodes) {
    overflowed_ = true;
    return 0;
  }
  grammar_.nodes.push_back(std::move(node));
  return static_cast<NodeId>(grammar_.nodes.size() - 1);
}

RuleId GrammarBuilder::new_rule() {
  GrammarRule rule;
  rule.start = new_state();
  rule.final = add({.kind = GrammarNode::Kind::kFinal});
  grammar_.rules.push_back(rule);
  return static_cast<RuleId>(grammar_.rules.size() - 1);
}

NodeId GrammarBuilder::new_state() { return add({}); }

void GrammarBuilder::edge(NodeId from, Symbol low, Symbol high, NodeId to) {
  if (!overflowed_) grammar_.nodes[from].edges.push_back({low, high, to});
}

void GrammarBuilder::jump(NodeId from, NodeId to) {
  if (!overflowed_) grammar_.nodes[from].jumps.push_back(to);
}

NodeId GrammarBuilder::literal(NodeId from, std::string_view bytes) {
  for (const char byte : bytes) {
    const auto symbol = static_cast<Symbol>(static_cast<uint8_t>(byte));
    const NodeId to = new_state();
    edge(from, symbol, symbol, to);
    from = to;
  }
  return from;
}

NodeId GrammarBuilder::mark(NodeId from, Symbol symbol) {
  const NodeId to = new_state();
  edge(from, symbol, symbol, to);
  return to;
}

NodeId GrammarBuilder::call(NodeId from, RuleId rule) {
  const NodeId to = new_state();
  call(from, rule, to);
  return to;
}

void GrammarBuilder::call(NodeId from, RuleId rule, NodeId to) {
  jump(from, add({.kind = GrammarNode::Kind::kCall, .rule = rule, .next = to}));
}

NodeId GrammarBuilder::repeat(NodeId from, RuleId rule, int32_t min, int32_t max, bool is_text) {
  const NodeId to = new_state();
  jump(from, add({.kind = GrammarNode::Kind::kRepeat,
                  .is_text = is_text,
                  .rule = rule,
                  .min = min,
                  .max = max,
                  .next = to}));
  return to;
}

Result<Grammar> GrammarBuilder::finish(RuleId root) && {
  if (overflowed_) {
    return make_error(ErrorCode::kTooLarge, "it needs more than {} states", kMaxGrammarNodes);
  }
  grammar_.root = root;
  drop_empty_rounds(grammar_);
  compute_heights(grammar_);
  if (grammar_.nodes[grammar_.rules[root].start].height == kUnreachable) {
    return invalid_argument("nothing can satisfy it");
  }
  return std::move(grammar_);
}

}  // namespace deepflight
