// Style, tables, charts.
#include "apps/bench_serve/html_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "apps/bench_serve/svg_chart.h"

namespace deepflight {
namespace {

constexpr size_t kMaxCurvePoints = 400;

constexpr const char* kStyle = R"css(
:root { --page: #fff; --ink: #1c2330; --soft: #5b6575; --grid: #e3e7ee; --line-0: #1f6feb;
  --line-1: #d9480f; --mark: #c92a2a; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161d; --ink: #e6eaf1; --soft: #9aa4b5; --grid: #2a313d; --line-0: #6ea8fe;
    --line-1: #ff922b; --mark: #ff6b6b; } }
body { background: var(--page); color: var(--ink); max-width: 1180px; margin: 2rem auto;
  padding: 0 1rem; font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.sub { color: var(--soft); margin-top: .2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--grid); text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
td.n, th.n { text-align: right; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem; }
svg .label { fill: var(--soft); font-size: 11px; }
svg .title { fill: var(--ink); font-size: 13px; font-weight: 600; }
svg .grid { stroke: var(--grid); } svg .mark { stroke: var(--mark); stroke-dasharray: 5 4; }
svg .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
)css";

std::string row(const std::string& label, const std::string& value) {
  return fmt::format("<tr><td>{}</td><td>{}</td></tr>\n", escape_html(label), escape_html(value));
}

std::string figures_table(const LoadReport& report) {
  std::string html = "<table>\n";
  for (const auto& [label, value] : report_figures(report)) html += row(label, value);
  return html + "</table>\n";
}

std::string config_table(const nlohmann::json& config) {
  std::string html = "<table>\n";
  for (const auto& [key, value] : config.items()) {
    html += row(key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  return html + "</table>\n";
}

std::string latency_table(const LoadReport& report) {
  std::string html = "<table>\n<tr><th></th><th class=\"n\">mean</th>";
  for (const double percent : kReportedPercentiles) {
    html += fmt::format("<th class=\"n\">p{}</th>", percent);
  }
  html += "<th class=\"n\">max</th></tr>\n";
  for (const LatencyRow& latency : report_latencies(report)) {
    if (latency.values->empty()) continue;
    html += fmt::format("<tr><td>{}</td><td class=\"n\">{:.2f}</td>", latency.label,
                        latency.values->mean);
    for (const double percent : kReportedPercentiles) {
      html += fmt::format("<td class=\"n\">{:.2f}</td>", latency.values->at(percent));
    }
    html += fmt::format("<td class=\"n\">{:.2f}</td></tr>\n", latency.values->max());
  }
  return html + "</table>\n";
}

std::string trials_table(const LoadReport& report) {
  std::string html = fmt::format(
      "<table>\n<tr><th class=\"n\">QPM</th><th></th><th class=\"n\">p{0:g} TTFT ms</th>"
      "<th class=\"n\">p{0:g} TPOT ms</th><th class=\"n\">done</th><th class=\"n\">failed</th>"
      "</tr>\n",
      report.slo_percentile);
  for (const RateTrial& trial : report.trials) {
    html += fmt::format(
        "<tr><td class=\"n\">{:.1f}</td><td>{}{}</td><td class=\"n\">{:.2f}</td>"
        "<td class=\"n\">{:.2f}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
        60 * trial.rate, trial.passed ? "holds" : "fails", trial.ended_early ? ", ended early" : "",
        trial.summary.ttft.at(report.slo_percentile), trial.summary.tpot.at(report.slo_percentile),
        trial.summary.num_done, trial.summary.num_failed());
  }
  return html + "</table>\n";
}

// Share of the values up to x, thinned out to points that differ on a screen.
std::string cdf_chart(const char* name, const Distribution& values, double limit) {
  Chart chart{.title = fmt::format("{}, cumulative share", name),
              .x_label = "ms",
              .y_label = "share up to",
              .x_mark = limit};
  ChartLine line{.name = name};
  const size_t num_values = values.sorted.size();
  const size_t stride = std::max<size_t>(1, num_values / kMaxCurvePoints);
  line.points.emplace_back(values.sorted.front(), 0);
  for (size_t i = 0; i < num_values; i += stride) {
    line.points.emplace_back(values.sorted[i],
                             static_cast<double>(i + 1) / static_cast<double>(num_values));
  }
  line.points.emplace_back(values.max(), 1);
  chart.lines.push_back(std::move(line));
  return svg_chart(chart);
}

std::string course_chart(const char* title, const std::vector<double>& values, double slice_s) {
  Chart chart{.title = title, .x_label = "seconds", .y_label = ""};
  ChartLine line;
  for (size_t i = 0; i < values.size(); ++i) {
    line.points.emplace_back((static_cast<double>(i) + 0.5) * slice_s, values[i]);
  }
  chart.lines.push_back(std::move(line));
  return svg_chart(chart);
}

std::string trials_chart(const LoadReport& report, const char* name, double limit,
                         Distribution LoadSummary::*values) {
  Chart chart{.title = fmt::format("p{:g} {} of the trials", report.slo_percentile, name),
              .x_label = "QPM",
              .y_label = "ms",
              .x_mark = 60 * report.search.passing_rate,
              .y_mark = limit};
  ChartLine line{.with_dots = true};
  for (const RateTrial& trial : report.trials) {
    const Distribution& distribution = trial.summary.*values;
    if (distribution.empty()) continue;
    line.points.emplace_back(60 * trial.rate, distribution.at(report.slo_percentile));
  }
  std::ranges::sort(line.points);
  chart.lines.push_back(std::move(line));
  return svg_chart(chart);
}

std::string charts(const LoadReport& report) {
  const LoadSummary& summary = report.summary;
  std::string html = "<div class=\"charts\">\n";
  if (report.is_search && report.slo.ttft_ms > 0) {
    html += trials_chart(report, "TTFT", report.slo.ttft_ms, &LoadSummary::ttft);
  }
  if (report.is_search && report.slo.tpot_ms > 0) {
    html += trials_chart(report, "TPOT", report.slo.tpot_ms, &LoadSummary::tpot);
  }
  const struct {
    const char* name;
    const Distribution& values;
    double limit;
  } curves[] = {{"TTFT", summary.ttft, report.slo.ttft_ms},
                {"TPOT", summary.tpot, report.slo.tpot_ms},
                {"ITL", summary.itl, 0},
                {"E2E", summary.e2e, 0}};
  for (const auto& curve : curves) {
    if (!curve.values.empty()) html += cdf_chart(curve.name, curve.values, curve.limit);
  }
  const Timeline& course = report.course;
  html += course_chart("requests in flight", course.concurrency, course.slice_s);
  html += course_chart("output tokens/s", course.output_tokens_per_s, course.slice_s);
  return html + "</div>\n";
}

}  // namespace

std::string html_report(const LoadReport& report) {
  std::string html = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<title>deepflight bench serve</title>\n<style>{}</style>\n</head>\n<body>\n"
      "<h1>Serving benchmark</h1>\n<p class=\"sub\">{} of {}, {}{}</p>\n",
      kStyle, escape_html(report.config.value("model", "")),
      escape_html(report.config.value("url", "")), escape_html(report.date),
      report.interrupted ? "; interrupted, so of what had finished" : "");
  html += "<h2>Figures</h2>\n" + figures_table(report) + "<h2>Latency</h2>\n";
  html += latency_table(report);
  if (report.is_search) html += "<h2>Trials</h2>\n" + trials_table(report);
  html += "<h2>Charts</h2>\n" + charts(report);
  html += "<h2>Configuration</h2>\n" + config_table(report.config);
  return html + "</body>\n</html>\n";
}

}  // namespace deepflight
