// SPDX-License-Identifier: MIT
// The part of an engine that a test of exchanges has no use for: each other verb is refused.
#pragma once

#include <dsv3/comm/any_communicator.hpp>

#include <memory>
#include <string>

namespace support {

class exchange_only : public dsv3::comm_engine {
 public:
  void all_reduce(void*, void*, dsv3::index_t, dsv3::reduced_element, dsv3::reduction) const override {
    refuse();
  }
  void reduce_scatter(void*, const void*, void*, dsv3::index_t, dsv3::reduced_element,
                      dsv3::reduction) const override {
    refuse();
  }
  void all_gather(void*, const void*, void*, std::size_t) const override { refuse(); }
  void all_to_all(void*, const void*, void*, std::size_t) const override { refuse(); }
  void broadcast(void*, void*, std::size_t, int) const override { refuse(); }
  void barrier() const override { refuse(); }
  std::unique_ptr<dsv3::comm_engine> split(int, int) const override { refuse(); }
  void abort(const std::string&) const override {}

 private:
  [[noreturn]] void refuse() const {
    dsv3::raise(std::string(name()) + ": this engine of a test only exchanges");
  }
};

}  // namespace support
