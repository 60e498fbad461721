// Summaries of rows of 128,256 logits on a GPU, beside the greedy choice: us a call, summaries written into pinned
// memory. Rows are normal with the deviation named: 1 is flat (random weights), 3 is peaked as a language model's. A
// summary is compared with the host's before anything is timed. Prints one JSON line a case; medians of 30 calls.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/sampling/device_argmax.h"
#include "kernels/sampling/device_row_edits.h"
#include "kernels/sampling/device_row_summary.h"
#include "kernels/testing/random_tensor.h"

namespace outrider::kernels {
namespace {

constexpr int kVocabSize = 128256;
constexpr int kRowsMax = 256;
constexpr int kEditsARow = 1000;

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

template <typename T>
T* OnDevice(int64_t size) {
  void* data = nullptr;
  Check(cudaMalloc(&data, static_cast<size_t>(size) * sizeof(T)), "memory");
  return static_cast<T*>(data);
}
template <typename T>
T* Pinned(int64_t size) {
  void* data = nullptr;
  Check(cudaMallocHost(&data, static_cast<size_t>(size) * sizeof(T)), "pinned memory");
  return static_cast<T*>(data);
}

template <typename Body>
double MedianUs(cudaStream_t stream, const Body& body) {
  cudaEvent_t start, stop;
  Check(cudaEventCreate(&start), "event");
  Check(cudaEventCreate(&stop), "event");
  std::vector<double> times;
  for (int i = 0; i < 35; ++i) {
    Check(cudaEventRecord(start, stream), "record");
    body();
    Check(cudaEventRecord(stop, stream), "record");
    Check(cudaEventSynchronize(stop), "wait");
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, start, stop), "elapsed");
    if (i >= 5) times.push_back(ms * 1000);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void Run(float deviation) {
  const std::vector<float> row = testing::RandomTensor(kVocabSize, 7, {.scale = deviation});
  float* const logits = OnDevice<float>(int64_t{kRowsMax} * kVocabSize);
  int32_t* const ids = OnDevice<int32_t>(kRowsMax);
  SummaryRequest* const requests = Pinned<SummaryRequest>(kRowsMax);
  int32_t* const rows = Pinned<int32_t>(kRowsMax);
  RowSummary* const summaries = Pinned<RowSummary>(kRowsMax);
  EditedRow* const edited = Pinned<EditedRow>(kRowsMax);
  RowEdit* const edits = Pinned<RowEdit>(kRowsMax * kEditsARow);
  float* const raw = Pinned<float>(kRowsMax * kEditsARow);
  OriginalLogit* const originals = OnDevice<OriginalLogit>(kRowsMax * kEditsARow);
  cudaStream_t stream;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  for (int r = 0; r < kRowsMax; ++r) {
    Check(cudaMemcpy(logits + int64_t{r} * kVocabSize, row.data(), row.size() * 4, cudaMemcpyHostToDevice), "logits");
    rows[r] = r;
    edited[r] = {r, r * kEditsARow, kEditsARow, {1.1f, 0.5f, 0.1f}};
    for (int i = 0; i < kEditsARow; ++i) {
      edits[r * kEditsARow + i] = {.token_id = 100 * i + r % 100, .output_count = i % 3, .is_penalized = 1};
    }
  }
  const struct {
    const char* name;
    SamplingRow row;
  } kinds[] = {{"temperature", {.temperature = 0.8f}},
               {"top-k and top-p", {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f}},
               {"top-p", {.temperature = 0.8f, .top_p = 0.95f}},
               {"5 logprobs", {.temperature = 0, .num_logprobs = 5}}};
  for (const int num_rows : {1, 8, 64, 256}) {
    const auto print = [&](const char* name, double us) {
      std::printf("{\"case\": \"%s\", \"deviation\": %.0f, \"rows\": %d, \"us\": %.1f}\n", name, deviation, num_rows,
                  us);
    };
    print("greedy", MedianUs(stream, [&] {
            Check(DeviceArgMax({.logits = logits,
                                .logits_stride = kVocabSize,
                                .num_rows = num_rows,
                                .vocab_size = kVocabSize,
                                .token_ids = ids},
                               stream),
                  "greedy");
          }));
    const DeviceRowEditsArgs edit_args{.logits = logits,
                                       .logits_stride = kVocabSize,
                                       .num_rows = num_rows,
                                       .rows = edited,
                                       .edits = edits,
                                       .originals = originals,
                                       .raw_logits = raw};
    print("1000 edits a row and back", MedianUs(stream, [&] {
            Check(DeviceApplyRowEdits(edit_args, stream), "edits");
            Check(DeviceRestoreRows(edit_args, stream), "edits");
          }));
    for (const auto& kind : kinds) {
      for (int r = 0; r < num_rows; ++r) requests[r] = RequestOf(kind.row, kVocabSize);
      const auto summarize = [&] {
        Check(DeviceRowSummary({.logits = logits,
                                .logits_stride = kVocabSize,
                                .vocab_size = kVocabSize,
                                .num_requests = num_rows,
                                .rows = rows,
                                .requests = requests,
                                .summaries = summaries},
                               stream),
              "summaries");
      };
      summarize();
      Check(cudaStreamSynchronize(stream), "summaries");
      RowSummary expected;
      SummarizeRow(requests[0], row.data(), kVocabSize, &expected);
      const RowSummary& last = summaries[num_rows - 1];
      if (last.best_id != expected.best_id || last.weight_sum != expected.weight_sum ||
          last.raw_weight_sum != expected.raw_weight_sum || last.num_candidates != expected.num_candidates) {
        std::fprintf(stderr, "%s: not the host's summary\n", kind.name);
        std::exit(1);
      }
      print(kind.name, MedianUs(stream, summarize));
    }
  }
}

}  // namespace
}  // namespace outrider::kernels

int main() {
  for (const float deviation : {1.0f, 3.0f}) outrider::kernels::Run(deviation);
  return 0;
}
