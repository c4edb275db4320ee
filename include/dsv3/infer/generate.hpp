// SPDX-License-Identifier: MIT
// Continuous batching: requests come, run beside each other and leave when they are finished.
#pragma once

#include <dsv3/infer/speculative.hpp>
#include <dsv3/infer/stop.hpp>

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

struct generation_request {
  std::vector<std::int32_t> prompt;
  stop_conditions stop = {};
  sampling_options sampling = {};
  std::uint64_t seed = 0;  // the same request with the same seed is answered the same, whoever else is there
};

/// What a step brought one request.
struct generation_event {
  index_t request = 0;               // in the order of `add`, from 0
  std::vector<std::int32_t> tokens;  // committed by this step
  finish reason = finish::none;      // other than none: the last event of this request
  index_t mark = 0;                  // how many tokens at the end are a stop mark, not text
};

struct generation_counts {
  std::int64_t prompt_tokens = 0;   // read
  std::int64_t shared_tokens = 0;   // of prompts, found in the cache
  std::int64_t decoded_tokens = 0;  // committed by steps after the prompt
  std::int64_t decode_steps = 0;    // of the main model
  std::int64_t decoded_alone = 0;   // what these steps would have committed without drafts
  double prompt_seconds = 0, decode_seconds = 0;
};

/// Runs requests through a state and a decoder that fit each other. A request waits until the cache has room
/// for all it may ever need, so none that runs can be short of pages; the first to come is the first to run.
template <precision P, layout_policy L = default_layout>
class generator {
 public:
  generator(decoding_state<P, L>& state, speculative_decoder<P, L>& decoder)
      : state_(state), decoder_(decoder), running_(static_cast<std::size_t>(state.config().sequences)) {}

  /// Good, or why the request can never run.
  status check(const generation_request& request) const {
    if (status bad = state_.check_prompt(request.prompt); !bad) return bad;
    if (status bad = request.sampling.check(); !bad) return bad;
    if (status bad = request.stop.check(); !bad) return bad;
    if (need(request) <= state_.pool().pages()) return {};
    return status{"latent cache: the request needs " + std::to_string(need(request)) + " pages of " +
                  std::to_string(state_.page_rows()) + " rows (" + std::to_string(longest(request)) +
                  " tokens), the cache has " + std::to_string(state_.pool().pages())};
  }

  /// Queues a request and returns its number.
  index_t add(generation_request request) {
    require(check(request));
    waiting_.push_back({next_++, std::move(request), {}});
    return next_ - 1;
  }

  /// Forgets a request, whether it waits or runs. No event follows.
  void cancel(index_t request) {
    std::erase_if(waiting_, [&](const job& j) { return j.number == request; });
    for (index_t slot = 0; slot < slots(); ++slot)
      if (running(slot) && at(slot).number == request) leave(slot);
  }

  bool busy() const { return !waiting_.empty() || state_.open_sequences() > 0; }
  const generation_counts& counts() const { return counts_; }

  /// Lets waiting requests in, reads one part of one prompt, and takes one decoding step for all whose
  /// prompts are read, which `execute` executes. The events are in the order of slots.
  template <execution_context Ctx, class Execute = directly>
  std::vector<generation_event> step(Ctx& ctx, Execute&& execute = {}) {
    std::vector<generation_event> events;
    admit(events);
    std::vector<index_t> ready;
    bool read = false;
    for (index_t slot = 0; slot < slots(); ++slot) {
      if (!running(slot)) continue;
      if (at(slot).prompt_read)
        ready.push_back(slot);
      else if (!std::exchange(read, true))
        read_prompt(ctx, slot, events, execute);
    }
    if (ready.empty()) return events;
    const stopwatch clock{counts_.decode_seconds};
    std::vector<index_t> before;
    for (const index_t slot : ready) before.push_back(tokens_of(slot));
    decoder_.verify(ctx, state_, ready, execute);
    std::vector<index_t> going;
    for (std::size_t i = 0; i < ready.size(); ++i) {
      counts_.decoded_tokens += tokens_of(ready[i]) - before[i];
      if (report(ready[i], before[i], events)) going.push_back(ready[i]);
    }
    decoder_.propose(ctx, state_, going, execute);
    ++counts_.decode_steps;
    counts_.decoded_alone += static_cast<std::int64_t>(ready.size());
    return events;
  }

