#include "cli/generate_command.h"

#include <unistd.h>

#include <cstdio>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "cli/child_cluster.h"
#include "cli/client_access.h"
#include "cli/cluster_flags.h"
#include "cli/generate_client.h"
#include "cli/generate_requests.h"
#include "text/utf8.h"

namespace outrider {
namespace {

struct GenerateFlags {
  std::string address;
  ClientAccess access;
  ClusterOptions cluster;
  std::string prompt, chat, prompt_ids, input, prediction;
  uint32_t max_tokens = 0, min_tokens = 0, top_k = 0, n = 1;
  float temperature = 1, top_p = 1, min_p = 0, repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  int logprobs = 0;
  uint32_t prompt_logprobs = 0;
  bool ignore_eos = false, json = false, stats = false, special_tokens = false;
  std::vector<std::string> logit_bias;
  std::string acceptance = "coupled";
  int priority = 0;
  std::string draft = "on", lookahead = "auto";
  int concurrency = 1;
};

// Arguments may hold any bytes; messages carry text as UTF-8 only.
absl::Status CheckUtf8(const char* flag, const std::string& value) {
  const std::optional<size_t> offset = text::FirstInvalidUtf8(value);
  if (!offset.has_value()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " is not UTF-8 at byte ", *offset, " (0x",
                                                 absl::Hex(static_cast<uint8_t>(value[*offset]), absl::kZeroPad2),
                                                 "); send text as UTF-8, or give --prompt-ids"));
}

// Only what was given on the command line is set; the rest is left to the router's defaults.
absl::StatusOr<v1::GenerateRequest> Defaults(const CLI::App& command, const GenerateFlags& flags) {
  const auto given = [&](const char* name) { return command.get_option(name)->count() > 0; };
  v1::GenerateRequest request;
  RETURN_IF_ERROR(CheckUtf8("--prompt", flags.prompt));
  RETURN_IF_ERROR(CheckUtf8("--chat", flags.chat));
  RETURN_IF_ERROR(CheckUtf8("--prediction", flags.prediction));
  for (const std::string& stop : flags.stop) RETURN_IF_ERROR(CheckUtf8("--stop", stop));
  if (given("--prompt")) request.set_prompt(flags.prompt);
  if (given("--chat")) {
    v1::ChatMessage* message = request.add_messages();
    message->set_role("user");
    message->set_content(flags.chat);
  }
  if (given("--prompt-ids")) {
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseTokenIds(flags.prompt_ids));
    request.mutable_prompt_token_ids()->Add(ids.begin(), ids.end());
  }
  if (given("--max-tokens")) request.set_max_tokens(flags.max_tokens);
  if (given("--min-tokens")) request.set_min_tokens(flags.min_tokens);
  if (given("--temperature")) request.set_temperature(flags.temperature);
  if (given("--top-p")) request.set_top_p(flags.top_p);
  if (given("--top-k")) request.set_top_k(flags.top_k);
  if (given("--min-p")) request.set_min_p(flags.min_p);
  if (given("--repetition-penalty")) request.set_repetition_penalty(flags.repetition_penalty);
  if (given("--presence-penalty")) request.set_presence_penalty(flags.presence_penalty);
  if (given("--frequency-penalty")) request.set_frequency_penalty(flags.frequency_penalty);
  if (given("--seed")) request.set_seed(flags.seed);
  if (given("--n")) request.set_n(flags.n);
  if (given("--logprobs")) request.set_num_logprobs(flags.logprobs);
  if (given("--prompt-logprobs")) request.set_prompt_logprobs(flags.prompt_logprobs);
  if (given("--prediction")) request.set_prediction(flags.prediction);
  if (flags.ignore_eos) request.set_ignore_eos(true);
  for (const std::string& stop : flags.stop) request.add_stop(stop);
  for (const int32_t id : flags.stop_token_ids) request.add_stop_token_ids(id);
  if (flags.draft != "on" && flags.draft != "off") {
    return absl::InvalidArgumentError(absl::StrCat("--draft '", flags.draft, "' is neither on nor off"));
  }
  if (given("--draft")) request.set_draft(flags.draft == "on");
  if (given("--lookahead")) {
    int lookahead = -1;
    if (flags.lookahead != "auto" &&
        (!absl::SimpleAtoi(flags.lookahead, &lookahead) || lookahead < 0 || lookahead > 32)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--lookahead '", flags.lookahead, "' is neither auto nor a number from 0 to 32"));
    }
    request.set_lookahead(lookahead);
  }
  for (const std::string& pair : flags.logit_bias) {
    const std::vector<std::string> parts = absl::StrSplit(pair, '=');
    int32_t id = 0;
    float bias = 0;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &id) || id < 0 || !absl::SimpleAtof(parts[1], &bias)) {
      return absl::InvalidArgumentError(absl::StrCat("--logit-bias '", pair, "' is not ID=BIAS, such as 42=-100"));
    }
    v1::LogitBias* const entry = request.add_logit_bias();
    entry->set_token_id(id);
    entry->set_bias(bias);
  }
  if (given("--acceptance")) {
    request.set_acceptance(flags.acceptance == "coupled" ? v1::ACCEPTANCE_COUPLED : v1::ACCEPTANCE_REJECTION);
  }
  if (given("--priority")) request.set_priority(flags.priority);
  if (flags.special_tokens) request.set_skip_special_tokens(false);
  return request;
}

