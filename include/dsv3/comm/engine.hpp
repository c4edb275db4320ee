// SPDX-License-Identifier: MIT
// What carries data between ranks: the interface that threads, MPI and NCCL fill.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/comm/communicator.hpp>
#include <dsv3/number/bf16.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>

namespace dsv3::inline DSV3_ABI {

/// Elements that ranks can reduce. Whatever is only moved travels as bytes.
enum class reduced_element { int32, int64, bf16, float32, float64 };

template <class T>
constexpr reduced_element reduced_element_of() {
  if constexpr (std::is_same_v<T, std::int32_t>)
    return reduced_element::int32;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return reduced_element::int64;
  else if constexpr (std::is_same_v<T, bf16>)
    return reduced_element::bf16;
  else if constexpr (std::is_same_v<T, float>)
    return reduced_element::float32;
  else {
    static_assert(std::is_same_v<T, double>, "ranks reduce int32, int64, bf16, float and double");
    return reduced_element::float64;
  }
}

constexpr std::size_t bytes_of(reduced_element element) {
  switch (element) {
    case reduced_element::bf16:
      return 2;
    case reduced_element::int32:
    case reduced_element::float32:
      return 4;
    default:
      return 8;
  }
}

/// An exchange under way. What it sends must stay as it is, and what it receives must not be read, until
/// `finish` returns; on a GPU, until what was enqueued before that is done.
class comm_transfer {
 public:
  comm_transfer() = default;
  comm_transfer(const comm_transfer&) = delete;
  comm_transfer& operator=(const comm_transfer&) = delete;
  virtual ~comm_transfer() = default;

  virtual void finish(void* stream) = 0;
};

/// One rank's end of a group of ranks. `stream` is the context's, null on the host: an engine of GPUs
/// enqueues there and returns, an engine of the host has finished when it returns. Arguments have been
/// checked. Sums over bf16 are taken in float and rounded once.
class comm_engine {
 public:
  comm_engine() = default;
  comm_engine(const comm_engine&) = delete;
  comm_engine& operator=(const comm_engine&) = delete;
  virtual ~comm_engine() = default;

  virtual const char* name() const = 0;  // "threads", "mpi", "nccl"
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual bool on_device() const { return false; }  // whether it carries device memory, on streams

  virtual void all_reduce(void* stream, void* data, index_t count, reduced_element element,
                          reduction how) const = 0;
  /// from [size * count] to [count]
  virtual void reduce_scatter(void* stream, const void* from, void* to, index_t count,
                              reduced_element element, reduction how) const = 0;
  /// from [bytes] to [size * bytes]; `from` may be the rank's own part of `to`
  virtual void all_gather(void* stream, const void* from, void* to, std::size_t bytes) const = 0;
  /// from and to [size * bytes]
  virtual void all_to_all(void* stream, const void* from, void* to, std::size_t bytes) const = 0;
  virtual void broadcast(void* stream, void* data, std::size_t bytes, int root) const = 0;
  virtual void exchange(void* stream, std::span<const outgoing_message> out,
                        std::span<const incoming_message> in) const = 0;
  /// The first half of an exchange: others may take this rank's messages while it does something else. Until
  /// it is finished the rank exchanges nothing else with its peers. Null where all of it has been done at
  /// once.
  virtual std::unique_ptr<comm_transfer> begin_exchange(void* stream, std::span<const outgoing_message> out,
                                                        std::span<const incoming_message> in) const {
    exchange(stream, out, in);
    return nullptr;
  }
  /// Returns when every rank has come here.
  virtual void barrier() const = 0;
  /// The ranks of one color become a group, ordered by key, then by rank here. Collective.
  virtual std::unique_ptr<comm_engine> split(int color, int key) const = 0;
  /// Ends whatever any rank waits for; later calls raise `reason`.
  virtual void abort(const std::string& reason) const = 0;
};

}  // namespace dsv3::inline DSV3_ABI
