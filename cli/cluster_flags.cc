#include "cli/cluster_flags.h"

namespace outrider {

void AddClusterFlags(CLI::App& command, ClusterOptions& options) {
  command.add_option("--draft-model", options.draft_model, "GGUF file or Hugging Face folder; none: no draft workers")
      ->type_name("FILE");
  command.add_option("--tensor-parallel-size,-t", options.tensor_parallel_size, "Rank processes a group")
      ->type_name("[1]");
  command.add_option("--groups", options.groups, "Target groups, each with the whole model")->type_name("[1]");
  command
      .add_option("--ngram-draft", options.ngram_draft,
                  "Draft what followed the last tokens before, too, without a draft worker")
      ->type_name("[true]");
  command.add_option("--draft-workers", options.draft_workers, "Draft workers")->type_name("[1]");
  command.add_option("--device", options.device, "auto, cpu or cuda")->type_name("[auto]");
  command
      .add_option("--numerics", options.numerics,
                  "invariant: fast, bits of a row depend on nothing but the row; reference: the slow oracle")
      ->type_name("[invariant]");
  command
      .add_option("--load-format", options.load_format,
                  "auto; dummy: random weights in the shapes of a folder's config.json, for measuring speed")
      ->type_name("[auto]");
  command
      .add_option("--threads", options.threads, "Threads of the machine to use, divided over processes; 0: all cores")
      ->type_name("[0]");
  command
      .add_option("--max-model-len", options.max_model_len, "Tokens of prompt and output together; 0: the model's own")
      ->type_name("[0]");
  command
      .add_option("--kv-cache-bytes", options.kv_cache_bytes, "KV memory a rank, in bytes; 0: sized by max-sequences")
      ->type_name("[0]");
  command
      .add_option("--gpu-memory-utilization", options.gpu_memory_utilization,
                  "Share of a GPU's memory that a target rank may take; a draft worker on it takes 0.1")
      ->type_name("[0.85]");
  command.add_option("--max-sequences", options.max_sequences, "Sequences a group computes at once")->type_name("[64]");
  command
      .add_option("--max-step-tokens", options.max_step_tokens,
                  "Tokens a step, at most; 0: as many as keep a step short, by measurement")
      ->type_name("[0]");
  command.add_option("--prefix-cache", options.prefix_cache, "true or false: keep KV for prompts that begin alike")
      ->type_name("[true]");
}

}  // namespace outrider
