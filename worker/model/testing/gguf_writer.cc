#include "worker/model/testing/gguf_writer.h"

#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

using kernels::DType;

template <typename T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void PutString(std::string& out, absl::string_view value) {
  Put<uint64_t>(out, value.size());
  out.append(value.data(), value.size());
}

uint32_t GgmlTypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ8_0:
      return 8;
    case DType::kBF16:
      return 30;
  }
  return 0;
}

// Normal variates that are the same on every machine: std::normal_distribution is not.
class Normal {
 public:
  explicit Normal(uint64_t seed) : engine_(seed) {}
  // The sum of 12 uniforms less 6: standard deviation 1, bounded by 6.
  float operator()() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(engine_() >> 11) * 0x1p-53;
    return static_cast<float>(sum);
  }

 private:
  std::mt19937_64 engine_;
};

std::vector<float> Random(Normal& normal, int64_t count, double deviation, double mean = 0) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(mean + deviation * normal());
  return values;
}

// GPT-2's printable alphabet: each byte as one character (openai/gpt-2, encoder.py, bytes_to_unicode).
std::string ByteCharacter(int byte) {
  int code = byte;
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  std::string out;
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else {
    out.push_back(static_cast<char>(0xC0 | (code >> 6)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
  return out;
}

}  // namespace

void GgufWriter::Raw(absl::string_view key, GgufType type, absl::string_view bytes) {
  std::string value;
  Put<uint32_t>(value, static_cast<uint32_t>(type));
  value.append(bytes.data(), bytes.size());
  entries_.emplace_back(std::string(key), std::move(value));
}

void GgufWriter::Uint32(absl::string_view key, uint32_t value) {
  std::string bytes;
  Put(bytes, value);
  Raw(key, GgufType::kUint32, bytes);
}
void GgufWriter::Int64(absl::string_view key, int64_t value) {
  std::string bytes;
  Put(bytes, value);
  Raw(key, GgufType::kInt64, bytes);
}
void GgufWriter::Float32(absl::string_view key, float value) {
  std::string bytes;
  Put(bytes, value);
  Raw(key, GgufType::kFloat32, bytes);
}
void GgufWriter::Bool(absl::string_view key, bool value) {
  Raw(key, GgufType::kBool, absl::string_view(value ? "\1" : "\0", 1));
}
void GgufWriter::String(absl::string_view key, absl::string_view value) {
  std::string bytes;
  PutString(bytes, value);
  Raw(key, GgufType::kString, bytes);
}
void GgufWriter::Strings(absl::string_view key, absl::Span<const std::string> values) {
  std::string bytes;
  Put(bytes, static_cast<uint32_t>(GgufType::kString));
  Put<uint64_t>(bytes, values.size());
  for (const std::string& value : values) PutString(bytes, value);
  Raw(key, GgufType::kArray, bytes);
}
void GgufWriter::Int32s(absl::string_view key, absl::Span<const int32_t> values) {
  std::string bytes;
  Put(bytes, static_cast<uint32_t>(GgufType::kInt32));
  Put<uint64_t>(bytes, values.size());
  for (const int32_t value : values) Put(bytes, value);
  Raw(key, GgufType::kArray, bytes);
}
void GgufWriter::Float32s(absl::string_view key, absl::Span<const float> values) {
  std::string bytes;
  Put(bytes, static_cast<uint32_t>(GgufType::kFloat32));
  Put<uint64_t>(bytes, values.size());
  for (const float value : values) Put(bytes, value);
  Raw(key, GgufType::kArray, bytes);
}

void GgufWriter::Tensor(absl::string_view name, absl::Span<const int64_t> dims, DType dtype,
                        absl::Span<const float> values) {
  const int64_t rows = static_cast<int64_t>(values.size()) / dims[0];
  CHECK(rows * dims[0] == static_cast<int64_t>(values.size()));
  std::string bytes(static_cast<size_t>(rows * RowBytes(dtype, dims[0])), '\0');
  for (int64_t row = 0; row < rows; ++row) {
    CHECK(kernels::QuantizeRow(dtype, values.data() + row * dims[0], dims[0],
                               bytes.data() + row * RowBytes(dtype, dims[0])) == kernels::KernelError::kOk);
  }
  RawTensor(name, dims, GgmlTypeOf(dtype), std::move(bytes));
}

void GgufWriter::RawTensor(absl::string_view name, absl::Span<const int64_t> dims, uint32_t ggml_type,
                           std::string bytes) {
  tensors_.push_back({std::string(name), {dims.begin(), dims.end()}, ggml_type, std::move(bytes)});
}

std::string GgufWriter::Finish(std::vector<size_t>* interesting) const {
  std::string out = "GGUF";
  const auto mark = [&] {
    if (interesting != nullptr) interesting->push_back(out.size());
  };
  if (interesting != nullptr) interesting->clear();
  mark();
  Put(out, version_);
  mark();
  Put<uint64_t>(out, tensors_.size());
  mark();
  Put<uint64_t>(out, entries_.size() + 1);
  mark();
  PutString(out, "general.alignment");
  mark();
  Put(out, static_cast<uint32_t>(GgufType::kUint32));
  mark();
  Put(out, alignment_);
  mark();
  for (const auto& [key, value] : entries_) {
    Put<uint64_t>(out, key.size());
    mark();
    out += key;
    mark();
    out.append(value, 0, 4);
    mark();
    // The item type and the count of an array, or the length of a string, then the rest.
    size_t at = 4;
    for (const size_t field : {size_t{4}, size_t{8}}) {
      const size_t size = std::min(field, value.size() - at);
      out.append(value, at, size);
      at += size;
      mark();
    }
    out.append(value, at, value.size() - at);
    mark();
  }
  const auto align = [&](std::string& bytes) {
    bytes.resize((bytes.size() + alignment_ - 1) / alignment_ * alignment_);
  };
  std::string data;
  for (const TensorEntry& tensor : tensors_) {
    Put<uint64_t>(out, tensor.name.size());
    mark();
    out += tensor.name;
    mark();
    Put<uint32_t>(out, tensor.dims.size());
    mark();
    for (const int64_t dim : tensor.dims) Put<uint64_t>(out, dim);
    mark();
    Put(out, tensor.ggml_type);
    mark();
    Put<uint64_t>(out, data.size());
    mark();
    data += tensor.bytes;
    align(data);
  }
  align(out);
  mark();
  return out + data;
}

void WriteTokenizer(const text::TokenizerDefinition& definition, GgufWriter& writer) {
  writer.String("tokenizer.ggml.model", definition.model);
  writer.String("tokenizer.ggml.pre", definition.pre);
  writer.Strings("tokenizer.ggml.tokens", definition.tokens);
  std::vector<int32_t> types;
  for (const text::TokenType type : definition.types) types.push_back(static_cast<int32_t>(type));
  writer.Int32s("tokenizer.ggml.token_type", types);
  writer.Strings("tokenizer.ggml.merges", definition.merges);
  const auto id = [&](const char* key, const std::optional<TokenId>& value) {
    if (value.has_value()) writer.Uint32(key, static_cast<uint32_t>(*value));
  };
  id("tokenizer.ggml.bos_token_id", definition.bos_id);
  id("tokenizer.ggml.eos_token_id", definition.eos_id);
  id("tokenizer.ggml.unknown_token_id", definition.unk_id);
  id("tokenizer.ggml.padding_token_id", definition.pad_id);
  writer.Bool("tokenizer.ggml.add_bos_token", definition.add_bos);
  writer.Bool("tokenizer.ggml.add_space_prefix", definition.add_space_prefix);
  writer.String("tokenizer.chat_template", definition.chat_template);
}

text::TokenizerDefinition TinyTokenizer(int vocab_size) {
  text::TokenizerDefinition definition;
  definition.model = "gpt2";
  definition.pre = "smollm";
  const auto add = [&](const std::string& token, text::TokenType type) {
    definition.tokens.push_back(token);
    definition.types.push_back(type);
  };
  for (const char* control : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) add(control, text::TokenType::kControl);
  for (int byte = 0; byte < 256; ++byte) add(ByteCharacter(byte), text::TokenType::kNormal);
  // "\xC4\xA0" is a space in the alphabet.
  static constexpr const char* kMerges[] = {"t h",  "th e",       "\xC4\xA0 t",   "\xC4\xA0 a", "i n", "e r",
                                            "o n",  "h e",        "\xC4\xA0t he", "r e",        "a n", "an d",
                                            "in g", "\xC4\xA0 s", "o u",          "\xC4\xA0 w"};
  for (const std::string merge : kMerges) {
    definition.merges.push_back(merge);
    const size_t space = merge.find(' ');
    add(merge.substr(0, space) + merge.substr(space + 1), text::TokenType::kNormal);
  }
  CHECK(static_cast<int>(definition.tokens.size()) <= vocab_size);
  for (int i = 0; static_cast<int>(definition.tokens.size()) < vocab_size; ++i) {
    add(absl::StrCat("[PAD", i, "]"), text::TokenType::kUnused);
  }
  definition.bos_id = 1;
  definition.eos_id = 2;
  definition.unk_id = 0;
  definition.pad_id = 2;
  definition.chat_template =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
      "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
  return definition;
}

GgufWriter TinyModel(const TinyModelOptions& options) {
  GgufWriter writer;
  writer.String("general.architecture", "llama");
  writer.String("general.name", options.name);
  writer.Uint32("llama.block_count", options.num_layers);
  writer.Uint32("llama.context_length", options.max_positions);
  writer.Uint32("llama.embedding_length", options.hidden_size);
  writer.Uint32("llama.feed_forward_length", options.intermediate_size);
  writer.Uint32("llama.attention.head_count", options.num_heads);
  writer.Uint32("llama.attention.head_count_kv", options.num_kv_heads);
  writer.Uint32("llama.attention.key_length", options.head_dim);
  writer.Uint32("llama.attention.value_length", options.head_dim);
  writer.Float32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  writer.Float32("llama.rope.freq_base", 10000.0f);
  writer.Uint32("llama.rope.dimension_count", options.head_dim);
  writer.Uint32("llama.vocab_size", options.vocab_size);
  if (options.rope == TinyModelOptions::Rope::kLinear || options.rope == TinyModelOptions::Rope::kYarn) {
    writer.String("llama.rope.scaling.type", options.rope == TinyModelOptions::Rope::kLinear ? "linear" : "yarn");
    writer.Float32("llama.rope.scaling.factor", 4.0f);
    writer.Uint32("llama.rope.scaling.original_context_length", options.max_positions / 4);
  }
  if (options.tokenizer) {
    WriteTokenizer(TinyTokenizer(options.vocab_size), writer);
  }

  Normal normal(options.seed);
  const int64_t hidden = options.hidden_size;
  const int64_t q = int64_t{options.num_heads} * options.head_dim;
  const int64_t kv = int64_t{options.num_kv_heads} * options.head_dim;
  const int64_t intermediate = options.intermediate_size;
  // Rows that are no multiple of 32 can not be quantised.
  const auto dtype_for = [](DType dtype, int64_t columns) {
    return columns % kernels::BlockSize(dtype) == 0 ? dtype : DType::kF16;
  };
  // Keeps the variance of its input times gain squared.
  const auto matrix = [&](const std::string& name, int64_t columns, int64_t rows, double gain) {
    writer.Tensor(name, {columns, rows}, dtype_for(options.dtype, columns),
                  Random(normal, columns * rows, gain / std::sqrt(static_cast<double>(columns))));
  };
  const auto vector = [&](const std::string& name, int64_t size, double deviation, double mean) {
    writer.Tensor(name, {size}, DType::kF32, Random(normal, size, deviation, mean));
  };
  const DType embedding_dtype = dtype_for(options.embedding_dtype, hidden);
  const double head_deviation = 3.0 / std::sqrt(static_cast<double>(hidden));
  writer.Tensor("token_embd.weight", {hidden, options.vocab_size}, embedding_dtype,
                Random(normal, hidden * options.vocab_size, head_deviation));
  if (!options.tied) {
    writer.Tensor("output.weight", {hidden, options.vocab_size}, embedding_dtype,
                  Random(normal, hidden * options.vocab_size, head_deviation));
  }
  vector("output_norm.weight", hidden, 0.1, 1);
  if (options.rope == TinyModelOptions::Rope::kFactors) {
    std::vector<float> factors(options.head_dim / 2);
    for (size_t i = 0; i < factors.size(); ++i) factors[i] = 1.0f + 7.0f * i / factors.size();
    writer.Tensor("rope_freqs.weight", {options.head_dim / 2}, DType::kF32, factors);
  }
  for (int i = 0; i < options.num_layers; ++i) {
    const std::string blk = absl::StrCat("blk.", i, ".");
    vector(blk + "attn_norm.weight", hidden, 0.1, 1);
    matrix(blk + "attn_q.weight", hidden, q, 1.5);
    matrix(blk + "attn_k.weight", hidden, kv, 1.5);
    matrix(blk + "attn_v.weight", hidden, kv, 1.0);
    if (options.attention_bias) {
      vector(blk + "attn_q.bias", q, 0.3, 0);
      vector(blk + "attn_k.bias", kv, 0.3, 0);
      vector(blk + "attn_v.bias", kv, 0.3, 0);
    }
    matrix(blk + "attn_output.weight", q, hidden, 1.5);
    vector(blk + "ffn_norm.weight", hidden, 0.1, 1);
    matrix(blk + "ffn_gate.weight", hidden, intermediate, 1.5);
    matrix(blk + "ffn_up.weight", hidden, intermediate, 1.5);
    matrix(blk + "ffn_down.weight", intermediate, hidden, 1.5);
  }
  return writer;
}

std::string WriteTestFile(absl::string_view name, absl::string_view bytes) {
  static std::atomic<int> count{0};
  const char* folder = std::getenv("TEST_TMPDIR");
  const std::filesystem::path path =
      (folder != nullptr ? std::filesystem::path(folder) : std::filesystem::temp_directory_path()) /
      absl::StrCat(getpid(), "-", count++, "-", name);
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  CHECK(file.good());
  return path.string();
}

std::string WriteTinyModel(const TinyModelOptions& options) {
  return WriteTestFile(absl::StrCat(options.name, "-", options.seed, ".gguf"), TinyModel(options).Finish());
}

}  // namespace outrider
