// The figures of `outrider bench engine` for people.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/engine_bench.h"

namespace outrider {
namespace {

using Json = nlohmann::ordered_json;

// What follows an entry's own words on its line, and its ops on lines of their own.
void AppendEntry(const Json& entry, std::string* text) {
  absl::StrAppendFormat(text, "  median %9.3f ms, p10 %9.3f, p90 %9.3f", entry["median_ms"].get<double>(),
                        entry["p10_ms"].get<double>(), entry["p90_ms"].get<double>());
  if (entry.contains("read_bandwidth_ratio")) {
    absl::StrAppendFormat(text, ", %5.1f %% of the read rate", 100 * entry["read_bandwidth_ratio"].get<double>());
  }
  if (entry.contains("tokens_per_second")) {
    absl::StrAppendFormat(text, ", %.1f tokens/s", entry["tokens_per_second"].get<double>());
  }
  if (entry.contains("launches")) absl::StrAppendFormat(text, ", %d launches", entry["launches"].get<int>());
  *text += "\n";
  if (!entry.contains("ops")) return;
  for (const Json& op : entry["ops"]) {
    const double ms = op["ms"].get<double>();
    const int count = op["count"].get<int>();
    absl::StrAppendFormat(text, "    %-16s %9.3f ms in %4d: %9.2f us each\n", op["op"].get<std::string>(), ms, count,
                          1000 * ms / count);
  }
}

}  // namespace

std::string EngineBenchText(const Json& result) {
  std::string text = absl::StrFormat(
      "%s, %s, %s, tensor parallel %d, %d threads, context %d; a rank has %.2f GB of weights and reads %.1f GB/s\n",
      result["model"].get<std::string>(), result["device"].get<std::string>(), result["numerics"].get<std::string>(),
      result["tensor_parallel_size"].get<int>(), result["threads"].get<int>(), result["context"].get<int>(),
      result["weight_bytes"].get<double>() / 1e9, result["read_bytes_per_second"].get<double>() / 1e9);
  const Json& sampling = result["sampling"];
  absl::StrAppendFormat(&text, "temperature %g, top_k %d, top_p %g, repetition penalty %g, %s logprobs\n",
                        sampling["temperature"].get<float>(), sampling["top_k"].get<int>(),
                        sampling["top_p"].get<float>(), sampling["repetition_penalty"].get<float>(),
                        sampling["num_logprobs"] < 0 ? "no" : absl::StrCat(sampling["num_logprobs"].get<int>()));
  for (const Json& entry : result["decode"]) {
    absl::StrAppendFormat(&text, "decode, %4d sequences", entry["sequences"].get<int>());
    AppendEntry(entry, &text);
  }
  for (const Json& entry : result["verify"]) {
    absl::StrAppendFormat(&text, "verify, %9d rows", entry["rows"].get<int>());
    AppendEntry(entry, &text);
  }
  absl::StrAppendFormat(&text, "prompt, %7d tokens", result["prompt"]["tokens"].get<int>());
  AppendEntry(result["prompt"], &text);
  return text;
}

}  // namespace outrider
