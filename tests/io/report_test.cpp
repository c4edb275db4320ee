// SPDX-License-Identifier: MIT
#include <dsv3/io/report.hpp>
#include <dsv3/io/run_log.hpp>

#include <io/folder.hpp>
#include <support/run.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

using namespace dsv3;
using support::raised;

namespace {

std::size_t count_of(const std::string& text, std::string_view part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

/// The first attribute `name` after `from`.
std::string attribute(const std::string& text, const std::string& name, std::size_t from = 0) {
  const std::size_t begin = text.find(name + "=\"", from) + name.size() + 2;
  return text.substr(begin, text.find('"', begin) - begin);
}

/// Every tag that is opened is closed, in order; names and quotes suit a browser and XML.
bool balanced(const std::string& markup) {
  std::vector<std::string> open;
  for (std::size_t at = markup.find('<'); at != markup.npos; at = markup.find('<', at + 1)) {
    const std::size_t end = markup.find('>', at);
    if (end == markup.npos) return false;
    const std::string tag = markup.substr(at + 1, end - at - 1);
    const std::string name = tag.substr(0, tag.find_first_of(" \n/", tag[0] == '/' ? 1 : 0));
    if (tag.back() == '/') continue;
    if (tag[0] != '/') {
      open.push_back(name);
    } else {
      if (open.empty() || "/" + open.back() != name) return false;
      open.pop_back();
    }
  }
  return open.empty();
}

void write_run(const std::string& path, std::size_t layers) {
  jsonl_log log{path};
  for (int step = 1; step <= 40; ++step) {
    json_row row;
    row.add("step", step).add("tokens", 64 * step).add("loss", 6.0 / step).add("ce", 5.0 / step);
    row.add("mtp", 5.5 / step).add("balance", 1e-4).add("lr", 1e-3).add("grad_norm", step == 20 ? NAN : 1.0);
    row.add("tokens_per_second", 1000.0 + step).add("max_vio", std::vector<double>(layers, 2.0 / step));
    row.add("peak_bytes", 3 << 20);
    if (step % 10 == 0) row.add("load", std::vector<std::vector<int>>(layers, {0, 8, 4, 4}));
    log.append(row);
    if (step % 20 == 0) log.append(json_row{}.add("step", step).add("eval_ce", 5.25 / step));
  }
}

}  // namespace

TEST_CASE("line_plot: a curve lies where its numbers say") {
  const plot_series curve{.name = "a<b", .x = {0, 5, 10}, .y = {0, 10, 20}};
  const std::string svg = line_plot({.title = "T & U", .x_label = "x", .y_label = "y"}, std::span(&curve, 1));
  CHECK(balanced(svg));
  CHECK(svg.find("T &amp; U") != std::string::npos);
  CHECK(attribute(svg, "data-name") == "a&lt;b");
  // Three points on a straight line from the left edge to the right one; y grows upwards.
  const std::string path = attribute(svg, " d");
  double x[3], y[3];
  REQUIRE(std::sscanf(path.c_str(), "M%lf %lfL%lf %lfL%lf %lf", &x[0], &y[0], &x[1], &y[1], &x[2], &y[2]) ==
          6);
  CHECK(x[0] == detail::plot_left);
  CHECK(x[2] == 720 - detail::plot_right);
  CHECK(x[1] == doctest::Approx((x[0] + x[2]) / 2));
  CHECK(y[1] == doctest::Approx((y[0] + y[2]) / 2).epsilon(1e-3));
  CHECK(y[0] > y[2]);
  CHECK(y[0] == 300 - detail::plot_bottom);
}

TEST_CASE("line_plot: what cannot be drawn is a gap, on a logarithmic axis what is not positive too") {
  const plot_series curve{.name = "a", .x = {1, 2, 3, 4, 5}, .y = {1, NAN, 10, 0, 100}};
  CHECK(count_of(attribute(line_plot({}, std::span(&curve, 1)), " d"), "M") == 2);
  const std::string svg = line_plot({.log_y = true}, std::span(&curve, 1));
  CHECK(count_of(attribute(svg, " d"), "M") == 3);
  CHECK(attribute(svg, "data-log") == "1");
  CHECK(attribute(svg, "data-y").starts_with("1 100 "));
}

TEST_CASE("line_plot: odd data give a drawing all the same") {
  for (const std::vector<double>& y : std::vector<std::vector<double>>{
           {}, {NAN}, {3}, {0, 0}, {1e16, 1e16 + 2}, {-1e308, 1e308}, {1e-300, 2e-300}, {INFINITY, 1}}) {
    for (const bool log_y : {false, true}) {
      plot_series curve{.name = "a", .y = y};
      for (std::size_t i = 0; i < y.size(); ++i) curve.x.push_back(static_cast<double>(i));
      CHECK(balanced(line_plot({.log_y = log_y}, std::span(&curve, 1))));
    }
  }
  CHECK(balanced(line_plot({}, {})));
  const plot_series uneven{.name = "a", .x = {1, 2}, .y = {1}};
  CHECK(raised([&] { line_plot({}, std::span(&uneven, 1)); }) == "line_plot: a has 2 x and 1 y");
}

TEST_CASE("line_plot: a long curve stays small and keeps its peak") {
  plot_series curve{.name = "a", .x = {}, .y = {}};
  for (int i = 0; i < 1'000'000; ++i) curve.x.push_back(i), curve.y.push_back(i == 777'777 ? 1000 : 1);
  const std::string svg = line_plot({}, std::span(&curve, 1));
  CHECK(svg.size() < 60'000);
  const double top = std::stod(attribute(svg, "data-y").substr(attribute(svg, "data-y").rfind(' ')));
  double highest = 1e9;
  const std::string path = attribute(svg, " d");
  for (std::size_t at = path.find(' '); at != path.npos; at = path.find(' ', at + 1))
    highest = std::min(highest, std::stod(path.substr(at)));
  CHECK(highest < top + 15);
}

TEST_CASE("line_plot: more curves than colours are told apart by dashes") {
  std::vector<plot_series> curves(8, plot_series{.name = "a", .x = {1, 2}, .y = {1, 2}});
  const std::string svg = line_plot({}, curves);
  CHECK(count_of(svg, "stroke-dasharray") == 2 * 2);  // curve and legend
}

TEST_CASE("axes carry short numbers") {
  CHECK(detail::plot_number(0) == "0");
  CHECK(detail::plot_number(0.25) == "0.25");
  CHECK(detail::plot_number(9999) == "9999");
  CHECK(detail::plot_number(12000) == "12k");
  CHECK(detail::plot_number(1.5e6) == "1.5M");
  CHECK(detail::plot_number(2e9) == "2G");
  CHECK(detail::plot_number(14.8e12) == "14.8T");
  CHECK(detail::plot_number(-0.00012) == "-1.2e-4");
  const detail::plot_axis axis{-0.1, 1.1, 0, 100, false, 5};
  CHECK(axis.marks() == std::vector<double>{0, 0.5, 1});
  CHECK(detail::plot_axis{1, 1000, 0, 1, true, 5}.marks() == std::vector<double>{1, 10, 100, 1000});
}

TEST_CASE("heat_map: each cell once, coloured by its distance from the neutral value") {
  const heat_map_data map{.x = {1, 2, 3}, .values = {0, 1, 2, 1, 5, NAN}, .rows = 2};
  const std::string svg = heat_map({.title = "T"}, map);
  CHECK(balanced(svg));
  const auto cells_of = [&](int colour) {
    const std::size_t at = svg.find("<path style=\"fill:var(--h" + std::to_string(colour) + ")");
    return at == svg.npos ? 0 : count_of(attribute(svg, " d", at), "M");
  };
  CHECK(cells_of(0) == 1);  // nothing
  CHECK(cells_of(4) == 2);  // the mean
  CHECK(cells_of(8) == 2);  // twice the mean and more
  CHECK(count_of(svg, "<path") == 3);
  CHECK(attribute(svg, "data-cells") == "0 1 2 1 5 nan");
  CHECK(raised([&] {
          heat_map({}, {.x = {1, 2}, .values = {1, 2, 3}, .rows = 2});
        }) == "heat_map: 3 values, expected 2 rows of 2");
}

TEST_CASE("report: one page with a figure of each kind, complete in itself") {
  const support::temporary_folder folder;
  write_run(folder / "run.jsonl", 2);
  write_report(folder / "report.html", folder / "run.jsonl", "a <run>",
               {{"model", {{"hidden", 8}}}, {"name", "x&y"}});
  const std::string page = support::get(folder / "report.html");
  CHECK(page.find("a &lt;run&gt;") != std::string::npos);
  for (const char* title :
       {"Cross entropy", "Learning rate", "Gradient norm", "Speed", "Balance loss", "Load imbalance (MaxVio)",
        "Expert load, MoE layer 0", "Expert load, MoE layer 1"})
    CHECK(count_of(page, std::string("class=\"title\" x=\"12\" y=\"22\">") + title) == 1);
  CHECK(count_of(page, "<svg") == 8);
  CHECK(page.find("<td>model.hidden</td><td>8</td>") != std::string::npos);
  CHECK(page.find("<td>name</td><td>&quot;x&amp;y&quot;</td>") != std::string::npos);
  CHECK(page.find("3.0 MiB") != std::string::npos);
  // Nothing is fetched from anywhere; the only address is the name of the drawing's language.
  CHECK(count_of(page, "http") == count_of(page, "http://www.w3.org/2000/svg"));
  CHECK(page.find("src=") == std::string::npos);
  CHECK(page.find("url(") == std::string::npos);
  const std::size_t load = page.find("data-cells");
  CHECK(attribute(page, "data-cells", load) == "0 0 0 0 2 2 2 2 1 1 1 1 1 1 1 1");
}

TEST_CASE("report: what a run does not have is not drawn") {
  const support::temporary_folder folder;
  support::put(folder / "run.jsonl", "{\"step\":1,\"ce\":5.5,\"mtp\":null,\"balance\":0}\n{\"step\":2,\"c");
  write_report(folder / "report.html", folder / "run.jsonl", "short", json::object());
  const std::string page = support::get(folder / "report.html");
  CHECK(count_of(page, "<svg") == 1);
  CHECK(count_of(page, "class=\"tile\"") == 1);
}

TEST_CASE("report: many layers are drawn as their range, and a large run as a page of bounded size") {
  const support::temporary_folder folder;
  write_run(folder / "run.jsonl", 30);
  write_report(folder / "report.html", folder / "run.jsonl", "deep", json::object());
  const std::string page = support::get(folder / "report.html");
  CHECK(page.find("greatest of 30 layers") != std::string::npos);
  CHECK(page.find("data-name=\"MoE layer 0\"") == std::string::npos);
}

TEST_CASE("report: a log that cannot be drawn is named") {
  const support::temporary_folder folder;
  const std::string log = folder / "run.jsonl";
  const auto sentence = [&](const std::string& rows) {
    support::put(log, rows);
    return raised([&] { write_report(folder / "report.html", log, "t", json::object()); });
  };
  CHECK(sentence("") == log + ": no complete row found, expected at least one to draw");
  CHECK(sentence("{\"ce\":1}\n") == log + ": row 1: step is missing, expected an integer");
  CHECK(sentence("{\"step\":1,\"max_vio\":[1,2]}\n{\"step\":2,\"max_vio\":[1]}\n") ==
        log + ": row 2: max_vio has 1 layers, the first row has 2");
  CHECK(sentence("{\"step\":1,\"load\":[[1,2]]}\n{\"step\":2,\"load\":[[1,2,3]]}\n") ==
        log + ": row 2: load has another number of layers or experts than the first row that has it");
  CHECK(folder.names() == std::vector<std::string>{"run.jsonl"});
}
