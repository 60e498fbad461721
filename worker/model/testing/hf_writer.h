// Folders in Hugging Face's layout for tests: safetensors of any tensors, and whole models of random weights from a
// configuration and a seed.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/common/dtype.h"

namespace outrider {

class SafetensorsWriter {
 public:
  // `dtype` is F32, F16 or BF16.
  void Add(const std::string& name, const std::vector<int64_t>& shape, kernels::DType dtype,
           absl::Span<const float> values);
  // Any claim over any bytes.
  void AddRaw(const std::string& name, const std::vector<int64_t>& shape, const std::string& dtype,
              absl::string_view bytes);
  std::string Finish() const;

 private:
  nlohmann::ordered_json header_ = nlohmann::ordered_json::object();
  std::string data_;
};

struct HfModelOptions {
  nlohmann::json config;  // config.json
  kernels::DType dtype = kernels::DType::kBF16;
  uint64_t seed = 1;
  int num_shards = 1;  // more than 1: with an index
};

// The smallest configuration of an architecture, "LlamaForCausalLM" say; a test changes what it is about.
nlohmann::json SmallHfConfig(absl::string_view architecture);

// Writes a model to a new folder below the test's temporary one and returns its path; aborts if it can not. Equal
// options give equal bytes. Its logits have a standard deviation of about 3.
std::string WriteHfModel(const HfModelOptions& options);

// A new folder below the test's temporary one.
std::string MakeTestFolder();
void WriteFileIn(const std::string& folder, const std::string& name, absl::string_view bytes);

}  // namespace outrider
