// The SiLU gate at SmolLM2-135M's intermediate size: a decode row and a prompt.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/activation/silu_mul.h"
#include "kernels/testing/bench_harness.h"
#include "kernels/testing/random_tensor.h"
#include "kernels/testing/tensor_compare.h"

namespace outrider::kernels {
namespace {

int Run(int num_threads) {
  constexpr int kColumns = 1536;
  ThreadPool pool(num_threads);
  for (const int num_rows : {1, 8, 512}) {
    const auto gate = testing::RandomTensor(num_rows * kColumns, 1);
    const auto up = testing::RandomTensor(num_rows * kColumns, 2);
    std::vector<float> out(gate.size()), expected(gate.size());
    SiluMulArgs args{.gate = gate.data(),
                     .up = up.data(),
                     .out = expected.data(),
                     .gate_stride = kColumns,
                     .up_stride = kColumns,
                     .out_stride = kColumns,
                     .num_rows = num_rows,
                     .num_columns = kColumns};
    if (SiluMulReference(args) != KernelError::kOk) return 1;
    args.out = out.data();
    if (SiluMul(args, pool) != KernelError::kOk) return 1;
    const double tolerance = 1e-4;  // a sanity bound; silu_mul_test derives the real one
    const std::string difference = testing::CompareTensors(out, expected, {&tolerance, 1});
    if (!difference.empty()) {
      std::fprintf(stderr, "%s\n", difference.c_str());
      return 1;
    }
    testing::RunBench({.name = "silu_mul columns=1536 rows=" + std::to_string(num_rows),
                       .bytes = 12.0 * num_rows * kColumns,
                       .num_threads = num_threads},
                      [&] {
                        if (SiluMul(args, pool) != KernelError::kOk) std::abort();
                      });
  }
  return 0;
}

}  // namespace
}  // namespace outrider::kernels

int main(int argc, char** argv) { return outrider::kernels::Run(argc > 1 ? std::atoi(argv[1]) : 2); }