 private:
  struct job {
    index_t number = 0;
    generation_request request;
    bool prompt_read = false;
  };

  // Adds the time it lives.
  class stopwatch {
   public:
    explicit stopwatch(double& seconds) : seconds_(seconds) {}
    ~stopwatch() { seconds_ += std::chrono::duration<double>(clock::now() - begin_).count(); }

   private:
    using clock = std::chrono::steady_clock;
    double& seconds_;
    clock::time_point begin_ = clock::now();
  };

  index_t slots() const { return state_.config().sequences; }
  bool running(index_t slot) const { return state_.is_open(slot); }
  job& at(index_t slot) { return running_[static_cast<std::size_t>(slot)]; }
  index_t tokens_of(index_t slot) const { return static_cast<index_t>(state_[slot].tokens.size()); }

  // Rows that a request may come to hold: the last token has none, drafts have some for a while.
  index_t longest(const generation_request& r) const {
    const auto prompt = static_cast<index_t>(r.prompt.size()), room = state_.config().longest - prompt;
    const index_t asked = r.stop.max_tokens > room ? room : r.stop.max_tokens;
    return std::min(prompt + asked + decoder_.options().draft_length, state_.config().longest);
  }
  index_t need(const generation_request& r) const { return state_.pages_of(longest(r)); }

  void admit(std::vector<generation_event>& events) {
    while (!waiting_.empty() && state_.open_sequences() < slots()) {
      job& next = waiting_.front();
      const index_t pages = need(next.request);
      if (promised_ + pages > state_.pool().pages()) return;
      const stop_point end = find_stop(next.request.stop, {}, {}, positions_left(next.request.prompt.size()));
      if (end.reason != finish::none) {  // nothing is wanted, or nothing fits
        events.push_back({next.number, {}, end.reason, 0});
      } else {
        const index_t slot = state_.open(next.request.prompt, next.request.sampling, next.request.seed);
        counts_.shared_tokens += state_[slot].cached;
        promised_ += pages;
        at(slot) = std::move(next);
      }
      waiting_.pop_front();
    }
  }

  template <class Ctx, class Execute>
  void read_prompt(Ctx& ctx, index_t slot, std::vector<generation_event>& events, Execute&& execute) {
    const stopwatch clock{counts_.prompt_seconds};
    counts_.shared_tokens += state_.share_prefix(slot);  // of one that was read since
    const index_t before = tokens_of(slot), cached = state_[slot].cached;
    at(slot).prompt_read = decoder_.prefill(ctx, state_, slot);
    counts_.prompt_tokens += state_[slot].cached - cached;
    if (!at(slot).prompt_read || !report(slot, before, events)) return;
    const index_t one[] = {slot};
    decoder_.propose(ctx, state_, one, execute);
  }

  // Tells what the tokens beyond the first `before` are. False where the sequence is finished and has left.
  bool report(index_t slot, index_t before, std::vector<generation_event>& events) {
    const decoding_sequence& s = state_[slot];
    const std::span<const std::int32_t> tokens(s.tokens);
    const auto known = tokens.subspan(0, static_cast<std::size_t>(before));
    const auto committed = tokens.subspan(static_cast<std::size_t>(before));
    const stop_point end =
        find_stop(at(slot).request.stop, known.subspan(static_cast<std::size_t>(s.prompt_tokens)), committed,
                  positions_left(known.size()));
    const auto kept = committed.first(static_cast<std::size_t>(end.tokens));
    events.push_back({at(slot).number, {kept.begin(), kept.end()}, end.reason, end.mark});
    if (end.reason == finish::none) return true;
    leave(slot);
    return false;
  }

  index_t positions_left(std::size_t tokens) const {
    return state_.config().longest - static_cast<index_t>(tokens);
  }

  void leave(index_t slot) {
    promised_ -= need(at(slot).request);
    state_.close(slot);
    at(slot) = {};
  }

  decoding_state<P, L>& state_;
  speculative_decoder<P, L>& decoder_;
  std::vector<job> running_;  // by slot
  std::deque<job> waiting_;
  index_t next_ = 0;
  index_t promised_ = 0;  // pages
  generation_counts counts_;
};

}  // namespace dsv3::inline DSV3_ABI
