// SPDX-License-Identifier: MIT
#include "support/layers.hpp"

#include <dsv3/cpu.hpp>

using namespace dsv3;
using P = fp64_reference;

// The layer on a user's own pointers: a latent of rank 5 with 2 columns that bypass the norm.
TEST_CASE("gradients equal central differences; the extra columns pass by") {
  const index_t tokens = 4, hidden = 6, rank = 5, extra = 2, out = 7;
  host_memory memory;
  cpu_context<> ctx{.threads = 1, .scratch = scratch_arena{memory, 1 << 20}};
  auto x = support::random_values(tokens * hidden, 1),
       w_down = support::random_values((rank + extra) * hidden, 2), gain = support::random_values(rank, 3),
       w_up = support::random_values(out * rank, 4), d_up = support::random_values(tokens * out, 5),
       da = support::random_values(tokens * (rank + extra), 6);
  const auto d_extra = da;
  std::vector<double> a(tokens * (rank + extra)), rstd(tokens), c(tokens * rank), up(tokens * out),
      dc(tokens * rank), dx(tokens * hidden), g_down(w_down.size()), g_gain(gain.size()), g_up(w_up.size());
  using layer = latent_compression<P>;
  const layer compression{};
  const layer::weights w{view{w_down.data(), rank + extra, hidden}, view{gain.data(), rank},
                         view{w_up.data(), out, rank}};
  const layer::state s{view{a.data(), tokens, rank + extra}, view{rstd.data(), tokens},
                       view{c.data(), tokens, rank}, view{up.data(), tokens, out}};
  const layer::deltas d{view{d_up.data(), tokens, out}, view{dc.data(), tokens, rank},
                        view{da.data(), tokens, rank + extra}};
  const auto loss = [&] {
    compression.forward(ctx, view{x.data(), tokens, hidden}, w, s);
    double sum = 0;
    for (std::size_t i = 0; i < up.size(); ++i) sum += up[i] * d_up[i];
    for (index_t t = 0; t < tokens; ++t)
      for (index_t e = rank; e < rank + extra; ++e)
        sum += s.a(t, e) * d_extra[static_cast<std::size_t>(t * 7 + e)];
    return sum;
  };
  loss();
  compression.backward_data(ctx, w, s, d, view{dx.data(), tokens, hidden}, store::write);
  compression.backward_weights(
      ctx, view{x.data(), tokens, hidden}, w, s, d,
      {view{g_down.data(), rank + extra, hidden}, view{g_gain.data(), rank}, view{g_up.data(), out, rank}},
      store::add);
  support::check_slopes("x", x.data(), dx.data(), tokens * hidden, 100, loss);
  support::check_slopes("w_down", w_down.data(), g_down.data(), (rank + extra) * hidden, 100, loss);
  support::check_slopes("gain", gain.data(), g_gain.data(), rank, 100, loss);
  support::check_slopes("w_up", w_up.data(), g_up.data(), out * rank, 100, loss);
}
