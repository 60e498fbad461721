#include "cli/chat_command.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cli/chat_answer.h"
#include "cli/chat_session.h"
#include "cli/child_cluster.h"
#include "cli/client_tls.h"
#include "cli/cluster_flags.h"
#include "cli/generate_client.h"  // DescribeFinished
#include "cli/line_editor.h"
#include "cli/terminal.h"
#include "text/utf8.h"

namespace outrider {
namespace {

constexpr auto kConnectBound = std::chrono::seconds(10);
constexpr int kExitInterrupted = 130;  // as shells have it: 128 and SIGINT
constexpr int64_t kMaxConversationBytes = 64 << 20;

struct ChatFlags {
  std::string address = "127.0.0.1:9000", system;
  ClientTls tls;
  ClusterOptions cluster;
  float temperature = 1, top_p = 1, min_p = 0;
  uint32_t top_k = 0, max_tokens = 0;
  uint64_t seed = 0;
  std::string draft = "on";
  bool no_history = false, stats = false;
};

absl::StatusOr<v1::GenerateRequest> Defaults(const CLI::App& command, const ChatFlags& flags) {
  const auto given = [&](const char* name) { return command.get_option(name)->count() > 0; };
  v1::GenerateRequest request;
  if (!flags.system.empty()) {
    if (!text::IsValidUtf8(flags.system)) return absl::InvalidArgumentError("--system is not UTF-8");
    v1::ChatMessage* const message = request.add_messages();
    message->set_role("system");
    message->set_content(flags.system);
  }
  if (given("--temperature")) request.set_temperature(flags.temperature);
  if (given("--top-p")) request.set_top_p(flags.top_p);
  if (given("--top-k")) request.set_top_k(flags.top_k);
  if (given("--min-p")) request.set_min_p(flags.min_p);
  if (given("--max-tokens")) request.set_max_tokens(flags.max_tokens);
  if (given("--seed")) request.set_seed(flags.seed);
  if (given("--draft")) request.set_draft(flags.draft == "on");
  return request;
}

// $XDG_STATE_HOME/outrider, ~/.local/state/outrider; empty without a home.
std::string StateFolder() {
  if (const char* const state = std::getenv("XDG_STATE_HOME"); state != nullptr && *state == '/') {
    return absl::StrCat(state, "/outrider");
  }
  const char* const home = std::getenv("HOME");
  return home == nullptr || *home == '\0' ? "" : absl::StrCat(home, "/.local/state/outrider");
}

// The conversation's other end and its two channels to people.
class Conversation {
 public:
  Conversation(v1::Inference::Stub& stub, v1::GenerateRequest defaults, LineEditor& editor, bool stats)
      : stub_(stub),
        session_(std::move(defaults), stats),
        editor_(editor),
        interactive_(IsTerminal(STDIN_FILENO) && IsTerminal(STDOUT_FILENO)),
        colour_(UseColour(STDOUT_FILENO)) {}

  // Until it is left. False if an answer failed and nobody is there to see it.
  bool Run() {
    InputAssembler assembler;
    while (true) {
      std::string line;
      if (interactive_) DropInterrupts();
      const LineEditor::Event event = editor_.Read(assembler.IsOpen() ? "... " : "> ", &line);
      if (event == LineEditor::Event::kEnd) return !failed_ || interactive_;
      if (event == LineEditor::Event::kInterrupt) {
        if (!assembler.IsOpen()) Say("(Ctrl-D or /exit leaves)");
        assembler.Drop();
        continue;
      }
      if (!line.empty()) editor_.Remember(line);
      if (!assembler.Add(line)) continue;
      if (!Take(session_.OnInput(assembler.input()))) return !failed_ || interactive_;
    }
  }

 private:
  bool Take(const ChatSession::Step& step) {
    switch (step.action) {
      case ChatSession::Action::kExit:
        return false;
      case ChatSession::Action::kNothing:
        if (!step.text.empty()) Say(step.text);
        break;
      case ChatSession::Action::kGenerate:
        Answer();
        break;
      case ChatSession::Action::kSave:
        Save(step.text);
        break;
      case ChatSession::Action::kLoad:
        Load(step.text);
        break;
    }
    return true;
  }

