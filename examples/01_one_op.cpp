// SPDX-License-Identifier: MIT
// Tour, stop 1: one operation on pointers of one's own. No model, no allocation by the library, no globals.
#include <support/tour.hpp>

#include <cmath>
#include <cstdio>

// A context says where and with how many threads; the record names every argument. Pointers become views by
// their types: a float* where the record wants bf16 does not compile.
template <class Ctx>
void normalise(Ctx& ctx, const float* x, const float* gain, float* y, int tokens, int hidden) {
  dsv3::op::rms_norm<dsv3::fp32>::forward(ctx, {.x = dsv3::view{x, tokens, hidden},
                                                .gain = dsv3::view{gain, hidden},
                                                .y = dsv3::view{y, tokens, hidden}});
}

int main() {
  constexpr int tokens = 3, hidden = 4;
  tour::place here;
  const auto x = here.array<float>({1, 2, 3, 4, -1, -1, -1, -1, 0, 0, 10, 0}),
             gain = here.array(hidden, 1.0f);
  auto y = here.array<float>(tokens * hidden);
  auto ctx = here.context();
  normalise(ctx, x.data(), gain.data(), y.data(), tokens, hidden);
  synchronize(ctx);  // an operation returns when the backend knows what to do

  bool good = true;
  for (int t = 0; t < tokens; ++t) {
    double squares = 0;
    for (int i = 0; i < hidden; ++i) {
      std::printf("%8.4f", y[t * hidden + i]);
      squares += y[t * hidden + i] * y[t * hidden + i];
    }
    std::printf("   mean square %.6f\n", squares / hidden);
    good = good && std::fabs(squares / hidden - 1) < 1e-4;
  }

  // What cannot be seen by the compiler is checked before anything runs, and said in one sentence.
  try {
    dsv3::op::rms_norm<dsv3::fp32>::forward(ctx, {.x = dsv3::view{x.data(), tokens, hidden},
                                                  .gain = dsv3::view{gain.data(), hidden - 1},
                                                  .y = dsv3::view{y.data(), tokens, hidden}});
    good = false;
  } catch (const dsv3::error& refused) {
    std::printf("refused: %s\n", refused.what());
  }
  return good ? 0 : 1;
}
