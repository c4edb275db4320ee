// SPDX-License-Identifier: MIT
// Rotary embedding in plain double loops: every angle computed where it is used.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace oracle {

struct rotary {
  double theta = 10000, stretch = 1, trained = 4096, fast_turns = 32, slow_turns = 1;
  double mscale = 1, mscale_all_dim = 1;

  // Turns of pair i over the trained context decide: many turns keep the frequency, few are stretched, linear
  // between the pair indices where the two limits are met (rounded outward).
  double frequency(int i, int channels) const {
    const double omega = 1.0 / std::pow(theta, double(2 * i) / channels);
    if (stretch <= 1) return omega;
    auto index_of = [&](double turns) {
      return channels * (std::log(trained) - std::log(2 * std::acos(-1.0) * turns)) / (2 * std::log(theta));
    };
    double first = std::floor(index_of(fast_turns)), last = std::ceil(index_of(slow_turns));
    if (first < 0) first = 0;
    if (last > channels - 1) last = channels - 1;
    if (first == last) last += 0.001;
    double blend = (i - first) / (last - first);
    if (blend < 0) blend = 0;
    if (blend > 1) blend = 1;
    return (1 - blend) * omega + blend * omega / stretch;
  }

  double amplitude() const {
    if (stretch <= 1) return 1;
    return (1 + 0.1 * mscale * std::log(stretch)) / (1 + 0.1 * mscale_all_dim * std::log(stretch));
  }

  // One vector x[channels] at a position; direction +1 or -1.
  std::vector<double> turn(const std::vector<double>& x, double position, int direction, bool halves) const {
    const int channels = int(x.size());
    std::vector<double> y(x.size());
    for (int i = 0; i < channels / 2; ++i) {
      const std::size_t a = std::size_t(halves ? i : 2 * i),
                        b = std::size_t(halves ? i + channels / 2 : 2 * i + 1);
      const double phi = direction * position * frequency(i, channels);
      y[a] = amplitude() * (x[a] * std::cos(phi) - x[b] * std::sin(phi));
      y[b] = amplitude() * (x[a] * std::sin(phi) + x[b] * std::cos(phi));
    }
    return y;
  }
};

}  // namespace oracle
