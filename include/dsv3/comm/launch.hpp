// SPDX-License-Identifier: MIT
// Which rank this process is, as its launcher says: torchrun, Slurm, Open MPI or PMI.
#pragma once

#include <dsv3/base/error.hpp>

#include <charconv>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace dsv3::inline DSV3_ABI {

enum class launcher { none, torchrun, open_mpi, pmi, slurm };

constexpr const char* name_of(launcher by) {
  constexpr const char* names[] = {"none", "torchrun", "Open MPI", "PMI", "Slurm"};
  return names[static_cast<int>(by)];
}

/// What a launcher told this process. Without one: rank 0 of 1.
struct launch {
  launcher by = launcher::none;
  int rank = 0, size = 1;
  int local_rank = 0;  // among the ranks of this machine; picks the GPU
  std::string master;  // where rank 0 can be reached; empty where nobody said
  int port = 29500;    // there
};

namespace detail {

// The variables of one launcher.
struct launch_variables {
  launcher by;
  const char *rank, *size, *local_rank;
};
inline constexpr launch_variables known_launchers[] = {
    {launcher::torchrun, "RANK", "WORLD_SIZE", "LOCAL_RANK"},
    {launcher::open_mpi, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
    {launcher::pmi, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"},
    {launcher::slurm, "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"},
};

// The first machine of Slurm's list: "gpu[07-09,12],login" names gpu07.
inline std::string first_machine(std::string_view list) {
  const std::size_t end = list.find_first_of(",[");
  std::string name{list.substr(0, end)};
  if (end == std::string_view::npos || list[end] == ',') return name;
  const std::string_view numbers = list.substr(end + 1, list.find(']', end) - end - 1);
  name += numbers.substr(0, numbers.find_first_of(",-"));
  // what follows the brackets belongs to the name
  const std::size_t close = list.find(']', end);
  if (close != std::string_view::npos) {
    const std::string_view rest = list.substr(close + 1);
    name += rest.substr(0, rest.find(','));
  }
  return name;
}

}  // namespace detail

/// Reads the environment, or what `variable(name)` answers in its place: a value, or null. Launchers that
/// start each other may all have left theirs. torchrun's own (it sets TORCHELASTIC_RUN_ID) come first;
/// Slurm's are those of whatever it started, which may have started this process itself, and count where no
/// other's are there. Any two of the others must agree.
inline launch read_launch(const std::function<const char*(const char*)>& variable = [](const char* name) {
  return static_cast<const char*>(std::getenv(name));
}) {
  const auto text = [&](const char* name) -> std::optional<std::string> {
    const char* value = variable(name);
    return value == nullptr || *value == 0 ? std::nullopt : std::optional<std::string>(value);
  };
  const auto number = [&](const char* name, int least, int most) -> std::optional<int> {
    const std::optional<std::string> words = text(name);
    if (!words) return std::nullopt;
    int value = 0;
    const auto [end, fault] = std::from_chars(words->data(), words->data() + words->size(), value);
    if (fault != std::errc{} || end != words->data() + words->size() || value < least || value > most)
      raise("launch: " + std::string(name) + " is '" + *words + "', expected a whole number from " +
            std::to_string(least) + " to " + std::to_string(most));
    return value;
  };
  constexpr int many = 1 << 30;

  launch found;
  const char* said_by = nullptr;  // the variable
  for (const detail::launch_variables& v : detail::known_launchers) {
    if (v.by == launcher::slurm && said_by != nullptr) break;
    const std::optional<int> rank = number(v.rank, 0, many), size = number(v.size, 1, many);
    if (!rank && v.by == launcher::slurm) continue;  // inside an allocation, but nothing was started in it
    if (rank.has_value() != size.has_value())
      raise("launch: " + std::string(rank ? v.rank : v.size) + " is set and " + (rank ? v.size : v.rank) +
            " is not, expected both of " + name_of(v.by) + "'s");
    if (!rank) continue;
    if (*rank >= *size)
      raise("launch: " + std::string(v.rank) + " is " + std::to_string(*rank) + " and " + v.size + " is " +
            std::to_string(*size) + ", expected a rank below it");
    if (said_by == nullptr) {
      found.by = v.by, found.rank = *rank, found.size = *size, said_by = v.rank;
      found.local_rank = number(v.local_rank, 0, many).value_or(found.rank);
    } else if (*rank != found.rank || *size != found.size) {
      raise("launch: " + std::string(name_of(found.by)) + " says rank " + std::to_string(found.rank) +
            " of " + std::to_string(found.size) + " (" + said_by + "), " + name_of(v.by) + " rank " +
            std::to_string(*rank) + " of " + std::to_string(*size) + " (" + v.rank +
            "), expected them to agree");
    }
    if (v.by == launcher::torchrun && text("TORCHELASTIC_RUN_ID")) break;
  }
  found.port = number("MASTER_PORT", 1, 65535).value_or(found.port);
  if (const auto master = text("MASTER_ADDR"))
    found.master = *master;
  else if (const auto machines = text("SLURM_STEP_NODELIST"); machines && found.by != launcher::none)
    found.master = detail::first_machine(*machines);
  return found;
}

}  // namespace dsv3::inline DSV3_ABI
