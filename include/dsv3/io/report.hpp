// SPDX-License-Identifier: MIT
// Draws a run: one HTML page, complete in itself, from the rows of run.jsonl.
#pragma once

#include <dsv3/base/index.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/io/json.hpp>
#include <dsv3/io/report_page.hpp>
#include <dsv3/io/svg_plot.hpp>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::inline DSV3_ABI {

namespace detail {

/// The rows of a log, column by column.
class run_history {
 public:
  explicit run_history(const std::string& path) {
    const mapped_file file{path};
    const std::string_view text = file.text();
    index_t row = 0;
    for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != text.npos; begin = end + 1)
      add(text.substr(begin, end - begin), path + ": row " + std::to_string(++row));
    if (row == 0) raise(path + ": no complete row found, expected at least one to draw");
  }

  /// The values of a key by step; empty where no row has the key.
  plot_series series(const std::string& key, const std::string& name) const {
    const auto found = scalars_.find(key);
    plot_series result = found == scalars_.end() ? plot_series{} : found->second;
    result.name = name;
    return result;
  }
  double last(const std::string& key) const {
    const auto found = scalars_.find(key);
    return found == scalars_.end() ? std::numeric_limits<double>::quiet_NaN() : found->second.y.back();
  }
  const plot_series* find(const std::string& key) const {
    const auto found = scalars_.find(key);
    return found == scalars_.end() ? nullptr : &found->second;
  }

  /// Of each row that has them: the step, and max_vio by layer, or the counts of [layer][expert].
  std::vector<std::pair<double, std::vector<double>>> max_vio;
  std::vector<std::pair<double, std::vector<std::vector<double>>>> load;

 private:
  static double real(const json& value) {
    return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
  }
  static std::vector<double> reals(const json& array) {
    std::vector<double> values;
    for (const json& value : array) values.push_back(real(value));
    return values;
  }

  void add(std::string_view line, const std::string& where) {
    const json row = parse_json(line, where);
    const auto step = static_cast<double>(json_fields{row, where}.integer("step"));
    for (const auto& [key, value] : row.items()) {
      if (value.is_number() || value.is_null()) {
        scalars_[key].x.push_back(step);
        scalars_[key].y.push_back(real(value));
      } else if (key == "max_vio" && value.is_array()) {
        max_vio.emplace_back(step, reals(value));
        if (max_vio.back().second.size() != max_vio.front().second.size())
          raise(where + ": max_vio has " + std::to_string(value.size()) + " layers, the first row has " +
                std::to_string(max_vio.front().second.size()));
      } else if (key == "load" && value.is_array()) {
        std::vector<std::vector<double>> layers;
        for (const json& layer : value) layers.push_back(reals(layer));
        load.emplace_back(step, std::move(layers));
        const auto& first = load.front().second;
        const auto& found = load.back().second;
        if (!std::equal(found.begin(), found.end(), first.begin(), first.end(),
                        [](const auto& a, const auto& b) { return a.size() == b.size(); }))
          raise(where + ": load has another number of layers or experts than the first row that has it");
      }
    }
  }

  std::map<std::string, plot_series> scalars_;
};

/// A part of the loss that the run does without is zero throughout.
inline bool says_something(const plot_series& curve) {
  return std::any_of(curve.y.begin(), curve.y.end(), [](double y) { return std::isfinite(y) && y != 0; });
}

/// Those curves that say something.
inline std::string plot_of(const plot_options& options, std::vector<plot_series> curves) {
  std::erase_if(curves, [](const plot_series& curve) { return !says_something(curve); });
  return curves.empty() ? "" : "<figure>" + line_plot(options, curves) + "</figure>\n";
}

/// A curve whose peaks are far above its ordinary values is readable on a logarithmic axis only.
inline bool wants_log(const plot_series& curve) {
  std::vector<double> values;
  for (const double y : curve.y)
    if (std::isfinite(y) && y > 0) values.push_back(y);
  if (values.empty()) return false;
  std::sort(values.begin(), values.end());
  return values.back() > 12 * values[values.size() / 2];
}

