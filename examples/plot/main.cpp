// SPDX-License-Identifier: MIT
// dsv3-plot: one figure of several runs; the curves of one field of their run.jsonl, as SVG.
#include <support/command_line.hpp>
#include <support/flag_checks.hpp>

#include <dsv3/io.hpp>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

using namespace dsv3;

namespace {

// A field that is an array (one number per layer) is drawn as its mean. Each point is the mean of `smooth`
// rows.
plot_series curve(const std::string& name, const std::string& path, const std::string& field,
                  index_t smooth) {
  const mapped_file file{path};
  const std::string_view text = file.text();
  plot_series result{.name = name, .x = {}, .y = {}};
  double steps = 0, sum = 0;
  index_t gathered = 0, row = 0;
  for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != text.npos; begin = end + 1) {
    const std::string where = path + ": row " + std::to_string(++row);
    const json object = parse_json(text.substr(begin, end - begin), where);
    json_fields fields{object, where};
    if (!fields.present(field)) continue;
    const json found = object[field].is_array() ? object[field] : json::array({object[field]});
    double value = 0;
    for (const json& each : found) {
      if (!each.is_number()) fields.refuse(field, object[field], "a number or an array of numbers");
      value += each.get<double>() / static_cast<double>(found.size());
    }
    steps += fields.number("step");
    sum += value;
    if (++gathered < smooth) continue;
    result.x.push_back(steps / static_cast<double>(gathered));
    result.y.push_back(sum / static_cast<double>(gathered));
    steps = sum = 0;
    gathered = 0;
  }
  if (result.x.empty()) raise(path + ": no row has a field \"" + field + "\"");
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Draws one field of the logs of one or more training runs.", "dsv3-plot"};
  std::vector<std::string> runs;
  std::string field = "ce", out;
  plot_options options{.title = {}, .x_label = "step", .y_label = {}};
  index_t smooth = 1;
  app.add_option("--run", runs, "NAME=FOLDER of a run, or NAME=FILE of its run.jsonl; once for each curve")
      ->required();
  app.add_option("--field", field, "the field to draw; an array is drawn as its mean")->capture_default_str();
  app.add_option("--smooth", smooth, "rows that make one point")
      ->capture_default_str()
      ->check(support::whole_number(1));
  app.add_option("--title", options.title, "above the figure");
  app.add_option("--y-label", options.y_label, "beside the figure; default: the field's name");
  app.add_flag("--log", options.log_y, "logarithmic y axis");
  app.add_option("--out", out, "the SVG file to write")->required();
  return support::run_program(app, argc, argv, [&] {
    if (options.y_label.empty()) options.y_label = field;
    std::vector<plot_series> curves;
    for (const std::string& run : runs) {
      const std::size_t equals = run.find('=');
      if (equals == std::string::npos || equals == 0)
        throw support::usage_error("--run: found \"" + run + "\", expected NAME=FOLDER");
      std::string path = run.substr(equals + 1);
      if (std::filesystem::is_directory(path)) path += "/run.jsonl";
      curves.push_back(curve(run.substr(0, equals), path, field, smooth));
    }
    atomic_file file{out};
    file.append(line_plot(options, curves) + "\n");
    file.commit();
    return 0;
  });
}
