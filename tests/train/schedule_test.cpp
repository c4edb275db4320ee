// SPDX-License-Identifier: MIT
// The schedules against the recipe of 14.8T tokens, row by row.
#include <dsv3/train/schedule.hpp>

#include <doctest/doctest.h>

#include <cmath>

using namespace dsv3;

namespace {
constexpr index_t trillion = 1'000'000'000'000;
}

TEST_CASE("the recipe of 14.8T tokens") {
  struct row {
    index_t steps, tokens;
    double learning_rate, bias_rate, mtp_weight;
    index_t sequences;
  };
  const double mid = 2.2e-5 + 0.5 * (2.2e-4 - 2.2e-5);  // half way down the cosine
  const row table[] = {
      {0, 0, 2.2e-4 / 2000, 0.001, 0.3, 3072},  // the first step of 2,000
      {999, 999 * 3072 * 4096LL, 1.1e-4, 0.001, 0.3, 3401},
      {1999, 1999 * 3072 * 4096LL, 2.2e-4, 0.001, 0.3, 3731},
      {5'000, 234'500'000'000, 2.2e-4, 0.001, 0.3, 9216},  // half of the ramp
      {10'000, 469'000'000'000, 2.2e-4, 0.001, 0.3, 15360},
      {100'000, 10 * trillion - 1, 2.2e-4, 0.001, 0.3, 15360},
      {100'000, 10 * trillion, 2.2e-4, 0.001, 0.1, 15360},
      {130'000, 12'150'000'000'000, mid, 0.001, 0.1, 15360},
      {150'000, 14'299'999'999'999, 2.2e-5, 0.001, 0.1, 15360},
      {150'000, 14'300'000'000'000, 2.2e-5, 0, 0.1, 15360},
      {151'000, 14'632'999'999'999, 2.2e-5, 0, 0.1, 15360},
      {151'000, 14'633'000'000'000, 7.3e-6, 0, 0.1, 15360},
      {235'000, 14'800'000'000'000, 7.3e-6, 0, 0.1, 15360},
  };
  const training_schedule schedule = training_schedule::deepseek_v3();
  for (const row& expected : table) {
    const auto found = schedule.at({expected.steps, expected.tokens});
    CAPTURE(expected.tokens);
    CHECK(found.learning_rate == doctest::Approx(expected.learning_rate).epsilon(1e-9));
    CHECK(found.bias_rate == expected.bias_rate);
    CHECK(found.mtp_weight == expected.mtp_weight);
    CHECK(found.sequences == expected.sequences);
  }
  // 14.8T tokens in steps of 15,360 sequences of 4,096 tokens.
  CHECK(14.8e12 / (15360.0 * 4096.0) == doctest::Approx(235'000).epsilon(2e-3));
}

TEST_CASE("the cosine at a quarter of its way") {
  const auto rate = training_schedule::deepseek_v3().at({50'000, 11'075'000'000'000}).learning_rate;
  CHECK(rate == doctest::Approx(2.2e-5 + 1.98e-4 * 0.5 * (1 + std::sqrt(0.5))).epsilon(1e-12));
}

TEST_CASE("a short run has the same shape in steps") {
  const training_schedule schedule = training_schedule::short_run({.steps = 1000,
                                                                   .sequences = 16,
                                                                   .peak = 2e-3,
                                                                   .final = 2e-4,
                                                                   .warmup_steps = 10,
                                                                   .constant_share = 0.5});
  const auto rate = [&](index_t step) { return schedule.at({step - 1, 0}).learning_rate; };
  CHECK(rate(1) == doctest::Approx(2e-4));
  CHECK(rate(10) == doctest::Approx(2e-3));
  CHECK(rate(500) == doctest::Approx(2e-3));
  CHECK(rate(751) == doctest::Approx(1.1e-3));
  CHECK(rate(1000) == doctest::Approx(2e-4).epsilon(1e-3));
  CHECK(schedule.at({965, 0}).bias_rate == 0.001);
  CHECK(schedule.at({966, 0}).bias_rate == 0);
  CHECK(schedule.at({675, 0}).mtp_weight == 0.3);
  CHECK(schedule.at({676, 0}).mtp_weight == 0.1);
  CHECK(schedule.at({0, 0}).sequences == 16);
  CHECK(schedule.at({2000, 0}).learning_rate == 2e-4);  // a run that is prolonged stays at the final rate
}

TEST_CASE("batches grow in whole multiples") {
  const batch_ramp ramp{.begin = 8, .end = 32, .until_tokens = 1000, .multiple = 8};
  CHECK(ramp.sequences(0) == 8);
  CHECK(ramp.sequences(333) == 8);
  CHECK(ramp.sequences(334) == 16);
  CHECK(ramp.sequences(999) == 24);
  CHECK(ramp.sequences(1000) == 32);
  CHECK(ramp.sequences(5000) == 32);
  CHECK(batch_ramp{.begin = 3, .end = 3, .multiple = 8}.sequences(0) == 8);
}
