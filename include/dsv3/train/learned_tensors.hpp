// SPDX-License-Identifier: MIT
// What a run learns: masters, weights, gradients and moments, each rank with its parts.
#pragma once

#include <dsv3/exec/memory.hpp>
#include <dsv3/model/bundles.hpp>
#include <dsv3/model/initialize.hpp>
#include <dsv3/train/ranks.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// One learnable tensor, as whatever is done to all of them sees it: the part that this rank keeps, and with
/// several ranks what their parts are put together in. With one rank the part is the whole.
template <precision P>
struct parameter {
  std::string name;        // the checkpoint's, as in the table of contents
  bool is_matrix = false;  // the others are norm gains
  copied kind = copied::dense;
  shard part;
  index_t first = 0;  // where the tensor begins in the model's: a rank's experts are some of all
  view<master<P>, 1> p = {};
  view<weight<P>, 1> w = {};                        // what forward reads: these,
  scaled_view<fp8_e4m3, block_tile, 3> tiles = {};  // or these [stack, rows, columns], whole; else p itself
  view<gradient<P>, 1> g = {};
  view<moment<P>, 1> m = {}, v = {};

  // [part.padded()]   whole, of every rank's part; where weights are tiles, masters never are
  view<master<P>, 1> all_p = {};
  view<weight<P>, 1> all_w = {};
  view<gradient<P>, 1> all_g = {};  // what backward writes
};

/// Bytes of one part of the training state.
struct memory_part {
  std::string name;
  std::size_t bytes = 0;
};

namespace detail {

// A stretch of memory dealt out tensor by tensor; without memory it only counts.
struct dealt_memory {
  std::byte* base = nullptr;
  std::size_t bytes = 0;

  std::byte* take(std::size_t count) {
    std::byte* at = base == nullptr ? nullptr : base + bytes;
    bytes += count;
    return at;
  }
  template <class T>
  view<T, 1> take(index_t elements) {
    return view<T, 1>{reinterpret_cast<T*>(take(field_bytes(sizeof(T), shape{elements}))), elements};
  }
};

}  // namespace detail

/// Masters, weights, gradients and moments. A weight whose type is the master's lies in the master's memory;
/// a matrix in bf16 has its own beside its float master, never a second copy of the same number. Fields of
/// masters and moments that this rank has only a part of are empty.
template <precision P>
struct learned_tensors {
  training_ranks ranks;
  model_masters<P> masters;
  model_weights<P> weights;
  model_gradients<P> gradients;
  model_moments<P> first_moments, second_moments;
  std::vector<parameter<P>> parameters;  // the five above, tensor by tensor, in the order of the contents

  learned_tensors(memory_resource& memory, const model_config& config, const training_ranks& run)
      : ranks(run) {
    stretches wanted, given;
    deal(config, wanted);
    for (std::size_t i = 0; i < given.size(); ++i) {
      memory_[i] = memory_block(memory, wanted[i].bytes);
      given[i].base = memory_[i].data();
    }
    deal(config, given);
  }

  std::vector<memory_part> parts() const {
    return {{"masters", memory_[in_masters].bytes()},
            {"weights", memory_[in_weights].bytes()},
            {"gradients", memory_[in_gradients].bytes()},
            {"moments", memory_[in_first_moments].bytes() + memory_[in_second_moments].bytes()}};
  }

  /// All memory that learning changes, in one order for every state of a model.
  std::vector<std::span<std::byte>> learned() const {
    std::vector<std::span<std::byte>> all;
    for (const int i : {in_masters, in_weights, in_first_moments, in_second_moments})
      all.emplace_back(memory_[i].data(), memory_[i].bytes());
    return all;
  }

 private:
  enum { in_masters, in_weights, in_gradients, in_first_moments, in_second_moments, stretch_count };
  using stretches = std::array<detail::dealt_memory, stretch_count>;

