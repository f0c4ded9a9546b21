// Walk: where in a grammar a text may be, as numbered configurations. A configuration is the set of
// (node, stack of calls) that the text so far can have led to; equal sets have one number, so what
// follows from them is computed once. Stacks share their lower parts.
//
// Grows as it is used; whoever owns it drops it when size() says so and moves his configurations to
// a new one (import). Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <unordered_map>
#include <vector>

#include "grammar/grammar.h"

namespace deepflight {

using ConfigId = int32_t;
inline constexpr ConfigId kNoConfig = -1;

class GrammarWalk {
 public:
  explicit GrammarWalk(const Grammar& grammar);

  ConfigId start() const { return start_; }
  // After one more symbol; kNoConfig if it cannot come.
  ConfigId step(ConfigId config, Symbol symbol);
  // Whether the text may end here.
  bool accepts(ConfigId config) const { return configs_[config].accepts; }
  // Whether it must.
  bool is_complete(ConfigId config) const {
    return configs_[config].accepts && configs_[config].items.empty();
  }
  ConfigId import(const GrammarWalk& other, ConfigId config);

  // A configuration inside a JSON string whose next character is free: which plain characters come
  // is known by their number alone.
  struct TextState {
    NodeId node = 0;              // the repeat
    int32_t parent = 0;           // stack under it
    int32_t num_left = 0;         // characters that may yet come
    int32_t num_needed = 0;       // characters that must
    ConfigId others = kNoConfig;  // whatever else the text may be at, none of it plain
    friend auto operator<=>(const TextState&, const TextState&) = default;
  };
  // Not told of a configuration that plain characters also fit in other ways.
  std::optional<TextState> text_state(ConfigId config);
  // Whether a plain character can come here in any way.
  bool takes_plain(ConfigId config) const;

  size_t num_configs() const { return configs_.size(); }
  size_t num_frames() const { return frames_.size(); }
  // Nodes looked at so far: the work done.
  int64_t num_visits() const { return num_visits_; }

 private:
  // A call that is not finished: afterwards the text is at `node` of the caller, whose stack is
  // `parent`. `count` is the number of rounds of a repeat, this one included.
  struct Frame {
    NodeId node = 0;
    int32_t count = 0;
    int32_t parent = 0;
    friend bool operator==(const Frame&, const Frame&) = default;
  };
  struct FrameHash {
    size_t operator()(const Frame& frame) const;
  };
  struct Item {
    NodeId node = 0;
    int32_t frame = 0;
    friend auto operator<=>(const Item&, const Item&) = default;
  };
  struct Config {
    std::vector<Item> items;  // sorted
    bool accepts = false;
    std::array<ConfigId, kNumSymbols> next;
  };
  static constexpr ConfigId kUnknown = -2;
  static constexpr int32_t kBottom = 0;  // the empty stack

  bool takes_plain(const Item& item) const;
  int32_t make_frame(NodeId node, int32_t count, int32_t parent);
  struct Place {
    NodeId node = 0;
    int32_t count = 0;
    int32_t frame = 0;
    int32_t num_new_calls = 0;  // since the last symbol: the topmost ones of the stack
    friend bool operator==(const Place&, const Place&) = default;
  };
  // All places that (node, frame) leads to without a symbol.
  void close(NodeId node, int32_t frame);
  void leave(const Place& place);
  void visit(const Place& place);
  ConfigId take_closure();
  ConfigId intern(std::vector<Item> items, bool accepts);

  const Grammar& grammar_;
  std::vector<Frame> frames_;
  std::vector<int32_t> depths_;  // of frames
  std::unordered_map<Frame, int32_t, FrameHash> frame_ids_;
  std::deque<Config> configs_;
  std::unordered_multimap<size_t, ConfigId> config_ids_;  // by hash
  ConfigId start_ = 0;
  int64_t num_visits_ = 0;

  // Of the closure that is being computed.
  struct PlaceHash {
    size_t operator()(const Place& place) const;
  };
  std::vector<Place> pending_;
  std::vector<Place> seen_list_;  // searched while it is short
  std::unordered_map<Place, bool, PlaceHash> seen_;
  std::vector<Item> items_;
  bool accepts_ = false;
  int64_t num_visits_before_ = 0;
};

}  // namespace deepflight
