// One row of 49,152 logits (SmolLM2's vocabulary) shaped like a language model's: a few high, most far below.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/sampling/sample_row.h"
#include "kernels/testing/bench_harness.h"
#include "kernels/testing/random_tensor.h"

int main() {
  using outrider::kernels::SampledToken;
  using outrider::kernels::SampleRow;
  using outrider::kernels::SampleRowReference;
  using outrider::kernels::SamplingRow;
  constexpr int kVocabSize = 49152, kRows = 16;
  std::vector<std::vector<float>> rows;
  for (uint64_t r = 0; r < kRows; ++r) {
    rows.push_back(outrider::kernels::testing::RandomTensor(kVocabSize, r,
                                                            {.scale = 2.5, .num_outliers = 40, .outlier_factor = 3}));
  }
  outrider::kernels::TokenCounts counts;
  for (int id = 0; id < 600; ++id) counts.AddOutputToken(id * 37);
  struct Case {
    const char* name;
    SamplingRow row;
  };
  const Case cases[] = {
      {"greedy", {.temperature = 0}},
      {"greedy, penalties over 600 tokens", {.temperature = 0, .repetition_penalty = 1.1f, .counts = &counts}},
      {"temperature 0.8", {.temperature = 0.8f}},
      {"temperature 0.8, top_p 0.9", {.temperature = 0.8f, .top_p = 0.9f}},
      {"temperature 0.8, top_k 50, top_p 0.9", {.temperature = 0.8f, .top_k = 50, .top_p = 0.9f}},
      {"temperature 0.8, min_p 0.05", {.temperature = 0.8f, .min_p = 0.05f}},
      {"greedy, 5 logprobs", {.temperature = 0, .num_logprobs = 5}},
  };
  outrider::kernels::SamplingScratch scratch;
  for (const Case& c : cases) {
    SamplingRow row = c.row;
    row.seed = 1;
    for (const auto& logits : rows) {
      double margin = 0;
      const SampledToken expected = SampleRowReference(row, logits.data(), kVocabSize, &margin);
      if (SampleRow(row, logits.data(), kVocabSize, scratch).token_id != expected.token_id && margin > 1e-4) {
        std::fprintf(stderr, "%s: not the reference's token\n", c.name);
        return 1;
      }
    }
    size_t next = 0;
    outrider::kernels::testing::RunBench({.name = c.name, .bytes = 4.0 * kVocabSize}, [&] {
      row.position = static_cast<uint32_t>(next);
      if (SampleRow(row, rows[next++ % kRows].data(), kVocabSize, scratch).token_id < 0) std::abort();
    });
  }
  return 0;
}