  void deal(const model_config& config, stretches& from) {
    masters.config = weights.config = gradients.config = first_moments.config = second_moments.config =
        config;
    parameters.clear();
    for_each_field(
        [&](const std::string& name, const shape& s, auto& p, auto& w, auto& g, auto& m, auto& v) {
          using field = std::remove_reference_t<decltype(w)>;
          constexpr bool lies_in_master = std::is_same_v<typename field::element, master<P>>;
          const copied kind = copied_as(name);
          const any_communicator& copies = ranks.copies(kind);
          const shard part{s.elements(), copies.size(), copies.rank()};
          parameter<P> row{.name = name,
                           .is_matrix = s.rank() > 1,
                           .kind = kind,
                           .part = part,
                           .first = first_element(config, name, s)};
          const auto own = [&](auto all) { return all.rows(part.begin(), part.end()); };
          const auto whole = [&]<class T, int Rank>(view<T, 1> all, view<T, Rank>& to) {
            to = view<T, Rank>::of_shape(all.data(), s);
          };
          row.all_g = from[in_gradients].template take<gradient<P>>(part.padded());
          row.g = own(row.all_g);
          whole(row.all_g, g);
          row.m = from[in_first_moments].template take<moment<P>>(part.part()).rows(0, part.count());
          row.v = from[in_second_moments].template take<moment<P>>(part.part()).rows(0, part.count());
          if (part.whole()) whole(row.m, m), whole(row.v, v);
          if (lies_in_master || part.whole()) {
            row.all_p = from[in_masters].template take<master<P>>(part.padded());
            row.p = own(row.all_p);
            whole(row.all_p, p);
          } else {
            row.p = from[in_masters].template take<master<P>>(part.part()).rows(0, part.count());
          }
          if constexpr (requires { typename field::scale; }) {
            w = detail::stored_at<field>(from[in_weights].take(detail::stored_bytes<field>(s)), s);
            row.tiles = stack_of(w);
          } else if constexpr (lies_in_master) {
            w = p;
          } else {
            row.all_w = from[in_weights].template take<weight<P>>(part.padded());
            row.w = own(row.all_w);
            whole(row.all_w, w);
          }
          parameters.push_back(std::move(row));
        },
        masters, weights, gradients, first_moments, second_moments);
  }

  std::array<memory_block, stretch_count> memory_;
};

/// Gives forward what the master is: this rank's part, and tiles where that is all.
template <execution_context Ctx, precision P>
void adopt_master(Ctx& ctx, const parameter<P>& row, const fp8_recipe& recipe) {
  if (!row.w.empty()) adopt_master<Ctx, master<P>, weight<P>>(ctx, row.p, row.w);
  if (!row.tiles.empty() && row.part.whole())
    adopt_master<Ctx, master<P>, fp8_e4m3>(ctx, row.p, row.tiles, recipe);
}

/// One tensor before the first step: made whole by every rank that has a copy, which keeps its part.
template <execution_context Ctx, precision P>
void initialize_parameter(Ctx& ctx, const parameter<P>& row, const model_config& config, std::uint64_t seed) {
  const scratch_frame frame{ctx.scratch};
  const index_t n = row.part.elements;
  const bool here = !row.all_p.empty();
  const view<master<P>, 1> all = here ? row.all_p.rows(0, n) : ctx.scratch.template tensor<master<P>>(n);
  initialize_tensor(ctx, row.name, row.is_matrix, all, config.init_deviation, seed, row.first);
  if (!here && !row.p.empty())
    adopt_master<Ctx, master<P>, master<P>>(ctx, all.rows(row.part.begin(), row.part.end()), row.p);
  if (!row.all_w.empty()) adopt_master<Ctx, master<P>, weight<P>>(ctx, all, row.all_w.rows(0, n));
  if (!row.tiles.empty()) adopt_master<Ctx, master<P>, fp8_e4m3>(ctx, all, row.tiles, config.recipe);
}

/// Every rank ends with the sum of its part of the gradient.
template <execution_context Ctx, precision P>
void reduce_gradient(Ctx& ctx, const training_ranks& ranks, const parameter<P>& row) {
  if (row.part.whole()) return;
  const view<const gradient<P>, 1> all = row.all_g;
  ranks.copies(row.kind).reduce_scatter(ctx, all, row.part.own(row.all_g), reduction::sum);
}

/// Puts together what forward reads of what every rank has of it. Codes in tiles are made by every rank from
/// masters that are whole for the moment, in scratch: a block of 128 x 128 is no stretch of memory, so parts
/// of equal length cut through it, and the codes are the bits that one rank would have made.
template <execution_context Ctx, precision P>
void gather_weights(Ctx& ctx, const training_ranks& ranks, const parameter<P>& row,
                    const fp8_recipe& recipe) {
  if (row.part.whole()) return;
  const any_communicator& copies = ranks.copies(row.kind);
  const auto gather = [&]<class T>(view<T, 1> part, view<T, 1> all) {
    copies.all_gather(ctx, view<const T, 1>{part}, all);
  };
  if (!row.tiles.empty()) {
    const scratch_frame frame{ctx.scratch};
    const auto all = ctx.scratch.template tensor<master<P>>(row.part.padded());
    gather(view{row.p.data(), row.part.part()}, all);
    adopt_master<Ctx, master<P>, fp8_e4m3>(ctx, all.rows(0, row.part.elements), row.tiles, recipe);
  } else if (!row.all_w.empty()) {
    gather(row.part.own(row.all_w), row.all_w);
  } else {
    gather(row.part.own(row.all_p), row.all_p);
  }
}

}  // namespace dsv3::inline DSV3_ABI
