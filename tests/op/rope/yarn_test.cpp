// SPDX-License-Identifier: MIT
// YaRN's frequencies and softmax scales against the published numbers and an independent formula.
#include <doctest/doctest.h>

#include <dsv3/op/rope/yarn.hpp>

#include <oracle/decoupled_rope.hpp>

using namespace dsv3;

namespace {

const rope_config deepseek_v3{.theta = 10000, .factor = 40, .original_length = 4096};

bool near(double found, double expected, double relative) {
  return std::fabs(found - expected) <= relative * std::fabs(expected);
}

}  // namespace

TEST_CASE("stretched frequencies of the 671B model") {
  const struct {
    index_t pair;
    double plain, stretched;
  } rows[] = {{0, 1, 1},
              {10, 0.0562341325, 0.0562341325},
              {11, 0.0421696503, 0.0390069266},
              {16, 0.01, 0.0055},
              {22, 0.00177827941, 0.000177827941},
              {23, 0.00133352143, 3.33380358e-05},
              {31, 0.000133352143, 3.33380358e-06}};
  const rope_config plain{};
  for (const auto& row : rows) {
    CAPTURE(row.pair);
    CHECK(near(plain.frequency(row.pair, 64), row.plain, 1e-7));
    CHECK(near(deepseek_v3.frequency(row.pair, 64), row.stretched, 1e-7));
  }
}

TEST_CASE("frequencies agree with the oracle for other widths, bases and limits") {
  for (double theta : {100.0, 10000.0, 5e5})
    for (double factor : {1.0, 2.0, 40.0})
      for (double length : {64.0, 4096.0, 1e6})
        for (int channels : {2, 4, 10, 64, 128}) {
          const rope_config found{.theta = theta, .factor = factor, .original_length = length};
          const oracle::rotary expected{.theta = theta, .stretch = factor, .trained = length};
          for (int i = 0; i < channels / 2; ++i)
            CHECK(near(found.frequency(i, channels), expected.frequency(i, channels), 1e-12));
        }
}

TEST_CASE("softmax scale and cos/sin multiplier") {
  CHECK(near(deepseek_v3.softmax_scale(192), 0.13523378, 1e-7));
  CHECK(deepseek_v3.attention_factor() == 1);

  const rope_config v2_lite{.factor = 40, .mscale = 0.707, .mscale_all_dim = 0.707};
  CHECK(near(v2_lite.softmax_scale(192), 0.11472139, 1e-7));
  CHECK(v2_lite.attention_factor() == 1);

  const rope_config uneven{.factor = 40, .mscale = 1, .mscale_all_dim = 0.707};
  CHECK(near(uneven.attention_factor(), 1.3688879454 / 1.2608037774, 1e-9));
}

TEST_CASE("factor 1 is no YaRN at all") {
  const rope_config plain{};
  CHECK(!plain.stretched());
  CHECK(near(plain.softmax_scale(192), 0.07216878, 1e-7));
  CHECK(plain.attention_factor() == 1);
}
