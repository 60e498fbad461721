// Speed of the CPU products. Prints one JSON object a line: medians with the least value and the 10th and 90th
// percentile, never means.
//
//   gemm_bench [--threads N] [--rows 1,2,4,5,8,16,32,64,128] [--runs 21] [--only model|shapes|reference]
//              [--target AVX2]
//
// "read": a plain sum over as many bytes as the products of a model pass read: the ceiling of one-row products.
// "product": one matrix, as many copies of it in turn as fill 64 MiB, so that weights come from where a model's would.
// "model": all products of a SmolLM2-135M forward pass in order (30 layers and the head), distinct weights.
// "reference": the reference product, 4096 x 4096.
// Every shape is checked against the reference product before it is timed.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "hwy/targets.h"
#include "kernels/common/dtype.h"
#include "kernels/common/thread_pool.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/matmul_reference.h"
#include "kernels/gemm/packed_matrix.h"

namespace outrider::kernels {
namespace {

struct Options {
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  std::vector<int> rows = {1, 2, 4, 5, 8, 16, 32, 64, 128};
  int runs = 21;
  std::string only;
  std::string target;
};

struct Timing {
  double median_us, min_us, p10_us, p90_us;
  double cpu_us;  // median of the processor time of all threads, spinning included: steadier on a busy machine
};

double ProcessCpuMicros() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

// Calls fn once to warm up and then `runs` times.
template <typename Fn>
Timing Measure(int runs, const Fn& fn) {
  fn();
  std::vector<double> us(runs), cpu_us(runs);
  for (int i = 0; i < runs; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const double cpu_start = ProcessCpuMicros();
    fn();
    cpu_us[i] = ProcessCpuMicros() - cpu_start;
    us[i] = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  }
  std::sort(us.begin(), us.end());
  std::sort(cpu_us.begin(), cpu_us.end());
  return {us[runs / 2], us[0], us[runs / 10], us[runs - 1 - runs / 10], cpu_us[runs / 2]};
}

std::vector<float> RandomValues(int64_t n, uint32_t seed) {
  std::minstd_rand random(seed);
  std::vector<float> values(n);
  for (float& v : values) v = static_cast<float>(random() % 20001) * 1e-4f - 1.0f;
  return values;
}

// A weight matrix with random values in GGUF's encoding.
struct Source {
  Source(DType dtype, int64_t out_features, int64_t in_features)
      : bytes(RowBytes(dtype, in_features) * out_features), matrix{dtype, bytes.data(), out_features, in_features} {
    for (int64_t i = 0; i < out_features; ++i) {
      const std::vector<float> row = RandomValues(in_features, static_cast<uint32_t>(i + 1));
      if (QuantizeRow(dtype, row.data(), in_features, bytes.data() + i * RowBytes(dtype, in_features)) !=
          KernelError::kOk) {
        std::abort();
      }
    }
  }
  std::vector<uint8_t> bytes;
  MatrixSource matrix;
};

void Require(KernelError error) {
  if (error == KernelError::kOk) return;
  std::fprintf(stderr, "gemm_bench: %s\n", KernelErrorName(error));
  std::exit(1);
}

PackedMatrix PackInto(const Source& source, WeightArena* arena) {
  PackedMatrix packed;
  PackedMatrix::Options options;
  options.arena = arena;
  Require(PackedMatrix::Pack(source.matrix, {0, source.matrix.out_features}, {0, source.matrix.in_features}, options,
                             &packed));
  return packed;
}

// A gross check: int8 activations move a sum of K products of numbers below one by well under 2 % of sqrt(K).
void CheckAgainstReference(const Source& source, const PackedMatrix& packed, ThreadPool& pool) {
  const int64_t k = packed.in_features(), n = packed.out_features();
  const std::vector<float> x = RandomValues(2 * k, 7);
  std::vector<float> out(2 * n), expected(2 * n);
  GemmWorkspace workspace;
  const MatMulPart part{.w = &packed, .out = out.data(), .out_stride = n};
  Require(MatMul({&part, 1}, x.data(), k, 2, pool, workspace));
  ReferenceMatrix reference;
  Require(ReferenceMatrix::Make(source.matrix, &reference));
  Require(MatMulReference(reference, x.data(), k, 2, expected.data(), n, pool));
  for (int64_t i = 0; i < 2 * n; ++i) {
    if (std::fabs(out[i] - expected[i]) > 0.02 * std::sqrt(static_cast<double>(k))) {
      std::fprintf(stderr, "gemm_bench: wrong product: %g instead of %g\n", out[i], expected[i]);
      std::exit(1);
    }
  }
}

void PrintTiming(const Timing& t, double bytes, double ops) {
  std::printf("\"us\":%.1f,\"us_min\":%.1f,\"us_p10\":%.1f,\"us_p90\":%.1f,\"cpu_us\":%.1f,", t.median_us, t.min_us,
              t.p10_us, t.p90_us, t.cpu_us);
  std::printf("\"gb_per_s\":%.2f,\"gop_per_s\":%.1f}\n", bytes / t.median_us / 1e3, ops / t.median_us / 1e3);
  std::fflush(stdout);
}

void BenchRead(int64_t num_bytes, ThreadPool& pool, const Options& options) {
  WeightArena arena;
  uint64_t* data = reinterpret_cast<uint64_t*>(arena.Allocate(num_bytes));
  const int64_t num_words = num_bytes / 8;
  std::fill(data, data + num_words, 1);
  std::vector<uint64_t> sums(ThreadPool::kMaxThreads * 8);
  const Timing t = Measure(options.runs, [&] {
    pool.ParallelForRange(num_words, 1 << 16, [&](int64_t first, int64_t end) {
      uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
      for (int64_t i = first; i + 8 <= end; i += 8) {
        a += data[i], b += data[i + 1], c += data[i + 2], d += data[i + 3];
        e += data[i + 4], f += data[i + 5], g += data[i + 6], h += data[i + 7];
      }
      asm volatile("" ::"r"(a + b + c + d + e + f + g + h));
    });
  });
  std::printf("{\"bench\":\"read\",\"threads\":%d,\"bytes\":%lld,", pool.num_threads(), (long long)num_bytes);
  PrintTiming(t, static_cast<double>(num_bytes), 0);
}

void BenchProduct(DType dtype, int64_t out_features, int64_t in_features, ThreadPool& pool, const Options& options) {
  const Source source(dtype, out_features, in_features);
  WeightArena arena;
  std::vector<PackedMatrix> copies;
  do {
    copies.push_back(PackInto(source, &arena));
  } while (arena.allocated_bytes() < (64 << 20));
  CheckAgainstReference(source, copies[0], pool);
  GemmWorkspace workspace;
  const int rows_max = *std::max_element(options.rows.begin(), options.rows.end());
  const std::vector<float> x = RandomValues(rows_max * in_features, 3);
  std::vector<float> out(rows_max * out_features);
  for (const int rows : options.rows) {
    size_t next = 0;
    // Several products a sample, so that a sample is long against the clock.
    const int products = static_cast<int>(std::clamp<int64_t>((4 << 20) / (copies[0].packed_bytes() * rows), 1, 64));
    Timing t = Measure(options.runs, [&] {
      for (int i = 0; i < products; ++i) {
        const MatMulPart part{.w = &copies[next++ % copies.size()], .out = out.data(), .out_stride = out_features};
        Require(MatMul({&part, 1}, x.data(), in_features, rows, pool, workspace));
      }
    });
    t = {t.median_us / products, t.min_us / products, t.p10_us / products, t.p90_us / products, t.cpu_us / products};
    std::printf(
        "{\"bench\":\"product\",\"target\":\"%s\",\"threads\":%d,\"dtype\":\"%s\",\"out\":%lld,\"in\":%lld,\"rows\":%"
        "d,",
        GemmTargetName(), pool.num_threads(), DTypeName(dtype), (long long)out_features, (long long)in_features, rows);
    PrintTiming(t, static_cast<double>(copies[0].packed_bytes()), 2.0 * rows * out_features * in_features);
  }
}

// The products of SmolLM2-135M-Instruct.Q4_1: Q4_1 layers, Q8_0 head.
class ModelProducts {
 public:
  static constexpr int kNumLayers = 30;
  static constexpr int64_t kHidden = 576, kKv = 192, kIntermediate = 1536, kVocab = 49152;

