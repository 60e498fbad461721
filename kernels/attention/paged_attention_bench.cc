// Decode, verify and prompt at SmolLM2-135M's shape (9 query heads, 3 KV heads, head_dim 64), one layer.
// Usage: paged_attention_bench [num_threads]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/attention/append_kv.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/testing/bench_harness.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/tensor_compare.h"

namespace outrider::kernels {
namespace {

constexpr int kQueryHeads = 9, kKvHeads = 3, kHeadDim = 64;
// As many layers as the model has, so that a layer's KV does not stay in cache between calls.
constexpr int kNumLayers = 30;

struct Shape {
  const char* name;
  DType dtype;
  int num_rows, first_position;
};

bool Run(const Shape& shape, int num_threads) {
  const int num_positions = shape.first_position + shape.num_rows;
  KvLayout layout{.dtype = shape.dtype,
                  .num_blocks = (num_positions + 15) / 16,
                  .block_size = 16,
                  .num_kv_heads = kKvHeads,
                  .head_dim = kHeadDim};
  std::vector<int32_t> table;
  for (int b = 0; b < layout.num_blocks; ++b) table.push_back((b * 7 + 3) % layout.num_blocks);
  if (layout.num_blocks % 7 == 0) {
    for (int b = 0; b < layout.num_blocks; ++b) table[static_cast<size_t>(b)] = b;
  }
  ThreadPool pool(num_threads);
  const int64_t kv_size = kKvHeads * kHeadDim, q_size = kQueryHeads * kHeadDim;
  const auto kv = testing::RandomTensor(num_positions * kv_size, 1);
  const auto q = testing::RandomTensor(shape.num_rows * q_size, 2);
  std::vector<std::vector<char>> k_layers, v_layers;
  const AttentionSpan whole{.num_rows = num_positions, .first_position = 0, .block_table = table.data()};
  for (int layer = 0; layer < kNumLayers; ++layer) {
    k_layers.emplace_back(static_cast<size_t>(layout.k_bytes()));
    v_layers.emplace_back(static_cast<size_t>(layout.v_bytes()));
    const AppendKvArgs append{.k = kv.data(),
                              .v = kv.data(),
                              .k_stride = kv_size,
                              .v_stride = kv_size,
                              .layout = layout,
                              .k_storage = k_layers.back().data(),
                              .v_storage = v_layers.back().data(),
                              .spans = {&whole, 1}};
    if (AppendKv(append, pool) != KernelError::kOk) return false;
  }

  const AttentionSpan span{
      .num_rows = shape.num_rows, .first_position = shape.first_position, .block_table = table.data()};
  std::vector<float> out(q.size()), expected(q.size());
  AttentionWorkspace workspace;
  int layer = 0;
  const auto args = [&](float* to) {
    return PagedAttentionArgs{.q = q.data(),
                              .out = to,
                              .q_stride = q_size,
                              .out_stride = q_size,
                              .num_q_heads = kQueryHeads,
                              .layout = layout,
                              .k_storage = k_layers[static_cast<size_t>(layer)].data(),
                              .v_storage = v_layers[static_cast<size_t>(layer)].data(),
                              .spans = {&span, 1},
                              .scale = 0.125f};
  };
  if (PagedAttention(args(out.data()), pool, workspace) != KernelError::kOk) return false;
  if (PagedAttentionReference(args(expected.data())) != KernelError::kOk) return false;
  const double tolerance = 1e-3;  // a sanity bound; paged_attention_test derives the real one
  const std::string difference = testing::CompareTensors(out, expected, {&tolerance, 1});
  if (!difference.empty()) {
    std::fprintf(stderr, "%s: %s\n", shape.name, difference.c_str());
    return false;
  }

  double visible = 0;
  for (int r = 0; r < shape.num_rows; ++r) visible += shape.first_position + r + 1;
  testing::RunBench({.name = shape.name,
                     .bytes = static_cast<double>(layout.k_bytes() + layout.v_bytes()),
                     .flops = visible * kQueryHeads * kHeadDim * 4,
                     .num_threads = num_threads},
                    [&] {
                      layer = (layer + 1) % kNumLayers;
                      if (PagedAttention(args(out.data()), pool, workspace) != KernelError::kOk) std::abort();
                    });
  return true;
}

}  // namespace
}  // namespace outrider::kernels

int main(int argc, char** argv) {
  using outrider::kernels::DType;
  const int num_threads = argc > 1 ? std::atoi(argv[1]) : 2;
  bool ok = true;
  for (const outrider::kernels::Shape& shape :
       {outrider::kernels::Shape{"decode context=1000 f32", DType::kF32, 1, 999},
        {"decode context=1000 f16", DType::kF16, 1, 999},
        {"decode context=100 f32", DType::kF32, 1, 99},
        {"verify rows=5 context=1000 f32", DType::kF32, 5, 995},
        {"verify rows=5 context=1000 f16", DType::kF16, 5, 995},
        {"prompt rows=512 f32", DType::kF32, 512, 0},
        {"prompt rows=512 f16", DType::kF16, 512, 0}}) {
    ok = outrider::kernels::Run(shape, num_threads) && ok;
  }
  return ok ? 0 : 1;
}
