// SPDX-License-Identifier: MIT
// The sequences that are being generated, and their rows of the latent caches.
#pragma once

#include <dsv3/infer/page_pool.hpp>
#include <dsv3/model/bundles.hpp>
#include <dsv3/op/memory/copy.hpp>
#include <dsv3/op/sample/sampling_options.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// One sequence: the prompt and what followed. All of its tokens but the last have a row in the caches once
/// the prompt is read.
struct decoding_sequence {
  std::vector<std::int32_t> tokens = {};  // committed
  index_t prompt_tokens = 0;              // how many of them were given
  index_t cached = 0;                     // rows in use of the main blocks' caches: of the first tokens
  index_t drafted = 0;                    // the same of the MTP module, whose row i also holds token i + 1
  std::vector<std::int32_t> drafts = {};  // proposed to follow, not committed
  sampling_options sampling = {};
  std::uint64_t seed = 0;
  std::vector<std::int32_t> pages = {};  // where its rows lie
};

struct decoding_config {
  model_config model = {};
  index_t sequences = 1;  // at a time
  index_t longest = 0;    // tokens of one sequence, drafts included
  index_t tokens = 0;     // rows for all of them together; 0: sequences * longest
  bool drafts = false;    // whether the MTP module needs rows as well
};

/// Memory for so many sequences, which begin and end as they like. A sequence that begins like one that is
/// there shares its pages; who writes into a shared page gets a copy first.
template <precision P, layout_policy L = default_layout>
class decoding_state {
 public:
  decoding_state(memory_resource& memory, const decoding_config& config)
      : config_(checked(config)),
        cache_(memory, cache_config(config)),
        pool_(cache_.config.pages),
        slots_(static_cast<std::size_t>(config.sequences)),
        open_(slots_.size(), false) {}

  const decoding_config& config() const { return config_; }
  const model_cache<P, L>& cache() const { return cache_; }
  const page_pool& pool() const { return pool_; }
  index_t page_rows() const { return cache_.config.page_rows; }
  std::size_t cache_bytes() const { return cache_.bytes(); }
  /// Cache of one token in all blocks that have one.
  index_t token_bytes() const {
    return cache_.config.layers() * cache_.rows.extent(3) * index_t{sizeof(cache_element<P, L>)};
  }

  bool is_open(index_t slot) const { return open_.at(at(slot)); }
  index_t open_sequences() const {
    return static_cast<index_t>(std::count(open_.begin(), open_.end(), true));
  }
  decoding_sequence& operator[](index_t slot) { return slots_.at(at(slot)); }
  const decoding_sequence& operator[](index_t slot) const { return slots_.at(at(slot)); }

  /// Begins a sequence in a free slot and returns its number. Where a sequence that is there begins with the
  /// same tokens, their rows are shared and need not be computed; at least the last token is left.
  index_t open(std::vector<std::int32_t> prompt, const sampling_options& sampling = {},
               std::uint64_t seed = 0) {
    require(check_prompt(prompt));
    require(sampling.check());
    const auto found = std::find(open_.begin(), open_.end(), false);
    if (found == open_.end())
      raise("decoding state: all " + std::to_string(config_.sequences) + " sequences are taken");
    const auto slot = static_cast<index_t>(found - open_.begin());
    decoding_sequence s{.tokens = std::move(prompt), .sampling = sampling, .seed = seed};
    s.prompt_tokens = static_cast<index_t>(s.tokens.size());
    slots_[at(slot)] = std::move(s);
    open_[at(slot)] = true;
    share_prefix(slot);
    return slot;
  }

