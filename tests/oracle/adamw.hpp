// SPDX-License-Identifier: MIT
// AdamW on one number, with moments rounded to whatever they are stored in.
#pragma once

#include <cmath>

namespace oracle {

struct adamw {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
  double p = 0, m = 0, v = 0;

  /// `stored(x)` is x as the moments' type holds it.
  template <class Stored>
  void step(double gradient, double learning_rate, int count, Stored&& stored) {
    m = stored(beta1 * m + (1 - beta1) * gradient);
    v = stored(beta2 * v + (1 - beta2) * gradient * gradient);
    const double m_hat = m / (1 - std::pow(beta1, count)), v_hat = v / (1 - std::pow(beta2, count));
    p = p - learning_rate * (m_hat / (std::sqrt(v_hat) + epsilon) + weight_decay * p);
  }
};

}  // namespace oracle
