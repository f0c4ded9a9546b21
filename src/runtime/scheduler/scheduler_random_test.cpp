// Random worlds: clients come, cancel and stop, steps fail, transfers hold pages, over pools from
// hopelessly small to ample. After every call all invariants hold; every output equals the output
// of the same prompt alone; nobody gets stuck; all pages and slots come back.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>

#include "base/check.h"
#include "grammar/output_form.h"
#include "grammar/vocabulary_testing.h"
#include "runtime/scheduler/fake_executor.h"
#include "runtime/scheduler/scheduler.h"

namespace deepflight {
namespace {

struct Output {
  std::vector<int32_t> tokens;
  std::optional<StopCause> stop_cause;
};

// Bytes, of which 0 ends an output, and two words.
OutputFormCompiler& forms() {
  static OutputFormCompiler compiler(
      TokenVocabulary::create(tokenizer_of({"\":", "true"}, {}), 258, {{0}}, {}).value());
  return compiler;
}

OutputConstraint constraint_of(int kind) {
  static const char* const kSchemas[] = {
      R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"}}})",
      R"({"type":"array","items":{"type":"string","maxLength":9}})",
      R"({"enum":["x","y"]})",
  };
  OutputForm form;
  form.schema = nlohmann::ordered_json::parse(kSchemas[kind % 3]);
  OutputConstraint constraint{.grammar = forms().compile(form).value()};
  if (kind >= 3) constraint.after_token = 7;
  return constraint;
}

// What a sequence must give, by itself, with nothing but the model and the rules.
Output generate_alone(const SequenceRequest& request, int32_t max_model_len) {
  const SamplingParams& sampling = *request.sampling;
  Output output;
  FakeModel model;
  for (const int32_t token : request.prompt) model.feed(token);
  std::optional<ConstraintState> constraint;
  if (request.constraint) constraint.emplace(request.constraint);
  while (!output.stop_cause) {
    const bool is_masked = constraint && constraint->active();
    const int32_t token = is_masked ? masked(*constraint->mask(), model.next()) : model.next();
    CHECK(!constraint || constraint->take(token), token);
    const bool may_end = std::ssize(output.tokens) >= sampling.min_tokens;
    output.tokens.push_back(token);
    model.feed(token);
    if (constraint && constraint->ended()) {
      output.stop_cause = StopCause::kEndOfSequence;
    } else if (may_end && std::ranges::count(sampling.stop_token_ids, token)) {
      output.stop_cause = StopCause::kStopToken;
    } else if (may_end && !sampling.ignore_eos &&
               std::ranges::count(request.eos_token_ids, token)) {
      output.stop_cause = StopCause::kEndOfSequence;
    } else if (std::ssize(output.tokens) >= sampling.max_tokens) {
      output.stop_cause = StopCause::kMaxTokens;
    } else if (std::ssize(request.prompt) + std::ssize(output.tokens) >= max_model_len) {
      output.stop_cause = StopCause::kMaxModelLen;
    }
  }
  return output;
}

class World {
 public:
  explicit World(uint32_t seed)
      : random_(seed),
        has_troubles_(uniform(0, 1)),
        tier_(uniform(0, 1) ? make_tier() : nullptr),
        scheduler_(random_config(), tier_.get()),
        config_(scheduler_.config()),
        executor_(config_, scheduler_.kv_cache(), seed) {}