// What happened, for people, on standard error.
void PrintStats(const RequestOutcome& outcome) {
  for (size_t i = 0; i < outcome.choices.size(); ++i) {
    std::fprintf(stderr, "choice %zu: %s\n", i, DescribeFinished(outcome.choices[i].finished).c_str());
  }
}

absl::Status RunGenerate(const CLI::App& command, const GenerateFlags& flags) {
  const int num_prompts =
      !flags.prompt.empty() + !flags.chat.empty() + !flags.prompt_ids.empty() + !flags.input.empty();
  const bool any_given = command.get_option("--prompt")->count() + command.get_option("--chat")->count() > 0;
  if (num_prompts != 1 && !(num_prompts == 0 && any_given)) {
    return absl::InvalidArgumentError("give exactly one of --prompt, --chat, --prompt-ids and --input");
  }
  if (flags.address.empty() == flags.cluster.model.empty()) {
    return absl::InvalidArgumentError(
        "give exactly one of --address (a running router) and --model (a cluster for this call)");
  }
  if (flags.concurrency < 1 || flags.concurrency > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("--concurrency ", flags.concurrency, " is out of range; it takes 1 to 1024"));
  }
  ASSIGN_OR_RETURN(v1::GenerateRequest defaults, Defaults(command, flags));
  std::vector<v1::GenerateRequest> requests = {defaults};
  if (!flags.input.empty()) {
    ASSIGN_OR_RETURN(requests, ReadRequests(flags.input, defaults));
  }
  ClientOptions client{.address = flags.address, .concurrency = flags.concurrency};
  std::unique_ptr<ChildCluster> cluster;
  if (client.address.empty()) {
    ASSIGN_OR_RETURN(cluster, ChildCluster::Start(flags.cluster));
    client.address = cluster->grpc_address();
  } else {
    ASSIGN_OR_RETURN(client.channel, OpenChannel(client.address, flags.access));
  }
  // Text streams when there is one choice to follow; several are printed whole, in order.
  const bool streams = !flags.json && requests.size() == 1 && requests[0].n() <= 1;
  const auto on_text = [&](int, int, const std::string& text) {
    if (!streams) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  bool output_lost = false;
  const auto on_done = [&](int index, const RequestOutcome& outcome) {
    if (!outcome.status.ok()) {
      if (flags.json) std::printf("%s\n", ErrorJson(index, outcome).c_str());
      if (!flags.json || requests.size() == 1) return;
    } else if (flags.json) {
      for (size_t i = 0; i < outcome.choices.size(); ++i) {
        std::printf("%s\n", ChoiceJson(index, static_cast<int>(i), outcome).c_str());
      }
    } else if (streams) {
      std::printf("\n");
    } else {
      for (size_t i = 0; i < outcome.choices.size(); ++i) {
        std::printf("--- request %d, choice %zu\n%s\n", index, i, outcome.choices[i].text.c_str());
      }
    }
    if (std::fflush(stdout) != 0) output_lost = true;
    if (outcome.status.ok() && flags.stats) PrintStats(outcome);
  };
  RETURN_IF_ERROR(RunRequests(client, requests, on_text, on_done));
  if (output_lost)
    return absl::DataLossError("standard output can not be written; is the disk full or the pipe closed?");
  return absl::OkStatus();
}

}  // namespace

