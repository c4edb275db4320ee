// SPDX-License-Identifier: MIT
// dsv3-convert: the weights of a model folder in another element type, 8 bits in blocks or plain.
#include "conversion.hpp"

#include <support/command_line.hpp>
#include <support/flag_checks.hpp>

#include <algorithm>
#include <thread>

int main(int argc, char** argv) {
  CLI::App app{
      "Writes the weights of a model folder in another element type: 8 bits in blocks of 128 x 128 as the\n"
      "released files have them, or plain numbers. Works file by file in little memory, verifies what it "
      "has\n"
      "written, and goes on where it was stopped when it is started again.",
      "dsv3-convert"};
  dsv3_convert::request asked;
  asked.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  app.add_option("--from", asked.from,
                 "folder with config.json and model.safetensors, or shards and an index")
      ->required();
  app.add_option("--to", asked.to,
                 "folder to write; it is made, and complete when it has a config.json. Tokenizer,\n"
                 "generation_config.json, licences and code of --from are copied")
      ->required();
  app.add_option("--dtype", asked.type,
                 "fp8: linear weights as codes with weight_scale_inv, everything else as it is;\n"
                 "bf16: every number, but not routing biases; fp32: every number")
      ->required()
      ->check(support::one_of({"fp8", "bf16", "fp32"}));
  app.add_option("--threads", asked.threads,
                 "each holds 128 rows of a tensor; the result does not depend on them")
      ->check(support::whole_number(1, 4096))
      ->capture_default_str();
  app.add_flag("--unscaled-codes", asked.unscaled_codes,
               "take 8-bit weights that have no scales for what their codes say, instead of refusing them");
  app.add_flag("--dry-run", asked.dry_run, "check the headers and say what would be written");
  return support::run_program(app, argc, argv, [&] { return dsv3_convert::convert(asked); });
}
