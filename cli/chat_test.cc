// `outrider chat` as a person uses it: the real program at a terminal, before a service that answers as told.

#include <arpa/inet.h>
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <future>
#include <memory>

#include "base/mutex.h"
#include "cli/testing/run_program.h"
#include "proto/inference.grpc.pb.h"

namespace outrider {
namespace {

// Says the last message again in capitals, or "begins" and then nothing until it is cancelled if that is "wait".
class Echo final : public v1::Inference::Service {
 public:
  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::GetModelInfoRequest*, v1::ModelInfo* info) override {
    info->set_model("echo");
    info->set_max_model_len(512);
    info->set_has_chat_template(true);
    return grpc::Status::OK;
  }
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    {
      MutexLock lock(mu_);
      last_ = *request;
    }
    const std::string message = request->messages(request->messages_size() - 1).content();
    if (message == "fail") return {grpc::StatusCode::INVALID_ARGUMENT, "it is too long"};
    v1::GenerateResponse response;
    if (message == "wait") {
      response.mutable_delta()->set_text("begins");
      writer->Write(response);
      while (!context->IsCancelled()) ::usleep(1000);
      cancelled_.set_value();
      return grpc::Status::CANCELLED;
    }
    std::string answer = message;
    for (char& c : answer) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    response.mutable_delta()->set_text("<" + answer + ">");
    writer->Write(response);
    response.mutable_finished()->mutable_usage()->set_output_tokens(3);
    writer->Write(response);
    return grpc::Status::OK;
  }
  v1::GenerateRequest last() {
    MutexLock lock(mu_);
    return last_;
  }
  // Once; until a client has cancelled its call.
  bool WaitCancelled() {
    return cancelled_.get_future().wait_for(std::chrono::seconds(30)) == std::future_status::ready;
  }

 private:
  Mutex mu_;
  v1::GenerateRequest last_ ABSL_GUARDED_BY(mu_);
  std::promise<void> cancelled_;
};