  void Answer() {
    const ChatAnswer answer = StreamAnswer(stub_, session_.Request(), interactive_, [&](const std::string& text) {
      std::fputs(interactive_ ? TerminalSafe(text).c_str() : text.c_str(), stdout);
      std::fflush(stdout);
    });
    if (!answer.text.empty()) std::printf("\n");
    const bool cancelled = answer.status.code() == absl::StatusCode::kCancelled;
    if (answer.status.ok() || (cancelled && !answer.text.empty())) {
      session_.OnAnswer(answer.text);
    } else {
      session_.OnFailure();
    }
    if (cancelled) {
      Say("(stopped)");
    } else if (!answer.status.ok()) {
      failed_ = true;
      std::fprintf(stderr, "outrider chat: %s: %s\n", absl::StatusCodeToString(answer.status.code()).c_str(),
                   TerminalSafe(ConnectionError(std::string(answer.status.message()))).c_str());
    } else if (session_.shows_stats()) {
      Say(DescribeFinished(answer.finished));
    }
    std::fflush(stdout);
  }

  void Save(const std::string& path) {
    std::ofstream file(path);
    file << session_.ToJson();
    file.close();
    Say(file ? absl::StrCat("written to ", path) : absl::StrCat("'", path, "' can not be written"));
  }

  void Load(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text(kMaxConversationBytes, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (!file.eof() || file.gcount() == 0) {
      Say(absl::StrCat("'", path, "' can not be read"));
      return;
    }
    text.resize(static_cast<size_t>(file.gcount()));
    const absl::Status status = session_.FromJson(text);
    Say(status.ok() ? absl::StrCat("read ", path, ": ", session_.Request().messages_size(), " messages")
                    : absl::StrCat(path, ": ", status.message()));
  }

  // What is not the model's.
  void Say(const std::string& text) {
    const std::string safe = TerminalSafe(text);
    if (colour_) {
      std::fprintf(stdout, "\x1b[2m%s\x1b[0m\n", safe.c_str());
    } else {
      std::fprintf(interactive_ ? stdout : stderr, "%s\n", safe.c_str());
    }
    std::fflush(stdout);
  }

  v1::Inference::Stub& stub_;
  ChatSession session_;
  LineEditor& editor_;
  const bool interactive_, colour_;
  bool failed_ = false;
};

// CANCELLED after Ctrl-C.
grpc::Status AskModelInfo(v1::Inference::Stub& stub, bool takes_interrupts, v1::ModelInfo& info) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kConnectBound);
  std::optional<InterruptWatch> watch;
  if (takes_interrupts) watch.emplace([&context] { context.TryCancel(); });
  return stub.GetModelInfo(&context, {}, &info);
}

absl::Status RunChat(const CLI::App& command, const ChatFlags& flags, int& exit_code) {
  ASSIGN_OR_RETURN(v1::GenerateRequest defaults, Defaults(command, flags));
  const bool interactive = IsTerminal(STDIN_FILENO) && IsTerminal(STDOUT_FILENO);
  const std::string state = StateFolder();
  // Before the cluster starts: its output goes elsewhere from then on, and so does the terminal's Ctrl-C.
  const std::unique_ptr<LineEditor> editor =
      LineEditor::Make(flags.no_history || state.empty() ? "" : absl::StrCat(state, "/chat_history"));
  std::string address = flags.address;
  std::unique_ptr<ChildCluster> cluster;
  if (!flags.cluster.model.empty()) {
    if (command.get_option("--address")->count() > 0 || flags.tls.on || !flags.tls.files.empty()) {
      return absl::InvalidArgumentError(
          "give either --address (a running router), with --tls where it has it, or --model, not both");
    }
    if (interactive) std::fprintf(stderr, "starting a cluster...\n");
    ASSIGN_OR_RETURN(cluster,
                     ChildCluster::Start(flags.cluster, "/proc/self/exe",
                                         {.own_process_group = true,
                                          .log_file = interactive && !state.empty() ? state + "/chat.log" : ""}));
    address = cluster->grpc_address();
  }
  if (interactive) BlockInterrupts();
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ChannelCredentials> credentials, Credentials(flags.tls));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  const auto stub = v1::Inference::NewStub(grpc::CreateCustomChannel(address, credentials, arguments));
  v1::ModelInfo info;
  const grpc::Status status = AskModelInfo(*stub, interactive, info);
  if (status.error_code() == grpc::StatusCode::CANCELLED) {
    exit_code = kExitInterrupted;
    return absl::OkStatus();
  }
  if (!status.ok()) {
    return absl::UnavailableError(
        absl::StrCat("no router answers at ", address, ": ", ConnectionError(status.error_message()),
                     "; is `outrider serve` running there, with TLS (--tls) or without as it was called?"));
  }
  if (!info.has_chat_template()) {
    return absl::FailedPreconditionError(
        absl::StrCat(info.model(), " has no chat template; continue text with `outrider generate --prompt`"));
  }
  if (interactive) {
    std::printf("%s, %u tokens of context, %u draft workers; /help lists commands\n",
                TerminalSafe(info.model()).c_str(), info.max_model_len(), info.num_draft_workers());
  }
  if (!Conversation(*stub, std::move(defaults), *editor, flags.stats).Run()) exit_code = 1;
  return absl::OkStatus();
}

}  // namespace

