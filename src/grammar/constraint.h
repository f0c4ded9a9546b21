// What an output must look like and from when on, and how far one has come in it.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "grammar/token_grammar.h"

namespace deepflight {

struct OutputConstraint {
  static constexpr int32_t kFromTheStart = -1;

  std::shared_ptr<TokenGrammar> grammar;  // null: none
  // The output is free up to the first such token and with it; kFromTheStart: not at all.
  int32_t after_token = kFromTheStart;
  // With after_token: the output may not end before it.
  bool is_required = false;

  explicit operator bool() const { return grammar != nullptr; }
};

// One output's way through its constraint. Used by one thread.
class ConstraintState {
 public:
  explicit ConstraintState(OutputConstraint constraint)
      : constraint_(std::move(constraint)),
        position_(constraint_.grammar->start()),
        active_(constraint_.after_token == OutputConstraint::kFromTheStart) {}

  const OutputConstraint& constraint() const { return constraint_; }
  // Whether the next token is held to the grammar.
  bool active() const { return active_; }
  // Whether the text is whole and its end has been taken.
  bool ended() const { return ended_; }

  // Of the next token; before the constraint is active, of the first one that it will hold.
  TokenGrammar::Mask mask() { return constraint_.grammar->mask(position_); }

  // Takes an output token in. False if the grammar does not have it here.
  bool take(int32_t token) {
    if (!active_) {
      active_ = token == constraint_.after_token;
      return true;
    }
    if (ended_ || !constraint_.grammar->accept(position_, token)) return false;
    ended_ = constraint_.grammar->vocabulary().is_end(token);
    return true;
  }

 private:
  const OutputConstraint constraint_;
  TokenGrammar::Position position_;
  bool active_ = false;
  bool ended_ = false;
};

}  // namespace deepflight
