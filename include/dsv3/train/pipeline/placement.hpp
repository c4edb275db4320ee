// SPDX-License-Identifier: MIT
// Where the stages of a model lie among the ranks of a pipeline, and which way micro-batches go through them.
#pragma once

#include <dsv3/base/error.hpp>

#include <string>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI::pipeline {

/// One of the stages that a rank holds: its chunks, counted from 0.
struct location {
  int rank = 0, chunk = 0;
  friend bool operator==(const location&, const location&) = default;
};

/// A route is a list of places, one for each stage of the model in order; every place lies on one route. A
/// micro-batch goes forward along a route and backward along the same.
class placement {
 public:
  placement() = default;
  explicit placement(std::vector<std::vector<location>> routes) : routes_(std::move(routes)) {
    for (const std::vector<location>& route : routes_)
      for (const location& at : route) {
        ranks_ = ranks_ > at.rank ? ranks_ : at.rank + 1;
        chunks_ = chunks_ > at.chunk ? chunks_ : at.chunk + 1;
      }
    where_.assign(static_cast<std::size_t>(ranks_ * chunks_), {});
    for (int route = 0; route < this->routes(); ++route) {
      if (routes_[index(route)].size() != routes_[0].size())
        raise("placement: route " + std::to_string(route) + " has " +
              std::to_string(routes_[index(route)].size()) + " stages, route 0 has " +
              std::to_string(routes_[0].size()));
      for (int stage = 0; stage < stages(); ++stage) {
        const location at = this->at(route, stage);
        position& found = where_[index(at.rank * chunks_ + at.chunk)];
        if (found.route >= 0)
          raise("placement: chunk " + std::to_string(at.chunk) + " of rank " + std::to_string(at.rank) +
                " stands twice, expected once");
        found = position{route, stage};
      }
    }
    for (const position& each : where_)
      if (each.route < 0) raise("placement: a rank has fewer chunks than another, expected as many");
  }

  /// Rank r holds stage r.
  static placement one_way(int ranks) {
    std::vector<location> route;
    for (int r = 0; r < ranks; ++r) route.push_back({r, 0});
    return placement{{route}};
  }
  /// Rank r holds stage r for micro-batches that enter at rank 0, and stage ranks - 1 - r for those that
  /// enter at the other end: every stage has two copies.
  static placement both_ways(int ranks) {
    std::vector<location> down, up;
    for (int r = 0; r < ranks; ++r) down.push_back({r, 0}), up.push_back({ranks - 1 - r, 1});
    return placement{{down, up}};
  }
  /// Rank r holds stages r and 2 ranks - 1 - r: down to the last rank and back, one copy of each.
  static placement folded(int ranks) {
    std::vector<location> route;
    for (int r = 0; r < ranks; ++r) route.push_back({r, 0});
    for (int r = ranks; r-- > 0;) route.push_back({r, 1});
    return placement{{route}};
  }

  int ranks() const { return ranks_; }
  int chunks() const { return chunks_; }  // of each rank
  int routes() const { return static_cast<int>(routes_.size()); }
  int stages() const { return routes_.empty() ? 0 : static_cast<int>(routes_[0].size()); }

  location at(int route, int stage) const { return routes_[index(route)][index(stage)]; }
  int route_of(location at) const { return where_[index(at.rank * chunks_ + at.chunk)].route; }
  int stage_of(location at) const { return where_[index(at.rank * chunks_ + at.chunk)].stage; }

  bool is_first(location at) const { return stage_of(at) == 0; }
  bool is_last(location at) const { return stage_of(at) == stages() - 1; }
  /// The neighbours of a place on its route; there is none before the first and after the last.
  location before(location at) const { return this->at(route_of(at), stage_of(at) - 1); }
  location after(location at) const { return this->at(route_of(at), stage_of(at) + 1); }

 private:
  struct position {
    int route = -1, stage = 0;
  };
  static std::size_t index(int i) { return static_cast<std::size_t>(i); }

  std::vector<std::vector<location>> routes_;
  std::vector<position> where_;  // by rank and chunk
  int ranks_ = 0, chunks_ = 0;
};

}  // namespace dsv3::inline DSV3_ABI::pipeline
