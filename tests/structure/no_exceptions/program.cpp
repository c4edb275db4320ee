// SPDX-License-Identifier: MIT
// Takes scratch from a context that has none.
#include <dsv3/cpu.hpp>

int main() {
  dsv3::cpu_context<> ctx;
  return ctx.scratch.take<float>(16) == nullptr ? 0 : 1;
}
