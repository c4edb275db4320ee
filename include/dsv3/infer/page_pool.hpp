// SPDX-License-Identifier: MIT
// Which pages of a cache are free, and how many sequences hold each of the others.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/base/index.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// Numbers of pages with a count of references each; the memory is somebody else's. Every act takes constant
/// time, and which page comes next is a function of what was asked before: the one released last, at first
/// 0, 1, 2, ...
class page_pool {
 public:
  explicit page_pool(index_t pages) {
    if (pages < 0 || pages > std::numeric_limits<std::int32_t>::max())
      raise("page_pool: " + std::to_string(pages) + " pages asked for, expected 0 to 2147483647");
    references_.assign(static_cast<std::size_t>(pages), 0);
    free_.reserve(references_.size());
    for (index_t page = pages; page-- > 0;) free_.push_back(static_cast<std::int32_t>(page));
  }

  /// A free page, held once from now on.
  std::int32_t allocate() {
    require(can_take(1));
    const std::int32_t page = free_.back();
    free_.pop_back();
    references_[static_cast<std::size_t>(page)] = 1;
    return page;
  }

  /// One more holder of a page that is held.
  void share(std::int32_t page) { ++held(page, "share"); }

  /// One holder less; without any the page is free.
  void release(std::int32_t page) {
    if (--held(page, "release") == 0) free_.push_back(page);
  }

  /// How many hold the page; 0: it is free.
  index_t references(std::int32_t page) const {
    require_inside(page, "references");
    return references_[static_cast<std::size_t>(page)];
  }

  index_t pages() const { return static_cast<index_t>(references_.size()); }
  index_t free_pages() const { return static_cast<index_t>(free_.size()); }

  /// Whether so many pages can be allocated now.
  status can_take(index_t wanted) const {
    if (wanted <= free_pages()) return {};
    return status{"latent cache: " + std::to_string(wanted) +
                  (wanted == 1 ? " more page needed, " : " more pages needed, ") +
                  std::to_string(free_pages()) + " of " + std::to_string(pages()) +
                  " are free; give it more tokens or fewer sequences"};
  }

 private:
  void require_inside(std::int32_t page, const char* act) const {
    if (page < 0 || page >= pages())
      raise(std::string("page_pool.") + act + ": there is no page " + std::to_string(page) +
            (pages() == 0 ? ", the pool is empty" : ", expected one of 0 to " + std::to_string(pages() - 1)));
  }
  index_t& held(std::int32_t page, const char* act) {
    require_inside(page, act);
    index_t& count = references_[static_cast<std::size_t>(page)];
    if (count == 0)
      raise(std::string("page_pool.") + act + ": page " + std::to_string(page) +
            " is free, expected one that is held");
    return count;
  }

  std::vector<index_t> references_;  // by page
  std::vector<std::int32_t> free_;   // the last one goes next
};

}  // namespace dsv3::inline DSV3_ABI
