// SPDX-License-Identifier: MIT
// Every line of the input is a text as a JSON string, every line of the output its ids. usage: FILE
#include <dsv3/text/tokenizer.hpp>

#include <iostream>
#include <string>

int main(int, char** arguments) {
  const dsv3::tokenizer words = dsv3::tokenizer::load(arguments[1]);
  dsv3::tokenizer::encoder encoder{words};
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<std::int32_t> ids;
    encoder.encode(dsv3::parse_json(line, "line").get<std::string>(), ids);
    std::cout << dsv3::json(ids).dump() << '\n';
  }
}