  /// Looks again for rows to share, before a sequence has any of its own. Returns how many were found.
  index_t share_prefix(index_t slot) {
    decoding_sequence& s = opened(slot);
    if (s.cached > 0) return 0;
    const decoding_sequence* best = nullptr;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (!open_[i]) continue;
      const decoding_sequence& other = slots_[i];
      const auto end =
          std::mismatch(s.tokens.begin(), s.tokens.end(), other.tokens.begin(), other.tokens.end());
      index_t rows = static_cast<index_t>(end.first - s.tokens.begin());
      // Row i of the MTP module holds token i + 1 too, so with drafts one more token must be the same.
      if (config_.drafts) rows = std::min(rows - 1, other.drafted);
      rows = std::min({rows, other.cached, static_cast<index_t>(s.tokens.size()) - 1});
      if (rows > s.cached) s.cached = rows, best = &other;
    }
    if (best == nullptr) return 0;
    if (config_.drafts) s.drafted = s.cached;
    s.pages.assign(best->pages.begin(), best->pages.begin() + pages_of(s.cached));
    for (const std::int32_t page : s.pages) pool_.share(page);
    return s.cached;
  }

  /// Ends a sequence; pages that nobody else holds are free again.
  void close(index_t slot) {
    decoding_sequence& s = opened(slot);
    for (const std::int32_t page : s.pages) pool_.release(page);
    s = {};
    open_[at(slot)] = false;
  }

  /// Pages that a sequence of so many tokens needs at most.
  index_t pages_of(index_t tokens) const { return ceil_div(tokens, page_rows()); }

  /// Good, or why a sequence cannot begin with this.
  status check_prompt(const std::vector<std::int32_t>& prompt) const {
    if (prompt.empty()) return status{"prompt: it has no token, expected at least one"};
    for (std::size_t i = 0; i < prompt.size(); ++i)
      if (prompt[i] < 0 || prompt[i] >= config_.model.vocab)
        return status{"prompt: token " + std::to_string(i) + " is " + std::to_string(prompt[i]) +
                      ", the model's vocabulary ends at " + std::to_string(config_.model.vocab - 1)};
    if (static_cast<index_t>(prompt.size()) > config_.longest)
      return status{"prompt: " + std::to_string(prompt.size()) + " tokens, a sequence may have " +
                    std::to_string(config_.longest)};
    return {};
  }

  /// Afterwards the rows [first, last) of a sequence exist and nobody else sees what is written there.
  template <execution_context Ctx>
  void reserve(Ctx& ctx, index_t slot, index_t first, index_t last) {
    decoding_sequence& s = opened(slot);
    const index_t held = static_cast<index_t>(s.pages.size());
    for (index_t p = first / page_rows(); p < std::min(held, pages_of(last)); ++p)
      make_own(ctx, s.pages[at(p)], std::max(first - p * page_rows(), index_t{0}));
    require(pool_.can_take(pages_of(last) - held));
    while (static_cast<index_t>(s.pages.size()) < pages_of(last)) s.pages.push_back(pool_.allocate());
  }

  /// Gives back the pages beyond the rows in use: what discarded drafts had.
  void trim(index_t slot) {
    decoding_sequence& s = opened(slot);
    while (static_cast<index_t>(s.pages.size()) > pages_of(std::max(s.cached, s.drafted))) {
      pool_.release(s.pages.back());
      s.pages.pop_back();
    }
  }

 private:
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  static const decoding_config& checked(const decoding_config& c) {
    if (c.sequences < 1 || c.longest < 1 || c.tokens < 0)
      raise("decoding state: " + std::to_string(c.sequences) + " sequences of " + std::to_string(c.longest) +
            " tokens in a cache of " + std::to_string(c.tokens) + ", expected positive numbers");
    if (c.longest > c.model.max_positions)
      raise("decoding state: sequences of " + std::to_string(c.longest) + " tokens, the model has " +
            std::to_string(c.model.max_positions) + " positions");
    if (c.drafts && c.model.mtp_depth == 0)
      raise("decoding state: drafts need an MTP module, the model has none (num_nextn_predict_layers is 0)");
    return c;
  }

  static model_cache_config cache_config(const decoding_config& c) {
    const index_t page_rows = L::cache::page_rows > 0 ? L::cache::page_rows : c.longest;
    const index_t tokens = c.tokens > 0 ? c.tokens : c.sequences * round_up(c.longest, page_rows);
    model_cache_config result{c.model, ceil_div(tokens, page_rows), page_rows};
    result.model.mtp_depth = c.drafts ? 1 : 0;  // drafting applies the first module again and again
    return result;
  }

  decoding_sequence& opened(index_t slot) {
    if (!is_open(slot)) raise("decoding state: sequence " + std::to_string(slot) + " is not open");
    return slots_[at(slot)];
  }

  // Replaces a shared page by a copy of its first `rows` rows in every block.
  template <class Ctx>
  void make_own(Ctx& ctx, std::int32_t& page, index_t rows) {
    if (pool_.references(page) == 1) return;
    const std::int32_t copy = pool_.allocate();
    const index_t blocks = cache_.rows.extent(0), values = rows * cache_.rows.extent(3);
    const auto first_rows = [&](std::int32_t of) {
      const index_t extents[] = {blocks, values}, strides[] = {cache_.rows.stride(0), 1};
      return view<cache_element<P, L>, 2>{cache_.rows.data() + of * cache_.rows.stride(1), extents, strides};
    };
    op::copy<cache_element<P, L>, cache_element<P, L>>::forward(
        ctx, {.x = first_rows(page), .y = first_rows(copy)});
    pool_.release(page);
    page = copy;
  }

  decoding_config config_;
  owned<model_cache<P, L>> cache_;
  page_pool pool_;
  std::vector<decoding_sequence> slots_;
  std::vector<bool> open_;
};

}  // namespace dsv3::inline DSV3_ABI
