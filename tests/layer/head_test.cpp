// SPDX-License-Identifier: MIT
#include "support/layers.hpp"

#include <dsv3/cpu.hpp>

#include <algorithm>
#include <limits>

using namespace dsv3;
using P = fp64_reference;

namespace {

struct fixture {
  static constexpr index_t tokens = 7, hidden = 5, vocab = 6;
  head<P> layer;
  keep kept;
  host_memory memory;
  cpu_context<> ctx{.threads = 2, .scratch = scratch_arena{memory, std::size_t{1} << 20}};
  std::vector<double> x = support::random_values(tokens * hidden, 1),
                      w = support::random_values(vocab * hidden, 2), dx = std::vector<double>(x.size(), NAN),
                      dw = std::vector<double>(w.size(), 0.0);
  std::vector<std::int32_t> targets{0, 5, -1, 3, 3, -1, 2};
  owned<head_saved<P>> saved{memory, head_activation_config{tokens, vocab, kept}};

  fixture(index_t chunk, keep k) : layer{chunk}, kept(k) {}
  double loss(head_saved<P>* keeps, view<double, 2> logits = {}) {
    double sum = 0;
    layer.forward(ctx, {.x = view{x.data(), tokens, hidden},
                        .w = view{w.data(), vocab, hidden},
                        .targets = view{targets.data(), tokens},
                        .scale = 0.2,
                        .loss = view{&sum, 1},
                        .logits = logits,
                        .saved = keeps});
    return sum;
  }
  void backward(store into = store::add) {
    loss(&saved);
    layer.backward(ctx, {.x = view{x.data(), tokens, hidden},
                         .w = view{w.data(), vocab, hidden},
                         .targets = view{targets.data(), tokens},
                         .scale = 0.2,
                         .saved = saved,
                         .dx = view{dx.data(), tokens, hidden},
                         .dw = view{dw.data(), vocab, hidden},
                         .into = into});
  }
};

}  // namespace

TEST_CASE("loss and gradients, for every chunk and policy") {
  fixture whole(100, keep::everything);
  const double expected = whole.loss(nullptr);
  whole.backward();
  support::check_slopes("x", whole.x.data(), whole.dx.data(), 35, 35, [&] { return whole.loss(nullptr); });
  support::check_slopes("w", whole.w.data(), whole.dw.data(), 30, 30, [&] { return whole.loss(nullptr); });
  for (index_t chunk : {1, 2, 3, 7}) {
    for (keep kept : {keep::everything, keep::attention, keep::inputs}) {
      fixture f(chunk, kept);
      CHECK(f.loss(nullptr) == doctest::Approx(expected).epsilon(1e-14));
      f.backward();
      CHECK(support::worst_row(f.dx, whole.dx, fixture::hidden) < 1e-12);
      CHECK(support::worst_row(f.dw, whole.dw, fixture::hidden) < 1e-12);
      const auto dw = f.dw;
      std::fill(f.dw.begin(), f.dw.end(), std::numeric_limits<double>::quiet_NaN());
      f.backward(store::write);
      CHECK(f.dw == dw);
    }
  }
}

TEST_CASE("asked-for logits are the product, kept or not") {
  for (keep kept : {keep::everything, keep::attention}) {
    fixture f(3, kept);
    std::vector<double> logits(fixture::tokens * fixture::vocab, NAN);
    f.loss(&f.saved, view{logits.data(), fixture::tokens, fixture::vocab});
    for (index_t t = 0; t < fixture::tokens; ++t)
      for (index_t v = 0; v < fixture::vocab; ++v) {
        double sum = 0;
        for (index_t i = 0; i < fixture::hidden; ++i)
          sum += f.x[static_cast<std::size_t>(t * fixture::hidden + i)] *
                 f.w[static_cast<std::size_t>(v * fixture::hidden + i)];
        CHECK(logits[static_cast<std::size_t>(t * fixture::vocab + v)] ==
              doctest::Approx(sum).epsilon(1e-12));
      }
  }
}
