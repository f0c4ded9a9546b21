// A server without a model, for tests with real clients: its engine answers a chat with the last
// user message, after a line of reasoning, and a completion with its prompt, a token (byte) at a
// time. Prints its address, then a line for each cancelled request. SIGTERM drains it.
//
//   echo_server [--token-us N] [--prefill-tokens N] [--port N]
//
// The first token comes as late as N + 1 others: for clients that measure.
#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "base/log.h"
#include "server/server.h"
#include "server/test_support.h"

namespace deepflight {
namespace {

constexpr std::string_view kReasoning = "I repeat what I am told.";

// What is left to send of one choice.
struct EchoChoice {
  std::deque<GenerationEvent> events;
};

struct EchoRequest {
  GenerationRequest request;
  EventCallback on_event;
  std::vector<EchoChoice> choices;
  int num_prefill_steps = 0;  // left
};

class EchoService : public InferenceService {
 public:
  EchoService(const Tokenizer& tokenizer, int token_us, int num_prefill_steps)
      : tokenizer_(tokenizer),
        token_us_(token_us),
        num_prefill_steps_(num_prefill_steps),
        thread_([this] { run(); }) {}

  ~EchoService() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  const ModelInfo& model_info() const override { return info_; }
  ServiceStats stats() const override { return {}; }

  Status submit(GenerationRequest request, EventCallback on_event) override {
    EchoRequest echo{std::move(request), std::move(on_event), {}, num_prefill_steps_};
    for (int i = 0; i < echo.request.sampling.num_choices; ++i) {
      echo.choices.push_back(plan(echo.request, i));
    }
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(std::move(echo));
    }
    wake_.notify_all();
    return ok_status();
  }

  void cancel(const std::string& request_id) override {
    const std::lock_guard lock(mutex_);
    cancellations_.push_back(request_id);
  }

 private:
  EchoChoice plan(const GenerationRequest& request, int choice_idx) const;
  std::string answer_to(const std::vector<int32_t>& prompt, int choice_idx) const;
  std::vector<OutputLogprob> logprobs_of(int32_t token_id, int num_top) const;
  void run();
  void take_cancellations();
  void step();

  const Tokenizer& tokenizer_;
  const int token_us_;
  const int num_prefill_steps_;
  const ModelInfo info_{.name = "echo",
                        .vocab_size = kTestVocabSize,
                        .max_model_len = 4096,
                        .eos_token_ids = {kTestEosId}};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<EchoRequest> requests_;
  std::vector<std::string> cancellations_;
  bool stopping_ = false;
  std::thread thread_;
};

std::string EchoService::answer_to(const std::vector<int32_t>& prompt, int choice_idx) const {
  auto begin = prompt.begin();
  auto end = prompt.end();
  const auto last_user = std::find(prompt.rbegin(), prompt.rend(), kTestUserId);
  if (last_user != prompt.rend()) {
    begin = last_user.base();
    end = std::find(begin, prompt.end(), kTestAssistantId);
  }
  std::string text = tokenizer_.decode({begin, end}, true);
  if (choice_idx > 0) text += " (" + std::to_string(choice_idx) + ")";
  const bool thinking = std::find(end, prompt.end(), kTestThinkId) != prompt.end();
  return thinking ? std::string(kReasoning) + "</think>\n\n" + text : text;
}

std::vector<OutputLogprob> EchoService::logprobs_of(int32_t token_id, int num_top) const {
  OutputLogprob entry{token_id, -0.25f, {}};
  for (int i = 0; i < num_top; ++i) {
    entry.top.emplace_back((token_id + i) % kTestVocabSize, -0.25f - static_cast<float>(i));
  }
  return {entry};
}

// All events of a choice, one for each token; its length, stop strings and end are known ahead.
EchoChoice EchoService::plan(const GenerationRequest& request, int choice_idx) const {
  const SamplingParams& sampling = request.sampling;
  const std::string text = answer_to(request.prompt_token_ids, choice_idx);
  std::vector<int32_t> token_ids =
      tokenizer_.encode(text, {.add_special_tokens = false, .parse_special = true}).value();
  if (sampling.ignore_eos) {
    const size_t period = std::max<size_t>(token_ids.size(), 1);
    token_ids.resize(static_cast<size_t>(sampling.max_tokens), 'x');
    for (size_t i = period; i < token_ids.size(); ++i) token_ids[i] = token_ids[i - period];
  } else {
    token_ids.push_back(kTestEosId);
  }
  std::string whole = tokenizer_.decode(token_ids, true);
  std::string matched;
  for (const std::string& stop : sampling.stop) {
    const size_t at = whole.find(stop);
    if (at == std::string::npos) continue;
    whole.resize(at);
    matched = stop;
  }
  EchoChoice choice;
  IncrementalDetokenizer detokenizer(tokenizer_, true);
  std::string so_far;
  for (size_t i = 0; i < token_ids.size(); ++i) {
    GenerationEvent event;
    event.choice_idx = choice_idx;
    event.token_ids = {token_ids[i]};
    const size_t shown = so_far.size();
    so_far += detokenizer.push(token_ids[i]);
    event.text = so_far.substr(shown);
    if (sampling.num_logprobs) event.logprobs = logprobs_of(token_ids[i], *sampling.num_logprobs);
    if (!matched.empty() && so_far.size() >= whole.size() + matched.size()) {
      event.finish_reason = FinishReason::kStop;
      event.matched_stop = matched;
    } else if (token_ids[i] == kTestEosId) {
      event.finish_reason = FinishReason::kStop;
    } else if (static_cast<int>(i) + 1 == sampling.max_tokens) {
      event.finish_reason = FinishReason::kLength;
    }
    // Nothing of a stop string is shown.
    event.text.resize(std::min(event.text.size(), whole.size() - std::min(whole.size(), shown)));
    choice.events.push_back(std::move(event));
    if (choice.events.back().finish_reason) break;
  }
  return choice;
}

void EchoService::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    wake_.wait(lock, [this] { return stopping_ || !requests_.empty(); });
    take_cancellations();
    step();
    if (token_us_ > 0) {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(token_us_));
      lock.lock();
    }
  }
}

