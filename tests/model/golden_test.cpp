// SPDX-License-Identifier: MIT
// The same logits, losses, hidden states and gradients as another implementation:
// tests/data/golden/README.md.
#include <examples/forward/run.hpp>
#include <examples/support/cpu_place.hpp>

#include <io/folder.hpp>
#include <model/golden.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

using namespace dsv3;
using golden::compare;
using golden::folder_of;
using golden::variants;

namespace {

template <precision P>
void run(const std::string& variant, const std::string& out, int threads) {
  forward::run_at<P, support::cpu_place>({.model = folder_of(variant),
                                          .ids = folder_of(variant) + "/golden.safetensors",
                                          .out = out,
                                          .wanted = forward::gradients::all,
                                          .mtp_weight = golden::mtp_weight,
                                          .threads = threads});
}

}  // namespace

TEST_CASE("transformers in fp32") {
  const support::temporary_folder folder;
  for (const char* variant : variants) {
    CAPTURE(variant);
    run<fp32>(variant, folder / "out", 2);
    compare(variant, folder / "out");
  }
}

TEST_CASE("any number of threads") {
  const support::temporary_folder folder;
  for (const int threads : {1, 3}) {
    CAPTURE(threads);
    run<fp32>("tiny_mtp", folder / "out", threads);
    compare("tiny_mtp", folder / "out");
  }
}

TEST_CASE("the program, in fp32 and fp64") {
  const char* bin = std::getenv("DSV3_BIN");
  const std::string program = std::string(bin == nullptr ? "build/cpu/bin" : bin) + "/dsv3-forward";
  if (!std::filesystem::exists(program)) {
    MESSAGE("not run, not built: " << program);
    return;
  }
  const support::temporary_folder folder;
  for (const char* variant : variants)
    for (const char* precision : {"fp32", "fp64"}) {
      CAPTURE(variant);
      CAPTURE(precision);
      const std::string command = program + " --model " + folder_of(variant) + " --ids " +
                                  folder_of(variant) +
                                  "/golden.safetensors --grad --mtp-weight 0.3 --precision " + precision +
                                  " --out " + (folder / "out");
      REQUIRE(std::system(command.c_str()) == 0);
      compare(variant, folder / "out");
    }
}