  ModelProducts() {
    const Source q(DType::kQ4_1, kHidden, kHidden), kv(DType::kQ4_1, kKv, kHidden);
    const Source up(DType::kQ4_1, kIntermediate, kHidden), down(DType::kQ4_1, kHidden, kIntermediate);
    for (int i = 0; i < kNumLayers; ++i) {
      layers_.push_back({PackInto(q, &arena_), PackInto(kv, &arena_), PackInto(kv, &arena_), PackInto(q, &arena_),
                         PackInto(up, &arena_), PackInto(up, &arena_), PackInto(down, &arena_)});
    }
    layer_bytes_ = arena_.allocated_bytes();
    head_ = PackInto(Source(DType::kQ8_0, kVocab, kHidden), &arena_);
  }

  // `head_rows` rows reach the head, as only the last row of a prompt does.
  void Run(int rows, int head_rows, ThreadPool& pool) {
    hidden_.resize(rows * kHidden, 0.5f);
    wide_.resize(rows * kIntermediate, 0.5f);
    a_.resize(rows * kIntermediate);
    b_.resize(rows * kIntermediate);
    logits_.resize(head_rows * kVocab);
    for (const Layer& layer : layers_) {
      const MatMulPart qkv[] = {{.w = &layer.q, .out = a_.data(), .out_stride = kHidden},
                                {.w = &layer.k, .out = b_.data(), .out_stride = kKv},
                                {.w = &layer.v, .out = b_.data() + rows * kKv, .out_stride = kKv}};
      Require(MatMul(qkv, hidden_.data(), kHidden, rows, pool, workspace_));
      const MatMulPart o{.w = &layer.o, .out = a_.data(), .out_stride = kHidden};
      Require(MatMul({&o, 1}, hidden_.data(), kHidden, rows, pool, workspace_));
      const MatMulPart gate_up[] = {{.w = &layer.gate, .out = a_.data(), .out_stride = kIntermediate},
                                    {.w = &layer.up, .out = b_.data(), .out_stride = kIntermediate}};
      Require(MatMul(gate_up, hidden_.data(), kHidden, rows, pool, workspace_));
      const MatMulPart down{.w = &layer.down, .out = a_.data(), .out_stride = kHidden};
      Require(MatMul({&down, 1}, wide_.data(), kIntermediate, rows, pool, workspace_));
    }
    const MatMulPart head{.w = &head_, .out = logits_.data(), .out_stride = kVocab};
    Require(MatMul({&head, 1}, hidden_.data(), kHidden, head_rows, pool, workspace_));
  }

