// SPDX-License-Identifier: MIT
// Each launcher's variables, several at once, and what makes no sense.
#include <dsv3/comm/launch.hpp>

#include <doctest/doctest.h>

#include <map>
#include <string>

using dsv3::launch;
using dsv3::launcher;

static launch read(const std::map<std::string, std::string>& variables) {
  return dsv3::read_launch([&](const char* name) -> const char* {
    const auto at = variables.find(name);
    return at == variables.end() ? nullptr : at->second.c_str();
  });
}
static std::string refusal(const std::map<std::string, std::string>& variables) {
  return dsv3::attempt([&] { (void)read(variables); }).message();
}

TEST_CASE("every launcher is understood") {
  const launch alone = read({});
  CHECK(alone.by == launcher::none);
  CHECK(alone.rank == 0);
  CHECK(alone.size == 1);
  CHECK(alone.master.empty());

  const launch torchrun = read({{"RANK", "5"},
                                {"WORLD_SIZE", "8"},
                                {"LOCAL_RANK", "1"},
                                {"MASTER_ADDR", "node7"},
                                {"MASTER_PORT", "1234"}});
  CHECK(torchrun.by == launcher::torchrun);
  CHECK(torchrun.rank == 5);
  CHECK(torchrun.size == 8);
  CHECK(torchrun.local_rank == 1);
  CHECK(torchrun.master == "node7");
  CHECK(torchrun.port == 1234);

  const launch slurm = read({{"SLURM_PROCID", "9"},
                             {"SLURM_NTASKS", "16"},
                             {"SLURM_LOCALID", "1"},
                             {"SLURM_STEP_NODELIST", "gpu[07-08],spare"}});
  CHECK(slurm.by == launcher::slurm);
  CHECK(slurm.rank == 9);
  CHECK(slurm.local_rank == 1);
  CHECK(slurm.master == "gpu07");
  CHECK(slurm.port == 29500);

  const launch open_mpi = read({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "2"}});
  CHECK(open_mpi.by == launcher::open_mpi);
  CHECK(open_mpi.size == 2);
  const launch pmi = read({{"PMI_RANK", "3"}, {"PMI_SIZE", "4"}});
  CHECK(pmi.by == launcher::pmi);
  CHECK(pmi.local_rank == 3);  // nobody said: all are on one machine
}

TEST_CASE("Slurm's lists of machines") {
  CHECK(dsv3::detail::first_machine("a") == "a");
  CHECK(dsv3::detail::first_machine("a,b") == "a");
  CHECK(dsv3::detail::first_machine("rack1-[3,5-9]") == "rack1-3");
  CHECK(dsv3::detail::first_machine("n[001-128].cluster,m2") == "n001.cluster");
}

TEST_CASE("launchers that start each other") {
  // mpirun inside an allocation: Slurm's are those of the daemon that it started on each machine.
  CHECK(read({{"SLURM_PROCID", "1"},
              {"SLURM_NTASKS", "2"},
              {"OMPI_COMM_WORLD_RANK", "9"},
              {"OMPI_COMM_WORLD_SIZE", "16"}})
            .rank == 9);
  // torchrun started by mpirun, one on each machine
  CHECK(read({{"TORCHELASTIC_RUN_ID", "x"},
              {"RANK", "9"},
              {"WORLD_SIZE", "16"},
              {"OMPI_COMM_WORLD_RANK", "1"},
              {"OMPI_COMM_WORLD_SIZE", "2"}})
            .size == 16);
  // an allocation in which nothing was started
  CHECK(read({{"SLURM_NTASKS", "8"}}).size == 1);
  // scripts that pass one launcher's on as another's
  CHECK(
      read({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}})
          .by == launcher::torchrun);
}

TEST_CASE("what makes no sense is refused") {
  CHECK(
      refusal({{"RANK", "0"},
               {"WORLD_SIZE", "2"},
               {"OMPI_COMM_WORLD_RANK", "1"},
               {"OMPI_COMM_WORLD_SIZE", "4"}}) ==
      "launch: torchrun says rank 0 of 2 (RANK), Open MPI rank 1 of 4 (OMPI_COMM_WORLD_RANK), expected them "
      "to agree");
  CHECK(refusal({{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}, {"RANK", "1"}, {"WORLD_SIZE", "2"}}) ==
        "launch: torchrun says rank 1 of 2 (RANK), PMI rank 0 of 2 (PMI_RANK), expected them to agree");
  CHECK(refusal({{"RANK", "2"}, {"WORLD_SIZE", "2"}}) ==
        "launch: RANK is 2 and WORLD_SIZE is 2, expected a rank below it");
  CHECK(refusal({{"RANK", "2"}}) == "launch: RANK is set and WORLD_SIZE is not, expected both of torchrun's");
  CHECK(refusal({{"WORLD_SIZE", "2"}}) ==
        "launch: WORLD_SIZE is set and RANK is not, expected both of torchrun's");
  CHECK(refusal({{"SLURM_PROCID", "one"}}) ==
        "launch: SLURM_PROCID is 'one', expected a whole number from 0 to 1073741824");
  CHECK(refusal({{"RANK", "1x"}, {"WORLD_SIZE", "2"}}).find("RANK is '1x'") != std::string::npos);
  CHECK(refusal({{"RANK", "-1"}, {"WORLD_SIZE", "2"}}).find("RANK is '-1'") != std::string::npos);
  CHECK(refusal({{"MASTER_PORT", "70000"}}) ==
        "launch: MASTER_PORT is '70000', expected a whole number from 1 to 65535");
}
