// SPDX-License-Identifier: MIT
// How every program here starts and ends: flags by CLI11, one sentence for what went wrong, 2 for a call that
// makes no sense, 1 for work that failed.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/io/nearest_name.hpp>
#include <dsv3/version.hpp>

#include <CLI/CLI.hpp>

#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

namespace support {

/// What the user asked for makes no sense: exit code 2.
class usage_error : public dsv3::error {
 public:
  using dsv3::error::error;
};

/// What `read` raises is about what the user gave: a config, the name of a size.
template <class Read>
auto given_by_user(Read&& read) {
  try {
    return read();
  } catch (const dsv3::error& failure) {
    throw usage_error(failure.what());
  }
}

namespace detail {

// "--stps is not a known flag, the nearest is --steps"
inline std::string unknown_flag(const CLI::App& app) {
  const std::vector<std::string> unknown = app.remaining(true);
  if (unknown.empty()) return {};
  if (!unknown.front().starts_with('-')) return "found \"" + unknown.front() + "\", expected a flag";
  const std::string name = unknown.front().substr(0, unknown.front().find('='));
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& each : option->get_lnames()) known.push_back("--" + each);
  for (const CLI::App* group : app.get_subcommands([](const CLI::App*) { return true; }))
    for (const CLI::Option* option : group->get_options())
      for (const std::string& each : option->get_lnames()) known.push_back("--" + each);
  const std::string_view nearest = dsv3::nearest_name(name, known);
  return name + " is not a known flag" + (nearest.empty() ? "" : ", the nearest is " + std::string(nearest));
}

}  // namespace detail

/// Parses, then acts; the answer is main's. `act` returns an exit code.
template <class Act>
int run_program(CLI::App& app, int argc, char** argv, Act&& act) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is a failed write, as on a full disk
  const auto complain = [&](const std::string& sentence, int code) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), sentence.c_str());
    return code;
  };
  app.set_version_flag("--version", std::to_string(DSV3_VERSION_MAJOR) + "." +
                                        std::to_string(DSV3_VERSION_MINOR) + "." +
                                        std::to_string(DSV3_VERSION_PATCH));
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help, --version
    return app.exit(asked);
  } catch (const CLI::ParseError& wrong) {
    const std::string unknown =
        detail::unknown_flag(app);  // says more than what may be missing for want of it
    return complain(unknown.empty() ? wrong.what() : unknown, 2);
  }
  try {
    return act();
  } catch (const usage_error& wrong) {
    return complain(wrong.what(), 2);
  } catch (const std::exception& failure) {
    return complain(failure.what(), 1);
  }
}

}  // namespace support
