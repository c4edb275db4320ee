// SPDX-License-Identifier: MIT
// Any bytes as a config.json: either one sentence, or a model that survives being written and read again.
#include <dsv3/model/config_file.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dsv3;
  config_file file;
  try {
    const std::string_view text{reinterpret_cast<const char*>(data), size};
    file = parse_config(parse_json(text, "fuzz"), "fuzz");
  } catch (const error& refusal) {
    if (std::string_view{refusal.what()}.size() > 4096) __builtin_trap();
    return 0;
  }
  if (elements_of<mla_tensors<float>>(file.model.attention()) <= 0) __builtin_trap();
  const model_config back = parse_config(config_json(file.model), "written").model;
  if (!same_model(back, "read", file.model, "written").good()) __builtin_trap();
  return 0;
}
