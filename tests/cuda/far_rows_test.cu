// SPDX-License-Identifier: MIT
// Tensors of more than 2^31 elements on a GPU: the third of three rows begins behind an index that does not
// fit in 32 bits, and nothing else may be different there. What walks over everything gets that many
// elements.
#define DSV3_TEST_BACKEND cuda
#include <dsv3/cuda/expert/permute.cuh>
#include <dsv3/cuda/loss/cross_entropy.cuh>
#include <dsv3/cuda/optim/adamw.cuh>
#include <dsv3/cuda/optim/global_norm.cuh>
#include <dsv3/cuda/routing/balance.cuh>
#include <dsv3/cuda/routing/router.cuh>

#include <support/guarded.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

using namespace dsv3;
using support::guarded;

namespace {

constexpr index_t behind = index_t{1} << 31, between = behind / 2 + 8;

cuda::device_memory& gpu_memory() {
  (void)support::gpu();
  static cuda::device_memory only;
  return only;
}

template <class T>
void copy(T* to, const T* from, index_t count) {
  cuda::require(cudaMemcpy(to, from, sizeof(T) * static_cast<std::size_t>(count), cudaMemcpyDefault), "copy");
}

/// Three rows far apart with the numbers of three rows that are not.
template <class T>
class far_rows {
 public:
  explicit far_rows(guarded<T>& near)
      : columns_(near.get().extent(1)),
        block_(gpu_memory(), sizeof(T) * static_cast<std::size_t>(2 * between + columns_)) {
    for (index_t r = 0; r < 3; ++r) copy(get()[r].data(), near.get()[r].data(), columns_);
  }
  view<T, 2> get() const {
    const index_t extents[] = {3, columns_}, strides[] = {between, 1};
    return {reinterpret_cast<T*>(block_.data()), extents, strides};
  }
  operator view<T, 2>() const { return get(); }
  operator view<const T, 2>() const { return get(); }

  /// Whether they hold the same bits as those rows.
  bool same_bits(guarded<T>& near) const {
    bool same = true;
    guarded<T> found(0, 1, columns_), expected(0, 1, columns_);
    for (index_t r = 0; r < 3; ++r) {
      copy(found.get().data(), get()[r].data(), columns_);
      copy(expected.get().data(), near.get()[r].data(), columns_);
      same = same && found.same_bits(expected);
    }
    return same;
  }

 private:
  index_t columns_;
  memory_block block_;
};

/// A vector of zeros that ends with the numbers of a short one.
template <class T>
class far_end {
 public:
  explicit far_end(guarded<T, 1>& near)
      : tail_(near.get().extent(0)),
        block_(gpu_memory(), sizeof(T) * static_cast<std::size_t>(behind + tail_)) {
    cuda::require(cudaMemset(block_.data(), 0, block_.bytes()), "zeros");
    copy(get().data() + behind, near.get().data(), tail_);
  }
  view<T, 1> get() const { return view<T, 1>{reinterpret_cast<T*>(block_.data()), behind + tail_}; }
  operator view<T, 1>() const { return get(); }
  operator view<const T, 1>() const { return get(); }
  bool same_bits(guarded<T, 1>& near) const {
    guarded<T, 1> found(0, tail_);
    copy(found.get().data(), get().data() + behind, tail_);
    return found.same_bits(near);
  }

 private:
  index_t tail_;
  memory_block block_;
};

/// act(), or a message where the GPU has too little memory for it.
template <class Act>
void where_it_fits(Act&& act) {
  try {
    act();
  } catch (const error& failure) {
    if (!std::string(failure.what()).starts_with("GPU memory: ")) throw;
    MESSAGE("skipped: " << failure.what());
  }
}

template <class T>
guarded<T> random_rows(index_t columns, std::uint64_t stream) {
  guarded<T> rows(0, 3, columns);
  rows.normal(stream);
  return rows;
}

}  // namespace

