// RMSNorm at SmolLM2-135M's hidden size: a decode row and a prompt.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/norm/rms_norm.h"
#include "kernels/testing/bench_harness.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/tensor_compare.h"

namespace outrider::kernels {
namespace {

int Run(int num_threads) {
  constexpr int kSize = 576;
  ThreadPool pool(num_threads);
  for (const int num_rows : {1, 8, 512}) {
    const auto x = testing::RandomTensor(num_rows * kSize, 1);
    const auto weight = testing::RandomTensor(kSize, 2);
    std::vector<float> out(x.size()), expected(x.size());
    RmsNormArgs args{.x = x.data(),
                     .weight = weight.data(),
                     .out = expected.data(),
                     .x_stride = kSize,
                     .out_stride = kSize,
                     .num_rows = num_rows,
                     .group_size = kSize};
    if (RmsNormReference(args) != KernelError::kOk) return 1;
    args.out = out.data();
    if (RmsNorm(args, pool) != KernelError::kOk) return 1;
    const double tolerance = 1e-4;  // a sanity bound; rms_norm_test derives the real one
    const std::string difference = testing::CompareTensors(out, expected, {&tolerance, 1});
    if (!difference.empty()) {
      std::fprintf(stderr, "%s\n", difference.c_str());
      return 1;
    }
    testing::RunBench({.name = "rms_norm size=576 rows=" + std::to_string(num_rows),
                       .bytes = 8.0 * num_rows * kSize,
                       .num_threads = num_threads},
                      [&] {
                        if (RmsNorm(args, pool) != KernelError::kOk) std::abort();
                      });
  }
  return 0;
}

}  // namespace
}  // namespace outrider::kernels

int main(int argc, char** argv) { return outrider::kernels::Run(argc > 1 ? std::atoi(argv[1]) : 2); }
