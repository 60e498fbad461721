#include "cli/model_check.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/tokenizer_definition.h"
#include "worker/model/cuda_backend.h"
#include "worker/model/model_description.h"

namespace outrider {
namespace {

absl::StatusOr<ModelDescription> Describe(const std::string& path, const std::string& load_format) {
  ASSIGN_OR_RETURN(ModelDescription model,
                   DescribeModel(path, load_format == "dummy" ? LoadFormat::kDummy : LoadFormat::kAuto));
  RETURN_IF_ERROR(model.servable);
  return model;
}

}  // namespace

absl::Status CheckModels(const ClusterOptions& options) {
  if (options.device == "cuda") {
    if (const absl::Status usable = CheckCuda(0); !usable.ok()) {
      return absl::Status(usable.code(), absl::StrCat("--device cuda: ", usable.message()));
    }
    if (static_cast<int>(options.tensor_parallel_size) > NumCudaDevices()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "--tensor-parallel-size ", options.tensor_parallel_size, " with --device cuda: ", NumCudaDevices(),
          " GPUs are visible, and each rank needs one; see CUDA_VISIBLE_DEVICES, or use "
          "--device cpu"));
    }
  }
  ASSIGN_OR_RETURN(const ModelDescription target, Describe(options.model, options.load_format));
  if (static_cast<int>(options.tensor_parallel_size) > target.config.num_heads) {
    return absl::InvalidArgumentError(absl::StrCat("--tensor-parallel-size ", options.tensor_parallel_size, ": ",
                                                   options.model, " has ", target.config.num_heads,
                                                   " attention heads, and a rank needs at least one"));
  }
  if (static_cast<int64_t>(options.max_model_len) > target.config.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("--max-model-len ", options.max_model_len, ": ", options.model,
                                                   " has ", target.config.max_positions, " positions"));
  }
  if (options.draft_model.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ModelDescription draft, Describe(options.draft_model, options.load_format));
  if (target.config.vocab_size != draft.config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("the draft model's vocabulary is not the target's: ", options.model,
                                                   " has ", target.config.vocab_size, " ids, ", options.draft_model,
                                                   " has ", draft.config.vocab_size, "; both must be equal"));
  }
  const std::string target_print = text::Fingerprint(target.tokenizer);
  const std::string draft_print = text::Fingerprint(draft.tokenizer);
  if (target_print != draft_print) {
    return absl::InvalidArgumentError(
        absl::StrCat("the draft model's tokenizer is not the target's: ", options.model, " has ", target_print, " (",
                     target.tokenizer.tokens.size(), " tokens), ", options.draft_model, " has ", draft_print, " (",
                     draft.tokenizer.tokens.size(), " tokens); drafts are token ids, so both must be equal"));
  }
  return absl::OkStatus();
}

}  // namespace outrider
