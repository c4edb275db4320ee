// SPDX-License-Identifier: MIT
// The flags of dsv3-train.
#include "flags.hpp"

#include <support/flag_checks.hpp>

#include "state_files.hpp"

#include <support/command_line.hpp>
#include <support/gpu.hpp>

#include <dsv3/model/config_file.hpp>
#include <dsv3/model/named_config.hpp>
#include <dsv3/model/stage_split.hpp>
#include <dsv3/train/data.hpp>
#include <dsv3/train/pipeline/methods.hpp>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <thread>

namespace dsv3_train {

namespace {

using support::not_negative, support::number, support::one_of, support::positive_number,
    support::whole_number;

CLI::Validator share() { return number(0, 1, "a share from 0 to 1"); }
CLI::Validator below_one() { return number(0, 0.9999999, "a number from 0 to below 1"); }

class flags {
 public:
  explicit flags(CLI::App& app);
  run_settings resolved();

 private:
  template <class Option>
  void add_recipe(Option&& option);
  void read_recipe();
  void read_tokenizer();
  void read_ranks();
  static std::vector<std::string> own_text();

  CLI::App& app_;
  run_settings s_;
  dsv3::training_schedule::short_options short_;
  std::string config_, tokenizer_, device_ = "auto", recompute_ = "nothing", schedule_ = "short";
  double init_deviation_ = 0;
  index_t vocab_ = 0;
  int ranks_ = 1;
  // Of the recipe, by the names of its choices.
  std::string accumulator_ = "fp32", scales_ = "real", inputs_ = "tile", gradients_ = "tile",
              weights_ = "block", gradient_format_ = "e4m3", attention_output_ = "e5m6",
              swiglu_input_ = "e4m3", shadow_, exchanged_scales_ = "power-of-two";
  index_t promotion_ = 128;
};

flags::flags(CLI::App& app) : app_(app) {
  s_.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  constexpr index_t many = index_t{1} << 40;
  const auto option = [&](const char* name, auto& value, const char* text, const CLI::Validator& check) {
    return app_.add_option(name, value, text)->capture_default_str()->take_last()->check(check);
  };
  const auto plain = [&](const char* name, auto& value, const char* text) {
    return app_.add_option(name, value, text)->capture_default_str()->take_last();
  };

  const auto model = [](CLI::Option* o) { o->group("Model"); };
  auto* preset = plain("--preset", s_.model_name,
                       "Size by name: tiny, midi, mini, small, bench-3b, moonlight, v2-lite, v2, v3");
  auto* config = plain("--config", config_, "A config.json, or a folder that holds one, instead of --preset");
  preset->excludes(config);
  model(preset), model(config);
  model(app_.add_option("--vocab", vocab_, "Rows of the embedding; the model's own when not given")
            ->take_last()
            ->check(whole_number(1, many)));
  model(option("--precision", s_.precision,
               "fp32, bf16 (float masters), fp8 (bf16 whose linear layers multiply 8-bit tiles) or fp64",
               one_of({"fp32", "bf16", "fp8", "fp64"})));
  model(app_.add_option("--init-std", init_deviation_,
                        "Deviation of the initial matrices; the model's own when not given")
            ->take_last()
            ->check(positive_number()));

  add_recipe(option);

  const auto data = [](CLI::Option* o) { o->group("Data"); };
  data(app_.add_option(
      "--data", s_.data,
      "Files or folders of text, or files of tokens (.dsv3tok, .bin) from dsv3-tokenize pack; "
      "this repository's own text when not given"));
  data(plain("--tokenizer", tokenizer_,
             "A tokenizer.json, or a folder that holds one; without it a byte is a token"));
  data(option("--fim-rate", s_.source.fim.rate,
              "Share of the documents that are told with their middle last (the report's: 0.1)", share()));
  data(option("--held-out", s_.held_out, "Share of the text that is evaluated on and never trained on",
              share()));
  data(option("--batch", s_.shape.rows, "Rows that go through the model together", whole_number(1, many)));
  data(option("--seq", s_.shape.length, "Tokens of a row", whole_number(1, many)));
  data(option("--accumulate", s_.shape.micro_batches, "Batches whose gradients make one step",
              whole_number(1, many)));

  const auto run = [](CLI::Option* o) { o->group("Run"); };
  run(option("--steps", s_.steps, "Steps of the whole run, those before a resume included",
             whole_number(1, many)));
  run(option("--seed", s_.seed, "Decides initial weights, order of the data and samples", whole_number(0)));
  run(option("--threads", s_.threads, "Threads; results depend on their number and on nothing else",
             whole_number(1, 4096)));
  run(option("--device", device_, "cpu, cuda, or auto: cuda where this program has it and there is a GPU",
             one_of({"auto", "cpu", "cuda"})));
  run(option(
      "--recompute", recompute_,
      "What backward computes again to save memory: nothing; cheap: norms, up-projections, SwiGLU; blocks: "
      "everything but the blocks' inputs",
      one_of({"nothing", "cheap", "blocks"})));
  run(option("--max-bad-steps", s_.max_bad_steps,
             "Stop after so many steps in a row whose loss or gradient is not finite",
             whole_number(1, many)));
  run(app_.add_flag("--dry-run", s_.dry_run, "Print configuration, memory and data, then end"));

  const auto ranks = [](CLI::Option* o) { o->group("Ranks"); };
  ranks(option("--ranks", ranks_,
               "Ranks that train together: threads of this program, or the processes that mpirun started",
               whole_number(1, 1024)));
  ranks(option("--expert-ranks", s_.mesh.expert, "Of these, how many share the experts of a layer",
               whole_number(1, 1024)));
  ranks(option("--pipeline-ranks", s_.mesh.pipeline,
               "Of these, how many hold the network's stages; the others train on data of their own",
               whole_number(1, 1024)));
  ranks(option("--pipeline-schedule", s_.pipeline_schedule, "In which order batches go through the stages",
               one_of({"1f1b", "zb1p", "dualpipe", "dualpipe_v"})));

  const auto files = [](CLI::Option* o) { o->group("Files"); };
  files(plain("--out", s_.out, "Folder of the run: log, report, checkpoints"));
  files(plain("--resume", s_.resume,
              "auto: from the newest checkpoint in --out, if there is one; or a folder"));
  files(option("--save-every", s_.save_every, "Steps between checkpoints; 0: only at the end",
               whole_number(0, many)));
  files(option("--keep", s_.checkpoints_kept, "Checkpoints that stay", whole_number(1, many)));
  files(option("--eval-every", s_.eval_every, "Steps between evaluations; 0: only before and after",
               whole_number(0, many)));
  files(option("--eval-rows", s_.eval_rows, "Rows of held-out text an evaluation reads at most",
               whole_number(1, many)));
  files(option(
      "--eval-draft", s_.eval_draft,
      "Tokens that the MTP module drafts per step when an evaluation goes on from held-out text; 0: none",
      whole_number(0, 16)));
  files(option("--print-every", s_.print_every, "Steps between lines where output is no terminal",
               whole_number(1, many)));
  files(option("--load-every", s_.load_every, "Steps between log rows with the load of every expert",
               whole_number(1, many)));

  const auto optimiser = [](CLI::Option* o) { o->group("Optimiser and schedule"); };
  optimiser(
      option("--schedule", schedule_,
             "short: rates below, in shares of --steps; v3: the report's rates by tokens, whose batch ramp "
             "decides how many batches make a step",
             one_of({"short", "v3"})));
  optimiser(option("--lr", short_.peak, "Highest learning rate", positive_number()));
  optimiser(option("--lr-final", short_.final, "Learning rate at the end", not_negative()));
  optimiser(option("--warmup", short_.warmup_steps, "Steps of linear warm-up", whole_number(0, many)));
  optimiser(option("--lr-hold", short_.constant_share, "Share of the steps before the rate begins to fall",
                   share()));
  optimiser(option("--beta1", s_.optimizer.beta1, "Decay of the first moment", below_one()));
  optimiser(option("--beta2", s_.optimizer.beta2, "Decay of the second moment", below_one()));
  optimiser(
      option("--epsilon", s_.optimizer.epsilon, "Added to the root of the second moment", positive_number()));
  optimiser(option("--weight-decay", s_.optimizer.weight_decay, "Of matrices; norm gains do not decay",
                   not_negative()));
  optimiser(option("--clip", s_.clip, "Largest norm of all gradients together", positive_number()));
  optimiser(option("--bias-update", short_.bias_rate,
                   "Rate of the routing bias (gamma); 0: no balancing by bias", not_negative()));
  optimiser(option("--balance", s_.balance, "Coefficient of the sequence-wise balance loss (alpha)",
                   not_negative()));
  optimiser(option("--mtp-weight", short_.mtp_weight, "Weight of the MTP losses (lambda)", not_negative()));
  optimiser(option("--mtp-weight-late", short_.late_mtp_weight, "The same for the last third of the steps",
                   not_negative()));

  const auto text = [](CLI::Option* o) { o->group("Sample at the end"); };
  text(plain("--sample", s_.prompt, "Text that the sample goes on from"));
  text(option("--sample-bytes", s_.sample_bytes, "Length of the sample; 0: none", whole_number(0, 1 << 20)));
  text(option("--temperature", s_.temperature, "Of the sample; 0: always the likeliest token",
              not_negative()));
}

// One flag for each choice, so that a run can differ from the report's in just one.
template <class Option>
void flags::add_recipe(Option&& option) {
  const auto recipe = [](CLI::Option* o) { o->group("8-bit recipe (--precision fp8)"); };
  recipe(option("--fp8-accumulator", accumulator_,
                "What adds up products: fp32, or hopper: a model of that matrix unit's short sums",
                one_of({"fp32", "hopper"})));
  recipe(option("--fp8-promotion", promotion_,
                "Elements of a sum after which it moves to a float, a multiple of 128; 0: only at its end",
                whole_number(0, index_t{1} << 30)));
  recipe(option("--fp8-inputs", inputs_,
                "What shares a scale in a product's input: a tile of 1x128, a block "
                "of 128x128, the tensor",
                one_of({"tile", "block", "tensor"})));
  recipe(option("--fp8-gradients", gradients_, "The same for the gradient of its output",
                one_of({"tile", "block", "tensor"})));
  recipe(option("--fp8-weights", weights_, "The same for its weight", one_of({"block", "tensor"})));
  recipe(option("--fp8-gradient-format", gradient_format_, "Of the gradient of its output",
                one_of({"e4m3", "e5m2"})));
  recipe(option("--fp8-scales", scales_, "Scales of tiles and blocks", one_of({"real", "power-of-two"})));
  recipe(option("--fp8-exchanged-scales", exchanged_scales_,
                "Scales of the attention's output and of rows that go to experts",
                one_of({"real", "power-of-two"})));
  recipe(option("--fp8-attention-output", attention_output_, "How the attention's output waits for backward",
                one_of({"bf16", "e4m3", "e5m6"})));
  recipe(app_.add_option("--shadow", shadow_,
                         "bf16: make steps in bf16 beside, and log in shadow.jsonl how far "
                         "gradients differ and what quantisers do to every operand")
             ->take_last()
             ->check(one_of({"bf16"})));
  recipe(option("--shadow-every", s_.shadow_every, "Steps between those", whole_number(1, index_t{1} << 40)));
  recipe(option("--fp8-swiglu-input", swiglu_input_, "How SwiGLU's input waits for backward",
                one_of({"bf16", "e4m3", "e5m6"})));
}

void flags::read_recipe() {
  using namespace dsv3;
  const auto scales = [](const std::string& name) {
    return name == "real" ? scale_kind::real : scale_kind::power_of_two;
  };
  const auto group = [](const std::string& name) {
    return name == "tile" ? scale_group::tile : name == "block" ? scale_group::block : scale_group::tensor;
  };
  const auto stored = [](const std::string& name) {
    return name == "bf16" ? stored_format::bf16 : name == "e4m3" ? stored_format::e4m3 : stored_format::e5m6;
  };
  if (promotion_ % 128 != 0)
    throw support::usage_error("--fp8-promotion is " + std::to_string(promotion_) +
                               ", expected a multiple of 128, or 0");
  if (s_.precision != "fp8")
    for (const CLI::Option* given : app_.get_options())
      if (given->get_name().starts_with("--fp8-") && given->count() > 0)
        throw support::usage_error(given->get_name() + " is given, --precision is " + s_.precision +
                                   ": expected --precision fp8 beside it");
  if (!shadow_.empty() && s_.precision != "fp8")
    throw support::usage_error("--shadow is given, --precision is " + s_.precision +
                               ": expected --precision fp8 beside it");
  if (shadow_.empty()) s_.shadow_every = 0;
  s_.model.recipe = {.product = {.accumulator = accumulator_ == "hopper" ? accumulator_model::hopper_fp22
                                                                         : accumulator_model::fp32,
                                 .promotion = promotion_},
                     .scales = scales(scales_),
                     .exchanged_scales = scales(exchanged_scales_),
                     .inputs = group(inputs_),
                     .gradients = group(gradients_),
                     .weights = group(weights_),
                     .gradient = gradient_format_ == "e5m2" ? gradient_format::e5m2 : gradient_format::e4m3,
                     .attention_output = stored(attention_output_),
                     .swiglu_input = stored(swiglu_input_)};
}

run_settings flags::resolved() {
  using support::usage_error;
  s_.started = support::given_by_user([] { return dsv3::read_launch(); });
  if (s_.started.size > 1) {
    if (app_.count("--ranks") > 0 && ranks_ != s_.started.size)
      throw usage_error("--ranks is " + std::to_string(ranks_) + ", " + name_of(s_.started.by) + " started " +
                        std::to_string(s_.started.size) + " processes");
    ranks_ = s_.started.size;
  }
  s_.on_gpu = support::chooses_gpu(device_ == "auto" && ranks_ > 1 ? "cpu" : device_);
  if (s_.on_gpu && !shadow_.empty())
    throw usage_error("--shadow compares on the CPU: expected --device cpu beside it");
  const auto shown = [&] {
    for (const CLI::Option* option : app_.get_options()) {
      if (option->get_lnames().empty() || option->get_group().empty() || option->get_group() == "Options")
        continue;
      std::string value;
      for (const std::string& word : option->results()) value += (value.empty() ? "" : " ") + word;
      s_.shown.emplace_back(option->get_lnames().front(),
                            option->count() > 0 ? value : option->get_default_str());
    }
  };
  shown();
  support::given_by_user([&] {
    if (config_.empty()) {
      s_.model = dsv3::named_config(s_.model_name);
    } else {
      const dsv3::config_file file = dsv3::read_config(config_);
      if (file.block_scales)
        throw usage_error(config_ + ": weights in 8 bits cannot be trained, expected no quantization_config");
      s_.model = file.model;
      s_.model_name = config_;
    }
    if (vocab_ > 0) s_.model.vocab = vocab_;
    dsv3::require(s_.model.check());
  });
  read_recipe();
  read_tokenizer();
  if (s_.model.scoring != dsv3::router_scoring::sigmoid && s_.model.experts > 0)
    throw usage_error(s_.model_name +
                      ": its router scores by softmax, this trainer routes by sigmoid and bias");
  if (app_.count("--init-std") > 0) s_.model.init_deviation = init_deviation_;
  if (s_.shape.length > s_.model.max_positions)
    throw usage_error("--seq is " + std::to_string(s_.shape.length) + ", the model is for at most " +
                      std::to_string(s_.model.max_positions) + " positions");

  using dsv3::keep;
  s_.shape.kept = recompute_ == "nothing" ? keep::everything
                  : recompute_ == "cheap" ? keep::attention
                                          : keep::inputs;
  if (schedule_ == "v3") {
    s_.schedule = dsv3::training_schedule::deepseek_v3();
    s_.shape.micro_batches = dsv3::ceil_div(s_.schedule.batch.end, s_.shape.rows);
  } else {
    short_.steps = s_.steps;
    short_.sequences = s_.shape.rows * s_.shape.micro_batches;
    s_.schedule = dsv3::training_schedule::short_run(short_);
  }
  read_ranks();
  if (s_.data.empty()) s_.data = own_text();
  if (s_.resume.empty() && !s_.dry_run && holds_checkpoint(s_.out))
    throw usage_error("--out is " + s_.out +
                      ", which holds the checkpoints of a run: expected another folder, or --resume auto");
  if (s_.resume == "auto") s_.resume = holds_checkpoint(s_.out) ? s_.out : "";
  return std::move(s_);
}

// Who shares what: every count must divide what it shares out.
void flags::read_ranks() {
  using support::usage_error;
  const auto number = [](index_t n) { return std::to_string(n); };
  if (ranks_ % (s_.mesh.expert * s_.mesh.pipeline) != 0)
    throw usage_error("--ranks is " + number(ranks_) + ", expected a multiple of --expert-ranks times " +
                      "--pipeline-ranks, " + number(s_.mesh.expert * s_.mesh.pipeline));
  s_.mesh.data = ranks_ / (s_.mesh.expert * s_.mesh.pipeline);
  if (ranks_ == 1) return;
  if (s_.on_gpu) throw usage_error("--ranks are threads of the host: expected --device cpu beside it");
  if (!shadow_.empty())
    throw usage_error("--shadow compares the steps of one rank, --ranks is " + number(ranks_));
  if (s_.mesh.expert > 1 && (s_.model.experts == 0 || s_.model.experts % s_.mesh.expert != 0))
    throw usage_error("--expert-ranks is " + number(s_.mesh.expert) + ", the model's " +
                      number(s_.model.experts) + " experts do not divide among them");
  const index_t readers = s_.mesh.data * s_.mesh.expert;
  if (s_.shape.micro_batches % readers != 0)
    throw usage_error("--accumulate is " + number(s_.shape.micro_batches) + ", expected a multiple of the " +
                      number(readers) + " ranks that read batches of their own");
  if (s_.mesh.pipeline == 1) return;
  support::given_by_user([&] {
    const auto& schedules = dsv3::pipeline::method_named(s_.pipeline_schedule);
    dsv3::require(schedules.check(s_.mesh.pipeline, static_cast<int>(s_.shape.micro_batches / readers)));
    dsv3::require(dsv3::check_stage_split(s_.model, schedules.places(s_.mesh.pipeline).stages()));
  });
}

// The tokenizer, and what model and tokenizer must agree on.
void flags::read_tokenizer() {
  if (!tokenizer_.empty())
    s_.source.tokenizer = support::given_by_user([&] { return dsv3::stored_tokenizer::load(tokenizer_); });
  s_.source.vocab = s_.model.vocab;
  s_.source.fim.seed = s_.seed;
  s_.source.threads = s_.threads;
  if (const dsv3::status bad = s_.source.check(); !bad)
    throw support::usage_error((tokenizer_.empty() ? s_.model_name : tokenizer_) + ": " + bad.message());
  const dsv3::document_marks marks{s_.source.tokenizer.words};
  s_.model.bos_id = marks.begin < 0 ? marks.end : marks.begin;
  s_.model.eos_id = marks.end;
}

// The text of the source tree that this program was built from, if it is still there.
std::vector<std::string> flags::own_text() {
  const std::filesystem::path source =
      std::filesystem::path(__FILE__).parent_path().parent_path().parent_path();
  std::vector<std::string> paths;
  std::error_code unreadable;
  if (!std::filesystem::exists(source / "include" / "dsv3", unreadable))
    throw support::usage_error("--data is not given and the source folder " + source.string() +
                               " is gone: name files or folders of text");
  const auto add = [&](const std::filesystem::path& path) {
    if (std::filesystem::exists(path, unreadable)) paths.push_back(path.string());
  };
  for (const char* part : {"README.md", "include", "examples", "bench"}) add(source / part);
  for (const char* part : {"docs", "tests"})  // but for what is no text to read
    for (const auto& entry : std::filesystem::directory_iterator(source / part, unreadable))
      if (const auto name = entry.path().filename(); name != "figures" && name != "data" && name != "fuzz")
        add(entry.path());
  return paths;
}

}  // namespace

int with_settings(int argc, char** argv, int (*act)(const run_settings&, const dsv3::training_data&)) {
  CLI::App app{"Trains a model on text. Writes log, report and checkpoints to the folder --out.",
               "dsv3-train"};
  flags given{app};
  return support::run_program(app, argc, argv, [&] {
    const run_settings settings = given.resolved();
    std::optional<dsv3::training_data> data;
    support::given_by_user([&] { data.emplace(settings.data, settings.held_out, settings.source); });
    return act(settings, *data);
  });
}

}  // namespace dsv3_train
