// SPDX-License-Identifier: MIT
// The sizes that have names, by name.
#pragma once

#include <dsv3/io/nearest_name.hpp>
#include <dsv3/model/config.hpp>

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3::inline DSV3_ABI {

/// The sizes that have names.
struct named_size {
  std::string_view name;
  model_config (*make)();
};
inline constexpr std::array named_sizes{named_size{"tiny", model_config::tiny},
                                        named_size{"midi", model_config::midi},
                                        named_size{"mini", model_config::mini},
                                        named_size{"small", model_config::small_1b},
                                        named_size{"bench-3b", model_config::bench_3b},
                                        named_size{"moonlight", model_config::moonlight_16b},
                                        named_size{"v2-lite", model_config::deepseek_v2_lite},
                                        named_size{"v2", model_config::deepseek_v2},
                                        named_size{"v3", model_config::deepseek_v3}};

/// The named model; raises with the nearest name, or all of them, where there is none of this name.
inline model_config named_config(std::string_view name) {
  std::vector<std::string_view> names;
  std::string list;
  for (const named_size& size : named_sizes) {
    if (size.name == name) return size.make();
    names.push_back(size.name);
    list += (list.empty() ? "" : ", ") + std::string(size.name);
  }
  const std::string_view nearest = nearest_name(name, names);
  raise("model: no size is named \"" + std::string(name) + "\", expected one of " + list +
        (nearest.empty() ? "" : "; the nearest is " + std::string(nearest)));
}

}  // namespace dsv3::inline DSV3_ABI