void AddChatCommand(CLI::App& app, int& exit_code) {
  CLI::App* const command = app.add_subcommand("chat", "Talk with the model in the terminal");
  const auto flags = std::make_shared<ChatFlags>();
  flags->cluster.grpc_port = 0;
  flags->cluster.metrics_port = 0;
  flags->cluster.http_port = 0;
  const auto group = [&](const char* name) { command->option_defaults()->group(name); };
  group("Conversation");
  command->add_option("--system", flags->system, "A message that goes before all others")->type_name("TEXT");
  command->add_flag("--stats", flags->stats, "Tell after each answer what it took");
  command->add_flag("--no-history", flags->no_history, "Neither read nor write the history of lines");
  group("Router");
  command->add_option("--address", flags->address, "Router to ask")->type_name("[127.0.0.1:9000]");
  AddTlsFlags(*command, flags->tls);
  group("Sampling");
  command->add_option("--temperature", flags->temperature, "0 is greedy")->type_name("[the model's]");
  command->add_option("--top-p", flags->top_p, "Keep the likeliest tokens of this total probability")
      ->type_name("[the model's]");
  command->add_option("--top-k", flags->top_k, "Keep so many of the likeliest tokens; 0: all")
      ->type_name("[the model's]");
  command->add_option("--min-p", flags->min_p, "Keep tokens of at least this share of the likeliest one's probability")
      ->type_name("[the model's]");
  command->add_option("--max-tokens", flags->max_tokens, "Tokens of an answer, at most")->type_name("N");
  command->add_option("--seed", flags->seed, "Same conversation, same seed, same tokens")->type_name("N");
  command->add_option("--draft", flags->draft, "on or off: speculation")
      ->type_name("[on]")
      ->check(CLI::IsMember({"on", "off"}));
  group("A cluster for this conversation");
  command->add_option("--model", flags->cluster.model, "Start a cluster of this model instead")->type_name("FILE");
  AddClusterFlags(*command, flags->cluster);
  command->footer(
      "Lines are edited as in a shell: arrows, Ctrl-A, Ctrl-E, Ctrl-R. Ctrl-C stops an answer, or drops the line that "
      "is\n"
      "being typed; Ctrl-D leaves. A line that ends in \\ goes on; lines between \"\"\" and \"\"\" are one message. "
      "/help\n"
      "lists the commands. What was typed is kept in ~/.local/state/outrider. Without a terminal each line of "
      "standard\n"
      "input is a message, and the exit code is 1 if an answer failed.\n\n"
      "Examples:\n"
      "  outrider chat\n"
      "  outrider chat --model target.gguf --draft-model draft.gguf --stats\n"
      "  echo 'Why is the sky blue?' | outrider chat --address router:9000 --temperature 0");
  command->callback([=, &exit_code] {
    const absl::Status status = RunChat(*command, *flags, exit_code);
    if (status.ok()) return;
    std::fprintf(stderr, "outrider chat: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
                 std::string(status.message()).c_str());
    exit_code = status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  });
}

}  // namespace outrider
