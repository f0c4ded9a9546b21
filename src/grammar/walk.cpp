// Closures over calls, repeats and jumps; interning.
#include "grammar/walk.h"

#include <algorithm>

#include "base/check.h"

namespace deepflight {
namespace {

using Kind = GrammarNode::Kind;

// Ambiguous grammars could need ever more stacks side by side. Those past the limit are dropped:
// what is left is in the language still, for every one of them can be finished by itself.
constexpr size_t kMaxItems = 512;
constexpr size_t kMaxListed = 24;
// The same of the places of one configuration.
constexpr int64_t kMaxClosureVisits = 20'000;

size_t mix(size_t hash, int64_t value) {
  hash ^= static_cast<size_t>(value) + 0x9E3779B97F4A7C15ull + (hash << 6) + (hash >> 2);
  return hash * 0xBF58476D1CE4E5B9ull;
}

bool is_plain_start(const GrammarEdge& edge) {
  // Some byte that a plain character begins with: ASCII but controls, '"' and '\\', or the head of
  // a longer sequence.
  for (unsigned symbol = edge.low; symbol <= edge.high && symbol < 0xF5; ++symbol) {
    if (symbol >= 0x20 && symbol != '"' && symbol != '\\' && (symbol < 0x80 || symbol >= 0xC2)) {
      return true;
    }
  }
  return false;
}

}  // namespace

size_t GrammarWalk::FrameHash::operator()(const Frame& frame) const {
  return mix(mix(mix(0, frame.node), frame.count), frame.parent);
}

size_t GrammarWalk::PlaceHash::operator()(const Place& place) const {
  return mix(mix(mix(mix(1, place.node), place.count), place.frame), place.num_new_calls);
}

GrammarWalk::GrammarWalk(const Grammar& grammar) : grammar_(grammar) {
  frames_.push_back({});
  depths_.push_back(0);
  close(grammar_.rules[grammar_.root].start, kBottom);
  start_ = take_closure();
}

int32_t GrammarWalk::make_frame(NodeId node, int32_t count, int32_t parent) {
  const Frame frame{node, count, parent};
  const auto [entry, is_new] = frame_ids_.try_emplace(frame, static_cast<int32_t>(frames_.size()));
  if (is_new) {
    frames_.push_back(frame);
    depths_.push_back(depths_[static_cast<size_t>(parent)] + 1);
  }
  return entry->second;
}

// Places that could not be finished within the bound on nesting are left out.
void GrammarWalk::visit(const Place& place) {
  const int32_t height = grammar_.nodes[place.node].height;
  if (height == kUnreachable || height + depths_[place.frame] > kMaxNesting) return;
  if (seen_list_.size() < kMaxListed) {
    if (std::ranges::find(seen_list_, place) != seen_list_.end()) return;
    seen_list_.push_back(place);
  } else {
    if (seen_.empty()) {
      for (const Place& listed : seen_list_) seen_.emplace(listed, true);
    }
    if (!seen_.emplace(place, true).second) return;
  }
  pending_.push_back(place);
}

void GrammarWalk::close(NodeId node, int32_t frame) {
  visit({.node = node, .frame = frame});
  const int64_t max_visits = num_visits_before_ + kMaxClosureVisits;
  while (!pending_.empty()) {
    // Past the limit the first symbol that can come is enough.
    if (num_visits_ >= max_visits && (!items_.empty() || accepts_)) {
      pending_.clear();
      break;
    }
    const Place place = pending_.back();
    pending_.pop_back();
    ++num_visits_;
    const GrammarNode& at = grammar_.nodes[place.node];
    const int32_t num_new = place.num_new_calls;
    switch (at.kind) {
      case Kind::kState:
        if (!at.edges.empty() && items_.size() < kMaxItems) {
          items_.push_back({place.node, place.frame});
        }
        for (const NodeId target : at.jumps) visit({target, 0, place.frame, num_new});
        break;
      case Kind::kCall:
        if (grammar_.nodes[at.next].height + depths_[place.frame] <= kMaxNesting) {
          const int32_t called = make_frame(at.next, 0, place.frame);
          visit({grammar_.rules[at.rule].start, 0, called, num_new + 1});
        }
        break;
      case Kind::kRepeat:
        if (place.count >= at.min) visit({at.next, 0, place.frame, num_new});
        if (place.count < at.max) {
          // Past the minimum of an unbounded repeat the count says nothing more.
          const int32_t most = at.max == kUnbounded ? at.min + 1 : at.max;
          const int32_t count = std::min(place.count + 1, most);
          const int32_t round = make_frame(place.node, count, place.frame);
          visit({grammar_.rules[at.rule].start, 0, round, num_new + 1});
        }
        break;
      case Kind::kFinal:
        leave(place);
        break;
    }
  }
}

// From the end of a rule back to its caller.
void GrammarWalk::leave(const Place& place) {
  if (place.frame == kBottom) {
    accepts_ = true;
    return;
  }
  const Frame caller = frames_[place.frame];
  const bool is_empty = place.num_new_calls > 0;
  // Empty rounds of a repeat lead nowhere that it does not lead to without them.
  if (is_empty && grammar_.nodes[caller.node].kind == Kind::kRepeat && caller.count > 0) return;
  visit({caller.node, caller.count, caller.parent, std::max(place.num_new_calls - 1, 0)});
}

ConfigId GrammarWalk::take_closure() {
  seen_list_.clear();
  seen_.clear();
  num_visits_before_ = num_visits_;
  std::vector<Item> items;
  items.swap(items_);
  const bool accepts = std::exchange(accepts_, false);
  if (items.empty() && !accepts) return kNoConfig;
  std::ranges::sort(items);
  items.erase(std::unique(items.begin(), items.end()), items.end());
  return intern(std::move(items), accepts);
}

ConfigId GrammarWalk::intern(std::vector<Item> items, bool accepts) {
  size_t hash = mix(0, accepts);
  for (const Item& item : items) hash = mix(mix(hash, item.node), item.frame);
  const auto [begin, end] = config_ids_.equal_range(hash);
  for (auto entry = begin; entry != end; ++entry) {
    const Config& known = configs_[entry->second];
    if (known.accepts == accepts && known.items == items) return entry->second;
  }
  const auto id = static_cast<ConfigId>(configs_.size());
  Config& config = configs_.emplace_back();
  config.items = std::move(items);
  config.accepts = accepts;
  config.next.fill(kUnknown);
  config_ids_.emplace(hash, id);
  return id;
}

ConfigId GrammarWalk::step(ConfigId config, Symbol symbol) {
  // NOTE: a deque's elements stay where they are when it grows.
  Config& from = configs_[config];
  if (from.next[symbol] != kUnknown) return from.next[symbol];
  // Neighbours that no edge tells from `symbol` lead where it leads: one closure for all of them.
  Symbol low = 0, high = kNumSymbols - 1;
  for (const Item& item : from.items) {
    for (const GrammarEdge& edge : grammar_.nodes[item.node].edges) {
      if (symbol < edge.low) {
        high = std::min<Symbol>(high, edge.low - 1);
      } else if (symbol > edge.high) {
        low = std::max<Symbol>(low, edge.high + 1);
      } else {
        low = std::max(low, edge.low);
        high = std::min(high, edge.high);
        close(edge.target, item.frame);
      }
    }
  }
  const ConfigId to = take_closure();
  std::fill(from.next.begin() + low, from.next.begin() + high + 1, to);
  return to;
}

ConfigId GrammarWalk::import(const GrammarWalk& other, ConfigId config) {
  std::vector<int32_t> chain;
  const auto import_frame = [&](int32_t frame) {
    chain.clear();
    for (; frame != kBottom; frame = other.frames_[frame].parent) chain.push_back(frame);
    int32_t made = kBottom;
    for (auto it = chain.rbegin(); it != chain.rend(); ++it) {
      made = make_frame(other.frames_[*it].node, other.frames_[*it].count, made);
    }
    return made;
  };
  std::vector<Item> items;
  for (const Item& item : other.configs_[config].items) {
    items.push_back({item.node, import_frame(item.frame)});
  }
  std::ranges::sort(items);
  return intern(std::move(items), other.configs_[config].accepts);
}

std::optional<GrammarWalk::TextState> GrammarWalk::text_state(ConfigId config) {
  std::optional<TextState> state;
  std::vector<Item> others;
  for (const Item& item : configs_[config].items) {
    const Frame& frame = frames_[item.frame];
    const GrammarNode& caller = grammar_.nodes[frame.node];
    if (item.frame == kBottom || !caller.is_text || caller.kind != Kind::kRepeat ||
        grammar_.rules[caller.rule].start != item.node) {
      others.push_back(item);
      continue;
    }
    if (state) return std::nullopt;
    const int32_t num_before = frame.count - 1;
    state = {.node = frame.node,
             .parent = frame.parent,
             .num_left = caller.max == kUnbounded ? kUnbounded : caller.max - num_before,
             .num_needed = std::max(caller.min - num_before, 0)};
  }
  if (!state || std::ranges::any_of(others, [&](const Item& item) { return takes_plain(item); })) {
    return std::nullopt;
  }
  state->others = intern(std::move(others), false);
  return state;
}

bool GrammarWalk::takes_plain(const Item& item) const {
  return std::ranges::any_of(grammar_.nodes[item.node].edges, is_plain_start);
}

bool GrammarWalk::takes_plain(ConfigId config) const {
  return std::ranges::any_of(configs_[config].items,
                             [&](const Item& item) { return takes_plain(item); });
}

}  // namespace deepflight