void AddGenerateCommand(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("generate", "Complete prompts");
  auto flags = std::make_shared<GenerateFlags>();
  flags->cluster.grpc_port = 0;
  flags->cluster.metrics_port = 0;
  flags->cluster.http_port = 0;
  const auto group = [&](const char* name) { command->option_defaults()->group(name); };
  group("Prompt");
  command->add_option("--prompt", flags->prompt, "Text to continue")->type_name("TEXT");
  command->add_option("--chat", flags->chat, "A user's message, put into the model's chat template")->type_name("TEXT");
  command->add_option("--prompt-ids", flags->prompt_ids, "Token ids to continue")->type_name("1,2,3");
  command
      ->add_option("--input", flags->input,
                   "JSONL, a request a line with the fields of GenerateRequest; - is standard input")
      ->type_name("FILE");
  group("Router");
  command->add_option("--address", flags->address, "Router to ask")->type_name("HOST:PORT");
  AddAccessFlags(*command, flags->access);
  group("Sampling");
  command->add_option("--max-tokens", flags->max_tokens, "Output tokens at most")->type_name("N");
  command->add_option("--min-tokens", flags->min_tokens, "Output tokens before the model may end")->type_name("N");
  command->add_option("--temperature", flags->temperature, "0 is greedy")->type_name("[the model's, or 1]");
  command->add_option("--top-p", flags->top_p, "Keep the likeliest tokens of this total probability")
      ->type_name("[the model's, or 1]");
  command->add_option("--top-k", flags->top_k, "Keep so many of the likeliest tokens; 0: all")
      ->type_name("[the model's, or 0]");
  command->add_option("--min-p", flags->min_p, "Keep tokens of at least this share of the likeliest one's probability")
      ->type_name("[the model's, or 0]");
  command->add_option("--repetition-penalty", flags->repetition_penalty, "Over prompt and output")
      ->type_name("[the model's, or 1]");
  command->add_option("--presence-penalty", flags->presence_penalty, "Over the output")->type_name("[0]");
  command->add_option("--frequency-penalty", flags->frequency_penalty, "Over the output")->type_name("[0]");
  command->add_option("--seed", flags->seed, "Same seed, same tokens; drawn if absent")->type_name("N");
  command->add_option("--stop", flags->stop, "Text that ends the output; may be repeated")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command->add_option("--stop-token-ids", flags->stop_token_ids, "Token ids that end the output")
      ->delimiter(',')
      ->type_name("1,2");
  command->add_option("--n", flags->n, "Choices")->type_name("[1]");
  command->add_flag("--ignore-eos", flags->ignore_eos, "Go on after the end token");
  command->add_option("--logit-bias", flags->logit_bias, "Added to the logits of these tokens, from -100 to 100")
      ->type_name("ID=BIAS,...")
      ->delimiter(',');
  group("Speculation");
  command->add_option("--draft", flags->draft, "on or off: speculation for these requests")->type_name("[on]");
  command->add_option("--lookahead", flags->lookahead, "Draft tokens a round: auto or 0..32")->type_name("[auto]");
  command
      ->add_option("--acceptance", flags->acceptance,
                   "coupled: ids do not depend on drafts; rejection: exact in distribution")
      ->type_name("[coupled]")
      ->check(CLI::IsMember({"coupled", "rejection"}));
  command
      ->add_option("--prediction", flags->prediction,
                   "What the output is likely to be, in the main: drafted from; changes nothing of the output")
      ->type_name("TEXT");
  group("Requests and output");
  command->add_option("--concurrency", flags->concurrency, "Requests at once")->type_name("[1]");
  command->add_option("--priority", flags->priority, "Before requests of a lower one")
      ->type_name("[0]")
      ->check(CLI::Range(-16, 16));
  command->add_flag("--json", flags->json, "One line of JSON a choice, in order");
  command->add_flag("--stats", flags->stats, "Say on standard error what it took");
  command->add_option("--logprobs", flags->logprobs, "With --json: logprobs of the chosen and the best N tokens")
      ->type_name("N");
  command
      ->add_option("--prompt-logprobs", flags->prompt_logprobs,
                   "With --json: logprobs of the prompt's tokens and the best N at each place")
      ->type_name("N");
  command->add_flag("--special-tokens", flags->special_tokens, "Show special tokens in the text");
  group("A cluster for this call");
  command->add_option("--model", flags->cluster.model, "Start a cluster of this model for the call")->type_name("FILE");
  AddClusterFlags(*command, flags->cluster);
  command->footer(
      "Examples:\n"
      "  outrider generate --address 127.0.0.1:9000 --chat 'Why is the sky blue?' --stats\n"
      "  outrider generate --model target.gguf --draft-model draft.gguf --prompt 'Once upon a time' --temperature 0\n"
      "  outrider generate --address 127.0.0.1:9000 --input prompts.jsonl --concurrency 8 --json");
  command->callback([=, &exit_code] {
    const absl::Status status = RunGenerate(*command, *flags);
    if (status.ok()) return;
    std::fprintf(stderr, "outrider generate: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
                 std::string(status.message()).c_str());
    exit_code = status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  });
}

}  // namespace outrider
