// SPDX-License-Identifier: MIT
// Any bytes given to the safetensors reader are a table whose spans tile the data, or one sentence.
#include <dsv3/io/safetensors/reader.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace {

void demand(bool holds) {
  if (!holds) std::abort();
}

/// Touches every byte through every way of reading, so that the sanitizer sees a span outside the file.
void read_all(const dsv3::safetensors_table& table) {
  for (const dsv3::tensor_entry& tensor : table.tensors()) {
    demand(table.find(tensor.name) == &tensor);
    demand(dsv3::bytes_of(tensor.type, tensor.extents) == static_cast<dsv3::index_t>(tensor.bytes.size()));
    volatile std::uint32_t sum = dsv3::crc32c_of(tensor.bytes);
    static_cast<void>(sum);
    if (tensor.type == dsv3::dtype::f32 && tensor.extents.size() <= 1)
      demand(dsv3::tensor_values<float, 1>{tensor}.values().size() == tensor.elements());
    if (tensor.type == dsv3::dtype::f32 || tensor.type == dsv3::dtype::f64 ||
        tensor.type == dsv3::dtype::bf16) {
      std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
      dsv3::read_converted(tensor, std::span(values));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> file{reinterpret_cast<const std::byte*>(data), size};
  try {
    const dsv3::safetensors_table table = dsv3::parse_safetensors(file, "fuzz.safetensors");
    // Together the tensors are as many bytes as the file has beyond its header.
    std::size_t held = 0;
    for (const dsv3::tensor_entry& tensor : table.tensors()) held += tensor.bytes.size();
    std::uint64_t header = 0;
    std::memcpy(&header, data, sizeof header);
    demand(held + header + sizeof header == size);
    read_all(table);
  } catch (const dsv3::error& refusal) {
    const std::string sentence = refusal.what();
    demand(sentence.starts_with("fuzz.safetensors: ") && sentence.size() < 2000);
  }
  return 0;
}