void EchoService::take_cancellations() {
  for (const std::string& id : cancellations_) {
    for (EchoRequest& echo : requests_) {
      if (echo.request.request_id != id) continue;
      for (size_t i = 0; i < echo.choices.size(); ++i) {
        if (echo.choices[i].events.empty()) continue;
        echo.choices[i].events = {end_event(FinishReason::kAbort, static_cast<int>(i))};
      }
      std::printf("cancelled %s\n", id.c_str());
      std::fflush(stdout);
    }
  }
  cancellations_.clear();
}

// One token of every choice, or one step nearer to the first.
void EchoService::step() {
  for (EchoRequest& echo : requests_) {
    if (echo.num_prefill_steps > 0) {
      --echo.num_prefill_steps;
      continue;
    }
    for (EchoChoice& choice : echo.choices) {
      if (choice.events.empty()) continue;
      echo.on_event(std::move(choice.events.front()));
      choice.events.pop_front();
    }
  }
  std::erase_if(requests_, [](const EchoRequest& echo) {
    return std::ranges::all_of(echo.choices,
                               [](const auto& choice) { return choice.events.empty(); });
  });
}

int run_echo_server(int token_us, int num_prefill_steps, int port) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const Tokenizer tokenizer = test_tokenizer();
  const TokenizerConfig config = test_tokenizer_config();
  const ChatTemplate chat_template = test_chat_template();
  EchoService service(tokenizer, token_us, num_prefill_steps);
  ServerConfig server_config;
  server_config.http.port = static_cast<uint16_t>(port);
  Server server(server_config, service, {tokenizer, config, &chat_template});
  if (const Status status = server.start(); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.error().message.c_str());
    return 2;
  }
  std::printf("listening on http://127.0.0.1:%d\n", server.port());
  std::fflush(stdout);
  int received = 0;
  sigwait(&signals, &received);
  const bool all_ended = server.drain(std::chrono::seconds(10));
  server.stop();
  return all_ended ? 0 : 1;
}

}  // namespace
}  // namespace deepflight

int main(int argc, char** argv) {
  int token_us = 0, num_prefill_steps = 0, port = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::string_view(argv[i]) == "--token-us") token_us = std::atoi(argv[i + 1]);
    if (std::string_view(argv[i]) == "--prefill-tokens") num_prefill_steps = std::atoi(argv[i + 1]);
    if (std::string_view(argv[i]) == "--port") port = std::atoi(argv[i + 1]);
  }
  return deepflight::run_echo_server(token_us, num_prefill_steps, port);
}
