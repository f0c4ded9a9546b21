// Grammar: a language over bytes, as a network of nodes that may call rules and count repetitions
// (a pushdown automaton). Built once by GrammarBuilder, immutable afterwards; matcher.h walks it.
//
// Invariant of a finished grammar: from every node that a walk may be at, the end can be reached
// without nesting deeper than kMaxNesting, so a walk that obeys `height` never gets stuck.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace deepflight {

using NodeId = int32_t;
using RuleId = int32_t;

// Symbols are the bytes, and behind them marks: tokens that stand for themselves and for no text.
using Symbol = uint16_t;
inline constexpr Symbol kFirstMark = 256;
inline constexpr int kMaxMarks = 8;
inline constexpr int kNumSymbols = kFirstMark + kMaxMarks;

inline constexpr int32_t kUnbounded = INT32_MAX;
inline constexpr int32_t kUnreachable = INT32_MAX;
// Calls within calls. A level of JSON takes three or four of them.
inline constexpr int32_t kMaxNesting = 512;
inline constexpr size_t kMaxGrammarNodes = 200'000;

struct GrammarEdge {
  Symbol low = 0;
  Symbol high = 0;  // inclusive
  NodeId target = 0;
};

struct GrammarNode {
  enum class Kind : uint8_t {
    kState,   // edges take a symbol, jumps take none
    kCall,    // through `rule`, then on to `next`
    kRepeat,  // min to max times through `rule`, then on to `next`
    kFinal,   // the end of its rule
  };
  Kind kind = Kind::kState;
  // Of a repeat: each round takes one character of a JSON string, any one where all those that need
  // no escape are alike to the rest of the grammar. Lets a mask take such tokens in one go.
  bool is_text = false;
  RuleId rule = 0;
  int32_t min = 0;
  int32_t max = 0;
  NodeId next = 0;
  std::vector<GrammarEdge> edges;
  std::vector<NodeId> jumps;
  // The least nesting, beyond where it is, in which its rule can be finished from here;
  // kUnreachable if it cannot.
  int32_t height = kUnreachable;
};

struct GrammarRule {
  NodeId start = 0;
  NodeId final = 0;
};

struct Grammar {
  std::vector<GrammarNode> nodes;
  std::vector<GrammarRule> rules;
  RuleId root = 0;
};

class GrammarBuilder {
 public:
  RuleId new_rule();
  NodeId start(RuleId rule) const { return grammar_.rules[rule].start; }
  NodeId final(RuleId rule) const { return grammar_.rules[rule].final; }

  NodeId new_state();
  void edge(NodeId from, Symbol low, Symbol high, NodeId to);
  void jump(NodeId from, NodeId to);

  // Each goes on from `from` and returns where it ends, which is `to` where that is given.
  NodeId literal(NodeId from, std::string_view bytes);
  NodeId mark(NodeId from, Symbol symbol);
  NodeId call(NodeId from, RuleId rule);
  void call(NodeId from, RuleId rule, NodeId to);
  NodeId repeat(NodeId from, RuleId rule, int32_t min, int32_t max, bool is_text = false);

  // Too many nodes: further calls do nothing of use, and finish() says so.
  bool overflowed() const { return overflowed_; }
  size_t num_nodes() const { return grammar_.nodes.size(); }

  // Whether anything can be derived from each rule, without nesting too deeply. Computes heights.
  // Errors: kTooLarge; kInvalidArgument if nothing can be derived from `root`.
  Result<Grammar> finish(RuleId root) &&;

 private:
  NodeId add(GrammarNode node);

  Grammar grammar_;
  bool overflowed_ = false;
};

}  // namespace deepflight
