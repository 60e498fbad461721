#include "worker/model/testing/hf_writer.h"

#include <stdlib.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "gtest/gtest.h"
#include "worker/model/hf_checkpoint.h"
#include "worker/model/hf_config.h"

namespace outrider {

using kernels::DType;

void SafetensorsWriter::Add(const std::string& name, const std::vector<int64_t>& shape, DType dtype,
                            absl::Span<const float> values) {
  std::string bytes;
  for (const float value : values) {
    if (dtype == DType::kF32) {
      bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
    } else {
      const uint16_t half = dtype == DType::kF16 ? kernels::F32ToF16(value) : kernels::F32ToBF16(value);
      bytes.append(reinterpret_cast<const char*>(&half), sizeof(half));
    }
  }
  AddRaw(name, shape, kernels::DTypeName(dtype), bytes);
}

void SafetensorsWriter::AddRaw(const std::string& name, const std::vector<int64_t>& shape, const std::string& dtype,
                               absl::string_view bytes) {
  header_[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {data_.size(), data_.size() + bytes.size()}}};
  data_.append(bytes.data(), bytes.size());
}

std::string SafetensorsWriter::Finish() const {
  const std::string header = header_.dump();
  const uint64_t size = header.size();
  std::string file(sizeof(size), '\0');
  std::memcpy(file.data(), &size, sizeof(size));
  return file + header + data_;
}

nlohmann::json SmallHfConfig(absl::string_view architecture) {
  return {{"architectures", {std::string(architecture)}},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 16},
          {"vocab_size", 320},
          {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-5},
          {"eos_token_id", 2},
          {"tie_word_embeddings", false},
          {"sliding_window", nullptr}};
}

std::string MakeTestFolder() {
  std::string path = testing::TempDir() + "/folder_XXXXXX";
  CHECK(mkdtemp(path.data()) != nullptr);
  return path;
}

void WriteFileIn(const std::string& folder, const std::string& name, absl::string_view bytes) {
  std::ofstream file(folder + "/" + name, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  CHECK(file.good());
}

std::string WriteHfModel(const HfModelOptions& options) {
  const auto config = ModelConfigFromHuggingFace("config.json", options.config);
  if (!config.ok()) ADD_FAILURE() << config.status();
  CHECK(config.ok());
  std::mt19937_64 random(options.seed);
  std::normal_distribution<float> normal;
  std::vector<SafetensorsWriter> shards(static_cast<size_t>(options.num_shards));
  nlohmann::json weight_map = nlohmann::json::object();
  const auto shard_name = [&](size_t index) {
    return absl::StrCat("model-", index + 1, "-of-", options.num_shards, ".safetensors");
  };
  size_t next = 0;
  for (const TensorPlace& place : TensorsOf(*config)) {
    const std::vector<int64_t> shape = ShapeOf(place.role, *config);
    const std::string name = HuggingFaceTensorName(place.role, place.layer);
    const bool is_table = place.role == TensorRole::kEmbedding || place.role == TensorRole::kHead;
    float mean = 0, deviation = 0.3f;
    if (shape.size() == 2) {
      deviation = (is_table ? 3.0f : 1.0f) / std::sqrt(static_cast<float>(shape[1]));
    } else if (name.find("norm") != std::string::npos) {
      mean = 1;
    }
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = mean + deviation * normal(random);
    const size_t shard = next++ % shards.size();
    shards[shard].Add(name, shape, options.dtype, values);
    weight_map[name] = shard_name(shard);
  }
  const std::string folder = MakeTestFolder();
  WriteFileIn(folder, "config.json", options.config.dump(2));
  if (options.num_shards == 1) {
    WriteFileIn(folder, "model.safetensors", shards[0].Finish());
    return folder;
  }
  for (size_t i = 0; i < shards.size(); ++i) WriteFileIn(folder, shard_name(i), shards[i].Finish());
  WriteFileIn(folder, "model.safetensors.index.json", nlohmann::json({{"weight_map", weight_map}}).dump());
  return folder;
}

}  // namespace outrider
