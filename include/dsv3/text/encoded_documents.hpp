// SPDX-License-Identifier: MIT
// Texts that a tokenizer has encoded, held in memory; in every pass others have their middle last.
#pragma once

#include <dsv3/text/document_encoder.hpp>
#include <dsv3/text/parallel_tasks.hpp>
#include <dsv3/text/token_documents.hpp>

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Encoded once on `threads` threads; what fill-in-the-middle tells otherwise is encoded again for each pass.
/// The texts must outlive the documents.
class encoded_documents final : public token_documents {
 public:
  encoded_documents(std::vector<std::string_view> texts, tokenizer words, int threads,
                    fill_in_middle fim = {})
      : texts_(std::move(texts)),
        words_(std::move(words)),
        threads_(std::max(threads, 1)),
        fim_(fim),
        in_order_(texts_.size()) {
    require(document_marks{words_}.check(fim.rate > 0));
    std::vector<document_encoder> encoders = encoders_with({});
    parallel_tasks(threads_, count(), [&](index_t slot, index_t d) {
      in_order_[static_cast<std::size_t>(d)] = encoders[static_cast<std::size_t>(slot)].encode(text(d));
    });
  }

  index_t count() const override { return static_cast<index_t>(texts_.size()); }
  index_t length(index_t document) const override { return static_cast<index_t>(ids(document).size()); }
  void read(index_t document, index_t offset, view<std::int32_t, 1> to) const override {
    const std::int32_t* from = ids(document).data() + offset;
    for (index_t i = 0; i < to.size(); ++i) to(i) = from[i];
  }

  void begin_pass(index_t pass) override {
    rearranged_.clear();
    if (fim_.rate <= 0) return;
    for (index_t d = 0; d < count(); ++d)
      if (fim_.cut(text(d), d, pass)) rearranged_[d];
    std::vector<std::pair<const index_t, std::vector<std::int32_t>>*> chosen;
    for (auto& entry : rearranged_) chosen.push_back(&entry);
    std::vector<document_encoder> encoders = encoders_with(fim_);
    parallel_tasks(threads_, static_cast<index_t>(chosen.size()), [&](index_t slot, index_t c) {
      auto& [document, tokens] = *chosen[static_cast<std::size_t>(c)];
      tokens = encoders[static_cast<std::size_t>(slot)].encode(text(document), document, pass);
    });
  }

 private:
  // One for each thread.
  std::vector<document_encoder> encoders_with(fill_in_middle fim) const {
    std::vector<document_encoder> encoders;
    for (int slot = 0; slot < threads_; ++slot) encoders.emplace_back(words_, fim);
    return encoders;
  }

  std::string_view text(index_t document) const { return texts_[static_cast<std::size_t>(document)]; }
  const std::vector<std::int32_t>& ids(index_t document) const {
    const auto found = rearranged_.find(document);
    return found == rearranged_.end() ? in_order_[static_cast<std::size_t>(document)] : found->second;
  }

  std::vector<std::string_view> texts_;
  tokenizer words_;
  int threads_;
  fill_in_middle fim_;
  std::vector<std::vector<std::int32_t>> in_order_;
  std::unordered_map<index_t, std::vector<std::int32_t>> rearranged_;  // of the pass at hand
};

}  // namespace dsv3::inline DSV3_ABI
