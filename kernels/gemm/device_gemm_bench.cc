// The products of one step of an 8B model (32 layers of qkv, output, gate and up, down; distinct weights, 13.96 GB) as
// a chain in a CUDA graph, beside what memory and arithmetic allow: the read rate of a kernel that only reads is not
// measured here, the copy rate is. Prints one JSON line a case; medians of 15 replays.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/gemm/device_gemm.h"

namespace outrider::kernels {
namespace {

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
void Check(KernelError error, const char* what) {
  if (error == KernelError::kOk) return;
  std::fprintf(stderr, "%s: %s (%d)\n", what, KernelErrorName(error), static_cast<int>(error));
  std::exit(1);
}

// Random bf16 in [-1, 1) by tiling one random buffer: timing on zeros would flatter.
void Fill(void* to, int64_t bytes, const std::vector<uint16_t>& random, int64_t offset) {
  const int64_t chunk = static_cast<int64_t>(random.size()) * 2;
  for (int64_t done = 0; done < bytes; done += chunk) {
    const int64_t size = std::min(chunk - offset, bytes - done);
    Check(cudaMemcpy(static_cast<uint8_t*>(to) + done, reinterpret_cast<const uint8_t*>(random.data()) + offset,
                     static_cast<size_t>(size), cudaMemcpyHostToDevice),
          "fill");
    if (offset > 0) {
      done -= offset;  // the chunk was that much shorter
      offset = 0;
    }
  }
}

struct Timing {
  double median_us, p10_us, p90_us;
};

template <typename Body>
Timing TimeGraph(cudaStream_t stream, const Body& body) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  body();
  Check(cudaStreamEndCapture(stream, &graph), "capture");
  Check(cudaGraphInstantiate(&executable, graph, 0), "graph");
  cudaEvent_t start, stop;
  Check(cudaEventCreate(&start), "event");
  Check(cudaEventCreate(&stop), "event");
  std::vector<double> times;
  for (int i = 0; i < 18; ++i) {
    Check(cudaEventRecord(start, stream), "record");
    Check(cudaGraphLaunch(executable, stream), "launch");
    Check(cudaEventRecord(stop, stream), "record");
    Check(cudaEventSynchronize(stop), "wait");
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, start, stop), "elapsed");
    if (i >= 3) times.push_back(ms * 1000);
  }
  std::sort(times.begin(), times.end());
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  return {times[times.size() / 2], times[times.size() / 10], times[times.size() * 9 / 10]};
}

struct Shape {
  const char* name;
  int64_t features, columns;
  DeviceEpilogue epilogue;
};

