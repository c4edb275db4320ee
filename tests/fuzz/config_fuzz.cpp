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
  json written = config_json(file.model);
  if (file.block_scales == scale_kind::real) written["quantization_config"] = quantization_json();
  const config_file back = parse_config(written, "written");
  if (!same_model(back.model, "read", file.model, "written").good()) __builtin_trap();
  if (back.block_scales && back.block_scales != file.block_scales) __builtin_trap();
  return 0;
}