inline std::string scalar_plots(const run_history& run) {
  plot_series held_out = run.series("eval_ce", "held-out main"),
              held_out_mtp = run.series("eval_mtp", "held-out MTP");
  held_out.marked = held_out_mtp.marked = true;
  std::string out = plot_of({.title = "Cross entropy", .x_label = "step", .y_label = "nats per token"},
                            {run.series("ce", "main"), run.series("mtp", "MTP"), held_out, held_out_mtp});
  std::vector<plot_series> accepted;
  for (int depth = 1; depth <= 16; ++depth) {
    accepted.push_back(
        run.series("drafts_accepted_" + std::to_string(depth), "depth " + std::to_string(depth)));
    accepted.back().marked = true;
  }
  out += plot_of({.title = "Drafts accepted", .x_label = "step", .y_label = "share of the judged ones"},
                 std::move(accepted));
  struct single {
    const char *key, *title, *unit;
  };
  for (const single& one :
       {single{"lr", "Learning rate", ""}, single{"grad_norm", "Gradient norm", "before clipping"},
        single{"tokens_per_second", "Speed", "tokens per second"},
        single{"balance", "Balance loss", "as added to the loss"}}) {
    plot_series curve = run.series(one.key, one.title);
    const bool log_y = std::string_view(one.key) != "lr" && wants_log(curve);
    out += plot_of({.title = one.title, .x_label = "step", .y_label = one.unit, .log_y = log_y},
                   {std::move(curve)});
  }
  return out;
}

/// One curve a layer while colours last, otherwise the least, the mean and the greatest of the layers.
inline std::string max_vio_plot(const run_history& run) {
  if (run.max_vio.empty()) return "";
  const std::size_t layers = run.max_vio.front().second.size();
  std::vector<plot_series> curves(layers <= plot_colours ? layers : 3);
  for (std::size_t i = 0; i < curves.size(); ++i)
    curves[i].name = layers <= plot_colours ? "MoE layer " + std::to_string(i)
                                            : std::string(i == 0   ? "least"
                                                          : i == 1 ? "mean"
                                                                   : "greatest") +
                                                  " of " + std::to_string(layers) + " layers";
  for (const auto& [step, values] : run.max_vio) {
    double sum = 0;
    for (const double value : values) sum += value;
    for (std::size_t i = 0; i < curves.size(); ++i) {
      curves[i].x.push_back(step);
      curves[i].y.push_back(layers <= plot_colours ? values[i]
                            : i == 0               ? *std::min_element(values.begin(), values.end())
                            : i == 1               ? sum / static_cast<double>(layers)
                                                   : *std::max_element(values.begin(), values.end()));
    }
  }
  return plot_of(
      {.title = "Load imbalance (MaxVio)", .x_label = "step", .y_label = "most loaded expert / mean - 1"},
      std::move(curves));
}