  int64_t layer_bytes() const { return layer_bytes_; }
  int64_t all_bytes() const { return arena_.allocated_bytes(); }

 private:
  struct Layer {
    PackedMatrix q, k, v, o, gate, up, down;
  };
  WeightArena arena_;
  std::vector<Layer> layers_;
  PackedMatrix head_;
  int64_t layer_bytes_ = 0;
  GemmWorkspace workspace_;
  std::vector<float> hidden_, wide_, a_, b_, logits_;
};

void BenchModel(ThreadPool& pool, const Options& options) {
  ModelProducts model;
  const double layer_weights = model.kNumLayers * (2.0 * model.kHidden * (model.kHidden + model.kKv) +
                                                   3.0 * model.kHidden * model.kIntermediate);
  const double head_weights = static_cast<double>(model.kHidden) * model.kVocab;
  for (const int rows : options.rows) {
    const int head_rows = rows <= 8 ? rows : 1;  // decode and verify against a chunk of a prompt
    const Timing t = Measure(options.runs, [&] { model.Run(rows, head_rows, pool); });
    std::printf(
        "{\"bench\":\"model\",\"target\":\"%s\",\"threads\":%d,\"rows\":%d,\"head_rows\":%d,\"rows_per_s\":%.0f,",
        GemmTargetName(), pool.num_threads(), rows, head_rows, rows / t.median_us * 1e6);
    PrintTiming(t, static_cast<double>(model.all_bytes()), 2 * (rows * layer_weights + head_rows * head_weights));
  }
}

void BenchReference(ThreadPool& pool, const Options& options) {
  constexpr int64_t kSize = 4096;
  const Source source(DType::kQ4_1, kSize, kSize);
  ReferenceMatrix reference;
  Require(ReferenceMatrix::Make(source.matrix, &reference));
  const int rows_max = *std::max_element(options.rows.begin(), options.rows.end());
  const std::vector<float> x = RandomValues(rows_max * kSize, 3);
  std::vector<float> out(rows_max * kSize);
  for (const int rows : options.rows) {
    const Timing t = Measure(
        options.runs, [&] { Require(MatMulReference(reference, x.data(), kSize, rows, out.data(), kSize, pool)); });
    std::printf("{\"bench\":\"reference\",\"threads\":%d,\"out\":%lld,\"in\":%lld,\"rows\":%d,", pool.num_threads(),
                (long long)kSize, (long long)kSize, rows);
    PrintTiming(t, 4.0 * kSize * kSize, 2.0 * rows * kSize * kSize);
  }
}

// Keeps to one instruction set, if this machine has it.
void ChooseTarget(const std::string& name) {
  if (name.empty()) return;
  for (int64_t rest = hwy::SupportedTargets(); rest != 0; rest &= rest - 1) {
    if (name != hwy::TargetName(rest & -rest)) continue;
    hwy::SetSupportedTargetsForTest(rest & -rest);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
}

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--threads") {
      options.threads = std::atoi(value.c_str());
    } else if (name == "--runs") {
      options.runs = std::max(1, std::atoi(value.c_str()));
    } else if (name == "--only") {
      options.only = value;
    } else if (name == "--target") {
      options.target = value;
    } else if (name == "--rows") {
      options.rows.clear();
      for (const char* p = value.c_str(); *p != '\0'; p += *p == ',') {
        char* end;
        options.rows.push_back(std::max(1, static_cast<int>(std::strtol(p, &end, 10))));
        if (end == p) break;
        p = end;
      }
    }
  }
  return options;
}

int Main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  ThreadPool pool(options.threads);
  ChooseTarget(options.target);
  const auto wanted = [&](const char* what) { return options.only.empty() || options.only == what; };
  if (wanted("reference")) BenchReference(pool, options);
  if (wanted("model")) {
    BenchRead(int64_t{96} << 20, pool, options);
    BenchModel(pool, options);
  }
  if (wanted("shapes")) {
    for (const DType dtype : {DType::kQ4_1, DType::kQ4_0, DType::kQ8_0, DType::kF16, DType::kBF16, DType::kF32}) {
      BenchProduct(dtype, 576, 576, pool, options);
      BenchProduct(dtype, 1536, 576, pool, options);
      BenchProduct(dtype, 576, 1536, pool, options);
      BenchProduct(dtype, 4096, 4096, pool, options);
    }
    BenchProduct(DType::kQ8_0, 49152, 576, pool, options);
  }
  return 0;
}

}  // namespace
}  // namespace outrider::kernels

int main(int argc, char** argv) { return outrider::kernels::Main(argc, argv); }