TEST_CASE("cross_entropy reaches rows behind 2^31 elements") {
  where_it_fits([] {
    guarded<float> logits = random_rows<float>(1000, 1);
    const far_rows<float> far_logits(logits);
    guarded<std::int32_t, 1> targets(0, 3);
    guarded<double, 1> loss(0, 2);
    guarded<float> lse(0, 2, 3);
    targets.fill([](index_t t) { return 999 - 7 * t; }), loss.fill([](index_t) { return 0.0; });
    const auto step = [&](view<float, 2> z, index_t which) {
      support::run(1, [&](auto& ctx) {
        op::cross_entropy<fp32>::forward(ctx, {.logits = z,
                                               .targets = targets,
                                               .loss = loss.get().rows(which, which + 1),
                                               .lse = lse.get()[which]});
        op::cross_entropy<fp32>::backward(
            ctx, {.logits = z, .targets = targets, .lse = lse.get()[which], .dlogits = z});
      });
    };
    step(logits, 0), step(far_logits, 1);
    CHECK(loss.get()(0) > 0);
    CHECK(loss.get()(1) == loss.get()(0));
    for (index_t t = 0; t < 3; ++t) CHECK(lse.get()(1, t) == lse.get()(0, t));
    CHECK(far_logits.same_bits(logits));
  });
}

TEST_CASE_TEMPLATE("permutation reaches rows behind 2^31 elements", P, fp32, bf16_mixed) {
  where_it_fits([] {
    using number = activation<P>;
    guarded<number> x = random_rows<number>(100, 2), y = random_rows<number>(100, 3);
    const far_rows<number> far_x(x), far_rows_of_experts(y), far_y(y);
    const permutation_config config{.tokens = 3, .top_k = 1, .experts = 3};
    guarded<std::int32_t> ids(0, 3, 1), row_of(0, 3, 1);
    guarded<std::int32_t, 1> offsets(0, 4), counts(0, 3), token_of(0, 3);
    ids.fill([](index_t t) { return 2 - t; });
    const permutation plan{config, offsets, counts, row_of, token_of};
    support::run(1, [&](auto& ctx) {
      op::permute<P>::plan(ctx, {.ids = ids, .plan = plan});
      op::permute<P>::dispatch(ctx, {.x = far_x, .plan = plan, .rows = far_rows_of_experts});
      op::permute<P>::combine(ctx, {.rows = far_rows_of_experts, .plan = plan, .y = far_y});
    });
    CHECK(row_of.values() == std::vector<double>{2, 1, 0});
    CHECK(far_y.same_bits(x));
    CHECK(!far_rows_of_experts.same_bits(x));  // they are in the order of experts
  });
}

TEST_CASE_TEMPLATE("the router reaches rows behind 2^31 elements", P, fp32, bf16_mixed) {
  where_it_fits([] {
    constexpr index_t hidden = 104, experts = 24, top_k = 2;
    const router_config config{.hidden = hidden, .experts = experts, .top_k = top_k};
    guarded<activation<P>> x = random_rows<activation<P>>(hidden, 4),
                           dx = random_rows<activation<P>>(hidden, 5);
    guarded<float> scores = random_rows<float>(experts, 6), dlogits = random_rows<float>(experts, 7);
    const far_rows<activation<P>> far_x(x), far_dx(dx);
    const far_rows<float> far_scores(scores), far_dlogits(dlogits);
    guarded<float> centroids(0, experts, hidden), gates(0, 3, top_k), far_gates(0, 3, top_k),
        dgates(0, 3, top_k), dcentroids(0, experts, hidden), far_dcentroids(0, experts, hidden);
    guarded<float, 1> bias(0, experts);
    guarded<std::int32_t> ids(0, 3, top_k);
    centroids.normal(8, 0.1), dgates.normal(9), bias.normal(10, 0.1);
    dcentroids.fill([](index_t) { return 0; }), far_dcentroids.fill([](index_t) { return 0; });
    const auto step = [&](auto& of_x, auto& of_scores, auto& of_gates, auto& of_dlogits, auto& of_dx,
                          auto& of_dcentroids) {
      support::run(1, [&](auto& ctx) {
        op::router<P>::forward(ctx, {.config = config,
                                     .x = of_x,
                                     .centroids = centroids,
                                     .bias = bias,
                                     .scores = of_scores,
                                     .ids = ids,
                                     .gates = of_gates});
        op::router<P>::backward_data(ctx, {.config = config,
                                           .dgates = dgates,
                                           .scores = of_scores,
                                           .ids = ids,
                                           .centroids = centroids,
                                           .dlogits = of_dlogits,
                                           .dx = of_dx});
        op::router<P>::backward_weights(ctx, {.dlogits = of_dlogits, .x = of_x, .dcentroids = of_dcentroids});
      });
    };
    step(x, scores, gates, dlogits, dx, dcentroids);
    step(far_x, far_scores, far_gates, far_dlogits, far_dx, far_dcentroids);
    CHECK(far_scores.same_bits(scores));
    CHECK(far_gates.same_bits(gates));
    CHECK(far_dlogits.same_bits(dlogits));
    CHECK(far_dx.same_bits(dx));
    CHECK(far_dcentroids.same_bits(dcentroids));
    CHECK(dcentroids.values() != std::vector<double>(experts * hidden, 0.0));
  });
}