  void run() {
    for (int64_t num_calls = 0; num_to_add_ > 0 || !scheduler_.idle(); ++num_calls) {
      CHECK(num_calls < 100'000, "no end in sight");
      if (num_to_add_ > 0 && uniform(0, rush_) == 0) add_some();
      if (has_troubles_ && uniform(0, 15) == 0) end_one();
      if (has_troubles_ && uniform(0, 15) == 0) change_leases();
      const bool may_plan = scheduler_.num_steps_in_flight() < config_.max_steps_in_flight;
      const bool may_read = scheduler_.num_steps_in_flight() > 0;
      if (may_plan && (!may_read || uniform(0, 1))) {
        plan();
      } else {
        read();
      }
      while (tier_ && uniform(0, 2) == 0 && tier_->run_one()) {
      }
      if (tier_) tier_->check_integrity();
      scheduler_.check_integrity();
      now_us_ += uniform(0, 20'000);
    }
    check_end();
  }

  SchedulerStats stats() const { return scheduler_.stats(); }
  int num_documents() const { return num_documents_; }

 private:
  struct Client {
    SequenceRequest request;
    Output expected;
    Output output;
    bool ended_outside = false;
  };

  int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  std::unique_ptr<HostTier> make_tier() {
    const HostTier::Config config{uniform(1, 60), uniform(1, 8), /*own_thread=*/false};
    return std::make_unique<HostTier>(config, [this](const HostTier::Job& job) {
      const bool fails = has_troubles_ && uniform(0, 30) == 0;
      if (!fails) executor_.copy_page(job);
      return !fails;
    });
  }

  SchedulerConfig random_config() {
    SchedulerConfig config;
    config.max_num_slots = uniform(1, 12);
    config.draft_len = uniform(0, 1) ? 0 : uniform(1, 3);
    if (uniform(0, 1)) {
      config.draft_policy = {.max_rows = uniform(1, 4), .min_tokens = 1.0 + 0.5 * uniform(0, 4)};
    }
    config.max_steps_in_flight = uniform(1, 2);
    config.max_model_len = uniform(20, 600);
    const int32_t min_pages = config.max_pages_per_slot();
    config.num_pages = uniform(0, 2) ? uniform(min_pages, 2 * min_pages + 2) : uniform(40, 80);
    config.max_batched_tokens =
        config.max_num_slots * (1 + config.draft_len) + (uniform(0, 1) ? uniform(0, 20) : 256);
    config.max_chunk_tokens = uniform(0, 1) ? uniform(1, 40) : 512;
    config.enable_prefix_cache = uniform(0, 4) > 0;
    config.exact_prefix_reuse = uniform(0, 1);
    config.watermark = uniform(0, 1) ? 0.0 : 0.1;
    if (uniform(0, 1)) config.decode_batch_sizes = {1, 2, 4, 8, 16};
    return config;
  }

  // Prompts of a few families share beginnings; some are exact copies of an earlier one.
  std::vector<int32_t> random_prompt() {
    if (!clients_.empty() && uniform(0, 3) == 0) {
      const Client& earlier = std::next(clients_.begin(), uniform(0, clients_.size() - 1))->second;
      std::vector<int32_t> prompt = earlier.request.prompt;
      if (uniform(0, 1)) {  // a next turn: the earlier answer and some more
        prompt.insert(prompt.end(), earlier.output.tokens.begin(), earlier.output.tokens.end());
        prompt.push_back(uniform(0, 5));
      }
      if (std::ssize(prompt) < config_.max_model_len) return prompt;
    }
    const int32_t length = uniform(
        1, uniform(0, 1) ? std::min(30, config_.max_model_len - 1) : config_.max_model_len - 1);
    const int32_t family = uniform(0, 2), num_common = uniform(0, length);
    std::vector<int32_t> prompt(length);
    for (int32_t i = 0; i < length; ++i) {
      prompt[i] = i < num_common ? (i * 7 + family) % kFakeVocabSize : uniform(0, 5);
    }
    return prompt;
  }

  void add_some() {
    for (int count = std::min(uniform(1, 4), num_to_add_); count > 0; --count, --num_to_add_) {
      auto sampling = std::make_shared<SamplingParams>();
      sampling->max_tokens = uniform(1, uniform(0, 2) ? config_.max_model_len : 8);
      sampling->min_tokens = uniform(0, 3) ? 0 : uniform(0, std::min(20, sampling->max_tokens));
      sampling->ignore_eos = uniform(0, 3) > 0;
      if (uniform(0, 5) == 0) sampling->stop_token_ids = {uniform(1, 40)};
      const uint64_t tenant = uniform(0, 1);
      SequenceRequest request{.sequence_id = ++last_sequence_id_,
                              .prompt = random_prompt(),
                              .sampling = std::move(sampling),
                              .rng_seed = last_sequence_id_ * 4 + tenant,
                              .eos_token_ids = {0},
                              .cache_salt = tenant ? "salt" : "",
                              .arrival_us = now_us_,
                              .priority = uniform(0, 9) ? 0 : uniform(-2, 2),
                              .retention = static_cast<Retention>(uniform(0, 2))};
      Client& client = clients_[request.sequence_id];
      if (uniform(0, 2) == 0) request.constraint = constraint_of(uniform(0, 5));
      client.request = request;
      client.expected = generate_alone(request, config_.max_model_len);
      CHECK(scheduler_.add(std::move(request)).ok());
    }
  }

  void end_one() {
    if (clients_.empty()) return;
    const uint64_t sequence_id = 1 + uniform(0, static_cast<int>(last_sequence_id_) - 1);
    scheduler_.finish(sequence_id);
    clients_.at(sequence_id).ended_outside = true;
  }

  void change_leases() {
    if (!leases_.empty() && uniform(0, 2)) {
      leases_.erase(leases_.begin() + uniform(0, leases_.size() - 1));
    } else if (!last_granted_.empty() && scheduler_.num_steps_in_flight() > 0) {
      leases_.push_back(scheduler_.kv_cache().lease(last_granted_));
    }
    for (const PageLease& lease : leases_) {
      for (size_t i = 0; i < lease.pages().size(); ++i) {
        CHECK(scheduler_.kv_cache().epoch(lease.pages()[i]) == lease.epochs()[i]);
      }
    }
  }

  void plan() {
    StepPlan plan = scheduler_.plan(now_us_);
    if (plan.has_work()) {
      // Pages granted by the newest step in flight are surely held.
      last_granted_.clear();
      for (const PageGrant& grant : plan.page_grants) last_granted_ = grant.pages;
      executor_.launch(std::move(plan));
    } else if (!leases_.empty()) {
      leases_.clear();
    } else if (tier_ && tier_->busy()) {
      tier_->run_one();
    } else {
      const SchedulerStats stats = scheduler_.stats();
      CHECK(scheduler_.num_steps_in_flight() > 0 || stats.num_running + stats.num_waiting == 0,
            "stuck", stats.num_running, stats.num_waiting);
    }
  }

  void read() {
    if (scheduler_.num_steps_in_flight() == 0) return;
    last_granted_.clear();
    const int trouble = has_troubles_ ? uniform(0, 200) : 200;
    if (trouble == 0) {
      take(scheduler_.fail_step(executor_.fail_oldest()));
      return;
    }
    StepResult result = executor_.run_oldest();
    if (trouble == 1) {
      result.rows.push_back({.slot = 0, .tokens = {1}});
      const uint64_t step_id = result.step_id;
      EXPECT_THROW(scheduler_.apply(std::move(result)), CheckFailure);
      scheduler_.check_integrity();
      take(scheduler_.fail_step(step_id));
      return;
    }
    take(scheduler_.apply(std::move(result)));
  }

  void take(const std::vector<SequenceUpdate>& updates) {
    for (const SequenceUpdate& update : updates) {
      Client& client = clients_.at(update.sequence_id);
      CHECK(!client.ended_outside, "news of a sequence that was ended", update.sequence_id);
      CHECK(!client.output.stop_cause, "news after the last", update.sequence_id);
      CHECK(update.num_cached_tokens < std::ssize(client.request.prompt));
      auto& tokens = client.output.tokens;
      tokens.insert(tokens.end(), update.tokens.begin(), update.tokens.end());
      client.output.stop_cause = update.stop_cause;
    }
  }

  void check_end() {
    for (const auto& [sequence_id, client] : clients_) {
      const Output& output = client.output;
      const OutputConstraint& constraint = client.request.constraint;
      if (constraint && output.stop_cause == StopCause::kEndOfSequence &&
          constraint.after_token == OutputConstraint::kFromTheStart) {
        std::string text;
        for (const int32_t token : std::span(output.tokens).first(output.tokens.size() - 1)) {
          text += token == 256 ? "\":" : token == 257 ? "true" : std::string(1, char(token));
        }
        ASSERT_TRUE(nlohmann::json::accept(text)) << text;
        ++num_documents_;
      }
      const bool cut_short = client.ended_outside || output.stop_cause == StopCause::kStepFailed;
      if (cut_short) {
        ASSERT_LE(output.tokens.size(), client.expected.tokens.size()) << sequence_id;
        ASSERT_TRUE(std::ranges::equal(
            output.tokens, std::span(client.expected.tokens).first(output.tokens.size())))
            << sequence_id;
      } else {
        ASSERT_TRUE(output.stop_cause.has_value()) << sequence_id;
        ASSERT_EQ(output.tokens, client.expected.tokens) << sequence_id;
        ASSERT_EQ(*output.stop_cause, *client.expected.stop_cause) << sequence_id;
      }
    }
    leases_.clear();
    scheduler_.check_integrity();
    ASSERT_EQ(scheduler_.kv_cache().num_holds(), 0);
    ASSERT_EQ(scheduler_.kv_cache().num_available(), config_.num_pages);
  }

  std::mt19937 random_;
  const bool has_troubles_;
  std::unique_ptr<HostTier> tier_;
  Scheduler scheduler_;
  const SchedulerConfig& config_;
  FakeExecutor executor_;
  int64_t now_us_ = 0;
  const int rush_ = uniform(0, 1) ? 0 : 20;  // clients come all at once, or now and then
  int num_to_add_ = 40;
  uint64_t last_sequence_id_ = 0;
  std::map<uint64_t, Client> clients_;
  int num_documents_ = 0;  // constrained outputs that came to their end
  std::vector<PageId> last_granted_;
  std::vector<PageLease> leases_;
};

TEST(SchedulerRandom, OutputsEqualTheOutputsAlone) {
  SchedulerStats total;
  int num_documents = 0;
  for (uint32_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    World world(seed);
    ASSERT_NO_THROW(world.run());
    if (HasFatalFailure()) return;
    num_documents += world.num_documents();
    const SchedulerStats stats = world.stats();
    total.num_steps += stats.num_steps;
    total.num_preemptions += stats.num_preemptions;
    total.num_stalled_rows += stats.num_stalled_rows;
    total.num_dropped_rows += stats.num_dropped_rows;
    total.kv.hit_tokens += stats.kv.hit_tokens;
    total.kv.num_evictions += stats.kv.num_evictions;
    total.source.num_saved += stats.source.num_saved;
    total.source.num_loaded += stats.source.num_loaded;
  }
  // The worlds are worth their time only if everything happens in them.
  fmt::print(
      "steps {}, preemptions {}, stalled rows {}, dropped rows {}, hit tokens {}, evictions {}\n",
      total.num_steps, total.num_preemptions, total.num_stalled_rows, total.num_dropped_rows,
      total.kv.hit_tokens, total.kv.num_evictions);
  fmt::print("documents {}, pages to the host {}, from it {}\n", num_documents,
             total.source.num_saved, total.source.num_loaded);
  EXPECT_GT(total.source.num_loaded, 300);
  EXPECT_GT(num_documents, 300);
  EXPECT_GT(total.num_steps, 200'000);
  EXPECT_GT(total.num_preemptions, 500);
  EXPECT_GT(total.num_stalled_rows, 2'000);
  EXPECT_GT(total.num_dropped_rows, 1'000);
  EXPECT_GT(total.kv.hit_tokens, 100'000);
  EXPECT_GT(total.kv.num_evictions, 5'000);
}

}  // namespace
}  // namespace deepflight