/// One map a layer: how many times the mean load each expert got, neighbouring rows of the log averaged where
/// there are more than the page should carry.
inline std::string load_maps(const run_history& run) {
  if (run.load.empty()) return "";
  std::string out;
  const auto& shape_of_all = run.load.front().second;
  std::size_t cells = 0;
  for (const auto& layer : shape_of_all) cells += layer.size();
  const std::size_t most = std::clamp<std::size_t>(200'000 / std::max<std::size_t>(cells, 1), 8, 96);
  const std::size_t columns = std::min(run.load.size(), most);
  for (std::size_t layer = 0; layer < shape_of_all.size(); ++layer) {
    const std::size_t experts = shape_of_all[layer].size();
    heat_map_data map{.values = std::vector<double>(experts * columns),
                      .rows = static_cast<index_t>(experts)};
    for (std::size_t column = 0; column < columns; ++column) {
      const index_range part = split_range(static_cast<index_t>(run.load.size()),
                                           static_cast<index_t>(column), static_cast<index_t>(columns));
      std::vector<double> counts(experts, 0.0);
      double total = 0;
      for (index_t row = part.begin; row < part.end; ++row)
        for (std::size_t expert = 0; expert < experts; ++expert) {
          const double count = run.load[static_cast<std::size_t>(row)].second[layer][expert];
          counts[expert] += count, total += count;
        }
      map.x.push_back(run.load[static_cast<std::size_t>(part.begin)].first);
      for (std::size_t expert = 0; expert < experts; ++expert)
        map.values[expert * columns + column] = counts[expert] * static_cast<double>(experts) / total;
    }
    const int height = 98 + static_cast<int>(std::clamp<std::size_t>(14 * experts, 90, 420));
    out += "<figure>" +
           heat_map({.title = "Expert load, MoE layer " + std::to_string(layer),
                     .x_label = "step",
                     .y_label = "expert; load as a multiple of the mean",
                     .height = height},
                    map) +
           "</figure>\n";
  }
  return out;
}

inline std::string bytes_text(double bytes) {
  return bytes < 1 << 30 ? formatted("%.1f MiB", bytes / (1 << 20))
                         : formatted("%.2f GiB", bytes / (1 << 30));
}

inline std::string tile(std::string_view name, const std::string& value, const std::string& note) {
  return "<div class=\"tile\"><span>" + escaped_markup(name) + "</span><b>" + escaped_markup(value) +
         "</b><span>" + escaped_markup(note) + "</span></div>\n";
}

/// The figures one asks for first; those the run does not have are left out.
inline std::string tiles(const run_history& run) {
  std::string out;
  const auto change = [&](const char* key, const char* name) {
    const plot_series* curve = run.find(key);
    if (curve == nullptr || !says_something(*curve)) return;
    out += tile(name, formatted("%.4f", curve->y.back()),
                formatted("from %.4f at step %.0f", curve->y.front(), curve->x.front()));
  };
  change("eval_ce", "Held-out loss");
  change("ce", "Training loss");
  change("mtp", "MTP loss");
  if (run.find("tokens") != nullptr)
    out += tile("Tokens", plot_number(run.last("tokens")),
                formatted("in %.0f steps", run.find("tokens")->x.back()));
  if (const plot_series* speed = run.find("tokens_per_second")) {
    std::vector<double> values = speed->y;
    std::erase_if(values, [](double value) { return !std::isfinite(value); });
    std::sort(values.begin(), values.end());
    if (!values.empty())
      out += tile("Tokens per second", plot_number(values[values.size() / 2]), "median step");
  }
  if (run.find("peak_bytes") != nullptr)
    out += tile("Peak memory", bytes_text(run.last("peak_bytes")),
                formatted("%.0f bytes", run.last("peak_bytes")));
  if (!run.max_vio.empty() && !run.max_vio.back().second.empty()) {
    const auto& layers = run.max_vio.back().second;
    out += tile("MaxVio", formatted("%.3f", *std::max_element(layers.begin(), layers.end())),
                "worst layer, last step");
  }
  return out;
}

/// Every value of the configuration on its own line: "optimizer.beta2 | 0.95".
inline std::string config_rows(const json& value, const std::string& name) {
  if (!value.is_object())
    return "<tr><td>" + escaped_markup(name) + "</td><td>" + escaped_markup(quoted(value)) + "</td></tr>\n";
  std::string out;
  for (const auto& [key, inner] : value.items())
    out += config_rows(inner, name.empty() ? key : name + "." + key);
  return out;
}

}  // namespace detail

/// Writes `html_path` from the rows of `log_path` (docs/formats.md names the fields). `config` is shown as a
/// table.
inline void write_report(const std::string& html_path, const std::string& log_path, const std::string& title,
                         const json& config) {
  using namespace detail;
  const run_history run{log_path};
  std::string page = std::string(report_head) + "<title>" + escaped_markup(title) +
                     "</title></head><body>\n<h1>" + escaped_markup(title) +
                     "</h1>\n<section class=\"tiles\">\n" + tiles(run) + "</section>\n";
  page += "<section class=\"figures\">\n" + scalar_plots(run) + max_vio_plot(run) + "</section>\n";
  if (!run.load.empty())
    page += "<h2>Expert load</h2>\n<section class=\"figures\">\n" + load_maps(run) + "</section>\n";
  page += "<h2>Configuration</h2>\n<table>\n" + config_rows(config, "") + "</table>\n";
  write_file(html_path, page + std::string(report_tail));
}

}  // namespace dsv3::inline DSV3_ABI
