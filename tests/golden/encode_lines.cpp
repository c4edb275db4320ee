// SPDX-License-Identifier: MIT
// usage: encode_lines FILE COPY. Every line of the input is a text as a JSON string, every line of the output
// its ids. The tokenizer is also written to COPY.
#include <dsv3/text/tokenizer.hpp>

#include <iostream>
#include <string>

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const dsv3::tokenizer words = dsv3::tokenizer::load(arguments[1]);
  dsv3::write_tokenizer(arguments[2], words.definition());
  dsv3::tokenizer::encoder encoder{words};
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<std::int32_t> ids;
    encoder.encode(dsv3::parse_json(line, "line").get<std::string>(), ids, {.frame = true});
    std::cout << dsv3::json(ids).dump() << '\n';
  }
}
