// SPDX-License-Identifier: MIT
#include "support/layers.hpp"

#include <dsv3/cpu.hpp>

using namespace dsv3;
using P = fp64_reference;

namespace {

struct fixture {
  mlp<P> layer;
  index_t tokens;
  host_memory memory;
  cpu_context<> ctx{.threads = 2, .scratch = scratch_arena{memory, std::size_t{1} << 20}};
  owned<mlp_storage<P>> weights;
  std::vector<double> x, y, probe, dx;

  fixture(mlp_config c, index_t count) : layer{c}, tokens(count), weights(memory, c) {
    support::fill_random(weights, 3);
    x = support::random_values(tokens * c.hidden, 1);
    probe = support::random_values(tokens * c.hidden, 2);
    y.assign(x.size(), NAN);
    dx.assign(x.size(), NAN);
  }
  view<double, 2> rows(std::vector<double>& values) {
    return view{values.data(), tokens, layer.config.hidden};
  }
  double loss() {
    layer.forward(ctx, {.x = rows(x), .weights = weights, .y = rows(y)});
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * probe[i];
    return sum;
  }
  owned<mlp_gradients<P>> gradients(keep kept) {
    owned<mlp_saved<P>> saved{memory, mlp_activation_config{layer.config, tokens, kept}};
    layer.forward(ctx, {.x = rows(x), .weights = weights, .y = rows(y), .saved = &saved});
    owned<mlp_gradients<P>> result{memory, layer.config};
    support::zero_fields(result);
    layer.backward(ctx, {.dy = rows(probe),
                         .x = rows(x),
                         .weights = weights,
                         .saved = saved,
                         .dx = rows(dx),
                         .gradients = result});
    return result;
  }
};

}  // namespace

TEST_CASE("gradients equal central differences, whatever is kept") {
  for (index_t tokens : {0, 1, 5}) {
    fixture f({7, 9}, tokens);
    auto gradients = f.gradients(keep::everything);
    const auto dx = f.dx;
    support::check_slopes("x", f.x.data(), f.dx.data(), static_cast<index_t>(f.x.size()), 40,
                          [&] { return f.loss(); });
    support::check_bundle_slopes(f.weights, gradients, 40, [&] { return f.loss(); });
    auto again = f.gradients(keep::attention);
    CHECK(f.dx == dx);
    CHECK(support::same_bits(gradients, again));
  }
}