void Run() {
  constexpr int kLayers = 32, kMaxRows = 2048;
  constexpr Shape kShapes[] = {{"qkv", 6144, 4096, DeviceEpilogue::kStoreBf16},
                               {"output", 4096, 4096, DeviceEpilogue::kAddF32},
                               {"gate_up", 28672, 4096, DeviceEpilogue::kSiluMul},
                               {"down", 4096, 14336, DeviceEpilogue::kAddF32}};
  std::vector<uint16_t> random(1 << 24);
  uint64_t state = 1;
  for (uint16_t& bits : random) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    bits = static_cast<uint16_t>(0x3C00 | (state >> 60 << 12 & 0x8000) | (state >> 40 & 0x3FF));
  }
  std::vector<DeviceMatrix> weights;
  double total_bytes = 0, total_flops = 0;
  for (int layer = 0; layer < kLayers; ++layer) {
    for (const Shape& shape : kShapes) {
      DeviceMatrix matrix{.out_features = shape.features, .in_features = shape.columns};
      Check(cudaMalloc(&matrix.data, static_cast<size_t>(matrix.bytes())), "weights");
      Fill(matrix.data, matrix.bytes(), random, layer * 4096 * 16);
      total_bytes += static_cast<double>(matrix.bytes());
      total_flops += 2.0 * static_cast<double>(shape.features) * static_cast<double>(shape.columns);
      weights.push_back(matrix);
    }
  }
  uint16_t* x = nullptr;
  void* out = nullptr;
  Check(cudaMalloc(reinterpret_cast<void**>(&x), kMaxRows * 14336 * 2), "x");
  Fill(x, kMaxRows * 14336 * 2, random, 0);
  Check(cudaMalloc(&out, kMaxRows * 14336 * 4), "out");
  Check(cudaMemset(out, 0, kMaxRows * 14336 * 4), "out");
  cudaStream_t stream;
  Check(cudaStreamCreate(&stream), "stream");

  const auto product = [&](int layer, int s, int rows, DeviceMatMulKernel kernel) {
    const Shape& shape = kShapes[s];
    Check(DeviceMatMulWith(kernel,
                           {.w = weights[static_cast<size_t>(layer) * 4 + s],
                            .x = x,
                            .x_stride = shape.columns,
                            .num_rows = rows,
                            .out = out,
                            .out_stride = shape.epilogue == DeviceEpilogue::kSiluMul ? 14336 : shape.features,
                            .epilogue = shape.epilogue},
                           stream),
          shape.name);
  };
  const Timing copy = TimeGraph(stream, [&] {
    Check(cudaMemcpyAsync(weights[2].data, weights[6].data, static_cast<size_t>(weights[2].bytes()),
                          cudaMemcpyDeviceToDevice, stream),
          "copy");
  });
  std::printf("{\"bench\":\"copy 235 MB\",\"us_median\":%.1f,\"tb_per_s\":%.3f}\n", copy.median_us,
              2.0 * static_cast<double>(weights[2].bytes()) / copy.median_us / 1e6);
  // Valid before it is timed: every kernel gives a row the bits that it has alone.
  std::vector<uint8_t> alone(28672 * 4), among(28672 * 4);
  for (int s = 0; s < 4; ++s) {
    const Shape& shape = kShapes[s];
    const bool f32 = shape.epilogue == DeviceEpilogue::kAddF32;
    const int64_t columns = shape.epilogue == DeviceEpilogue::kSiluMul ? 14336 : shape.features;
    const int64_t row_bytes = columns * (f32 ? 4 : 2);
    for (const DeviceMatMulKernel kernel :
         {DeviceMatMulKernel::kStreaming, DeviceMatMulKernel::kTiled, DeviceMatMulKernel::kClustered}) {
      for (const int rows : {1, 5, 8, 16, 17, 33, 64, 65, 128, 129, 256, 300}) {
        Check(cudaMemset(out, 0, kMaxRows * 14336 * 4), "out");
        product(0, s, rows, kernel);
        Check(cudaStreamSynchronize(stream), shape.name);
        int64_t num_different = 0;
        for (const int row : {0, rows / 2, rows - 1}) {
          Check(cudaMemcpy(among.data(), static_cast<uint8_t*>(out) + row * row_bytes, static_cast<size_t>(row_bytes),
                           cudaMemcpyDeviceToHost),
                "copy");
          uint8_t* const spare = static_cast<uint8_t*>(out) + int64_t{kMaxRows} * 14336 * 2;
          Check(cudaMemset(spare, 0, static_cast<size_t>(row_bytes)), "out");
          Check(DeviceMatMulWith(DeviceMatMulKernel::kStreaming,
                                 {.w = weights[static_cast<size_t>(s)],
                                  .x = x + row * shape.columns,
                                  .x_stride = shape.columns,
                                  .num_rows = 1,
                                  .out = spare,
                                  .out_stride = columns,
                                  .epilogue = shape.epilogue},
                                 stream),
                shape.name);
          Check(cudaStreamSynchronize(stream), shape.name);
          Check(cudaMemcpy(alone.data(), spare, static_cast<size_t>(row_bytes), cudaMemcpyDeviceToHost), "copy");
          for (int64_t i = 0; i < row_bytes; ++i) num_different += alone[i] != among[i];
        }
        if (num_different > 0) {
          std::fprintf(stderr, "%s, kernel %d, %d rows: %lld bytes differ from a row's own\n", shape.name,
                       static_cast<int>(kernel), rows, static_cast<long long>(num_different));
          std::exit(1);
        }
      }
    }
  }
  for (const int rows : {1, 2, 4, 8, 9, 16, 17, 32, 33, 64, 65, 128, 256, 512, 1024, 2048}) {
    for (const DeviceMatMulKernel kernel : {DeviceMatMulKernel::kAuto, DeviceMatMulKernel::kStreaming,
                                            DeviceMatMulKernel::kClustered, DeviceMatMulKernel::kTiled}) {
      const bool streaming = kernel == DeviceMatMulKernel::kStreaming;
      const bool clustered = kernel == DeviceMatMulKernel::kClustered;
      if (streaming && (rows < 16 || rows > 32)) continue;
      if (clustered && (rows < 8 || rows > 256)) continue;
      if (kernel == DeviceMatMulKernel::kTiled && (rows < 64 || rows > 512)) continue;
      const Timing chain = TimeGraph(stream, [&] {
        for (int layer = 0; layer < kLayers; ++layer) {
          for (int s = 0; s < 4; ++s) product(layer, s, rows, kernel);
        }
      });
      double each[4];
      for (int s = 0; s < 4; ++s) {
        each[s] = TimeGraph(stream,
                            [&] {
                              for (int layer = 0; layer < kLayers; ++layer) product(layer, s, rows, kernel);
                            })
                      .median_us /
                  kLayers;
      }
      std::printf(
          "{\"bench\":\"8B products rows=%d %s\",\"us_median\":%.1f,\"us_p10\":%.1f,\"us_p90\":%.1f,"
          "\"tb_per_s\":%.3f,\"tflop_per_s\":%.1f,\"us_each\":{",
          rows,
          kernel == DeviceMatMulKernel::kAuto ? "auto"
          : streaming                         ? "streaming"
          : clustered                         ? "clustered"
                                              : "tiled",
          chain.median_us, chain.p10_us, chain.p90_us, total_bytes / chain.median_us / 1e6,
          total_flops * rows / chain.median_us / 1e6);
      for (int s = 0; s < 4; ++s) std::printf("%s\"%s\":%.2f", s > 0 ? "," : "", kShapes[s].name, each[s]);
      std::printf("}}\n");
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace outrider::kernels

int main() { outrider::kernels::Run(); }