class Chat : public testing::Test {
 protected:
  Chat() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&echo_);
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
    state_ = testing::TempDir() + "/chat_" + std::to_string(::getpid()) + "_" + std::to_string(port);
  }
  ~Chat() override {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    if (terminal_ >= 0) ::close(terminal_);
    server_->Shutdown();
  }

  // Starts the program at a terminal of its own and waits for its prompt.
  void Start() {
    Launch();
    Expect("/help lists commands");
    Expect("> ");
  }

  void Launch(std::vector<std::string> arguments = {}) {
    if (arguments.empty()) arguments = {"--address", address_};
    arguments.insert(arguments.begin(), {"outrider", "chat"});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const std::string program = ProgramPath();
    const winsize size = {.ws_row = 24, .ws_col = 80, .ws_xpixel = 0, .ws_ypixel = 0};
    pid_ = ::forkpty(&terminal_, nullptr, nullptr, &size);
    ASSERT_GE(pid_, 0);
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::setenv("TERM", "xterm", 1);
      ::setenv("NO_COLOR", "1", 1);
      ::setenv("XDG_STATE_HOME", state_.c_str(), 1);
      ::execv(program.c_str(), argv.data());
      ::_exit(127);
    }
  }

  void Type(const std::string& keys) {
    ASSERT_EQ(::write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  // Types a line, and waits until the terminal has shown it: what comes after is the program's.
  void Line(const std::string& text) {
    Type(text);
    if (!text.empty()) Expect(text);
    Type("\r");
  }

  // Waits until the terminal shows `text`, after what was expected before.
  void Expect(const std::string& text) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (true) {
      const size_t found = screen_.find(text);
      if (found != std::string::npos) {
        screen_.erase(0, found + text.size());
        return;
      }
      pollfd fd = {terminal_, POLLIN, 0};
      if (std::chrono::steady_clock::now() > end || ::poll(&fd, 1, 1000) < 0) break;
      char buffer[4096];
      const ssize_t size = (fd.revents & (POLLIN | POLLHUP)) != 0 ? ::read(terminal_, buffer, sizeof(buffer)) : 0;
      if (size < 0) break;  // the program ended
      screen_.append(buffer, static_cast<size_t>(size));
    }
    FAIL() << "the terminal does not show '" << text << "' but '" << screen_ << "'";
  }

  int ExitCode() {
    int status = -1;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  Echo echo_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_, state_, screen_;
  int terminal_ = -1;
  pid_t pid_ = 0;
};

TEST_F(Chat, AnswersKeepsTheConversationAndLeavesOnCtrlD) {
  Start();
  Line("hello");
  Expect("<HELLO>");
  Expect("> ");
  Line("there");
  Expect("<THERE>");
  Expect("> ");
  EXPECT_EQ(echo_.last().messages_size(), 3);
  EXPECT_EQ(echo_.last().messages(1).content(), "<HELLO>");
  Type("\x04");
  EXPECT_EQ(ExitCode(), 0);
}

TEST_F(Chat, CtrlCStopsTheAnswerNotTheProgram) {
  Start();
  Line("wait");
  Expect("begins");
  Type("\x03");
  Expect("(stopped)");
  Expect("> ");
  EXPECT_TRUE(echo_.WaitCancelled());
  Line("next");
  Expect("<NEXT>");
  Expect("> ");
  EXPECT_EQ(echo_.last().messages(1).content(), "begins");  // what had come is part of the conversation
  Line("/exit");
  EXPECT_EQ(ExitCode(), 0);
}

TEST_F(Chat, CtrlCDropsTheLineThatIsTyped) {
  Start();
  Type("never sent");
  Expect("never sent");
  Type("\x03");
  Expect("(Ctrl-D or /exit leaves)");
  Expect("> ");
  Line("sent");
  Expect("<SENT>");
  EXPECT_EQ(echo_.last().messages_size(), 1);
  Expect("> ");
  Type("\x04");
  EXPECT_EQ(ExitCode(), 0);
}

TEST_F(Chat, LinesAreEditedAndRememberedAcrossStarts) {
  Start();
  Type("ello");
  Expect("ello");
  Type("\x01h\x05!");  // to the front, a letter, to the end
  Type("\r");
  Expect("<HELLO!>");
  Expect("> ");
  Type("\x04");
  EXPECT_EQ(ExitCode(), 0);
  ::close(terminal_);
  screen_.clear();
  Start();
  Type("\x1b[A");  // the line before
  Expect("hello!");
  Type("\r");
  Expect("<HELLO!>");
  Expect("> ");
  Type("\x04");
  EXPECT_EQ(ExitCode(), 0);
  EXPECT_EQ(std::system(("test $(stat -c %a " + state_ + "/outrider/chat_history) = 600").c_str()), 0);
}

TEST_F(Chat, SeveralLinesAreOneMessage) {
  Start();
  Line("\"\"\"");
  Expect("... ");
  Line("one");
  Expect("... ");
  Line("two\"\"\"");
  Expect("<ONE\r\nTWO>");
  EXPECT_EQ(echo_.last().messages(0).content(), "one\ntwo");
}

TEST_F(Chat, PastedLinesAreOneMessageOnceSent) {
  Start();
  Type("look: \x1b[200~one\rtwo\x07\nthree\x1b[201~");
  Expect("three");
  Line("!");
  Expect("<LOOK: ONE\r\nTWO\r\nTHREE!>");
  EXPECT_EQ(echo_.last().messages(0).content(), "look: one\ntwo\nthree!");
}

TEST_F(Chat, CtrlCWhileNobodyAnswersLeaves) {
  const int silent = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(::bind(silent, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(silent, 4), 0);
  ASSERT_EQ(::getsockname(silent, reinterpret_cast<sockaddr*>(&address), &size), 0);
  address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  Launch();
  pollfd fd = {silent, POLLIN, 0};
  ASSERT_EQ(::poll(&fd, 1, 30000), 1);  // it calls
  Type("\x03");
  EXPECT_EQ(ExitCode(), 130);
  ::close(silent);
}

TEST_F(Chat, AClusterThatDoesNotStartSaysWhy) {
  Launch({"--model", "/nowhere.gguf"});
  Expect("/nowhere.gguf: No such file");
  Expect("chat.log");
  EXPECT_EQ(ExitCode(), 1);
}

TEST_F(Chat, CommandsChangeTheRequestAndFailuresAreToldAndTakenBack) {
  Start();
  Line("/set max_tokens 5");
  Expect("max_tokens = 5");
  Expect("> ");
  Line("fail");
  Expect("INVALID_ARGUMENT: it is too long");
  Expect("> ");
  Line("good");
  Expect("<GOOD>");
  EXPECT_EQ(echo_.last().messages_size(), 1);
  EXPECT_EQ(echo_.last().max_tokens(), 5);
}

TEST_F(Chat, WithoutATerminalLinesAreMessagesAndTheExitCodeTells) {
  const ProgramResult good = RunProgram({"chat", "--address", address_}, "a\n\"\"\"b\nc\"\"\"\n");
  EXPECT_EQ(good.exit_code, 0) << good.err;
  EXPECT_EQ(good.out, "<A>\n<B\nC>\n");
  EXPECT_EQ(RunProgram({"chat", "--address", address_}, "fail\n").exit_code, 1);
  const ProgramResult nobody = RunProgram({"chat", "--address", "unix:/nowhere/s", "--model", "m"}, "a\n");
  EXPECT_EQ(nobody.exit_code, 2);
  EXPECT_NE(nobody.err.find("not both"), std::string::npos) << nobody.err;
}

}  // namespace
}  // namespace outrider