TEST_CASE("the balance loss reaches rows behind 2^31 elements") {
  where_it_fits([] {
    constexpr index_t experts = 10;
    guarded<float> scores(0, 3, experts), dscores = random_rows<float>(experts, 1);
    const random_stream random(20260101, 11);
    scores.fill([&](index_t i) { return random.uniform(static_cast<std::uint64_t>(i)); });
    const far_rows<float> far_scores(scores), far_dscores(dscores);
    guarded<std::int32_t> ids(0, 3, 2);
    guarded<std::int32_t, 1> offsets(0, 2), positions(0, 3);
    guarded<float> fraction(0, 1, experts);
    guarded<double, 1> loss(0, 2);
    ids.fill([](index_t i) { return i; }), offsets.fill([](index_t s) { return 3 * s; });
    positions.fill([](index_t t) { return t; }), loss.fill([](index_t) { return 0.0; });
    const packed_sequences sequence{offsets, positions, 3};
    const auto step = [&](auto& s, auto& ds, index_t which) {
      support::run(1, [&](auto& ctx) {
        op::sequence_balance<fp32>::forward(ctx, {.scores = s,
                                                  .ids = ids,
                                                  .sequence = sequence,
                                                  .coefficient = 0.5,
                                                  .fraction = fraction,
                                                  .loss = loss.get().rows(which, which + 1)});
        op::sequence_balance<fp32>::backward(
            ctx,
            {.scores = s, .fraction = fraction, .sequence = sequence, .coefficient = 0.5, .dscores = ds});
      });
    };
    step(scores, dscores, 0), step(far_scores, far_dscores, 1);
    CHECK(loss.get()(0) > 0);
    CHECK(loss.get()(1) == loss.get()(0));
    CHECK(far_dscores.same_bits(dscores));
  });
}

TEST_CASE("global_norm adds more than 2^31 elements") {
  where_it_fits([] {
    guarded<bf16, 1> tail(0, 12345);
    tail.normal(12);
    const far_end<bf16> far(tail);
    const bf16 three(3.0f);
    copy(far.get().data() + 7, &three, 1);
    guarded<double, 1> sum(0, 1), expected(0, 1);
    sum.fill([](index_t) { return 0.0; }), expected.fill([](index_t) { return 9.0; });
    support::run(1, [&](auto& ctx) {
      op::global_norm<bf16>::accumulate(ctx, {.x = far, .sum = sum});
      op::global_norm<bf16>::accumulate(ctx, {.x = tail, .sum = expected});
    });
    CHECK(sum.get()(0) == doctest::Approx(expected.get()(0)).epsilon(1e-13));
  });
}

TEST_CASE("adamw moves more than 2^31 elements") {
  where_it_fits([] {
    constexpr index_t n = 4099;
    guarded<float, 1> g(0, n), p(0, n);
    guarded<bf16, 1> w(0, n), m(0, n), v(0, n);
    g.normal(13), p.normal(14), m.normal(15, 0.1);
    w.fill([](index_t) { return 0.0; }), v.fill([](index_t) { return 0.01; });
    const far_end<float> far_g(g), far_p(p);
    const far_end<bf16> far_w(w), far_m(m), far_v(v);
    guarded<double, 1> scale(0, 1), pace(0, 3);
    const auto now = adamw_config{}.pace(0.01, 3);
    scale.fill([](index_t) { return 0.5; });
    pace.fill([&](index_t i) { return now[static_cast<std::size_t>(i)]; });
    const auto step = [&](auto& of_g, auto& of_p, auto& of_w, auto& of_m, auto& of_v) {
      support::run(1, [&](auto& ctx) {
        op::adamw<bf16_mixed>::step(ctx, {.g = of_g,
                                          .scale = scale,
                                          .p = of_p,
                                          .w = of_w,
                                          .m = of_m,
                                          .v = of_v,
                                          .config = {},
                                          .pace = pace});
      });
    };
    step(g, p, w, m, v), step(far_g, far_p, far_w, far_m, far_v);
    CHECK(far_p.same_bits(p));
    CHECK(far_w.same_bits(w));
    CHECK(far_m.same_bits(m));
    CHECK(far_v.same_bits(v));
  });
}
