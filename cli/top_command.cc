#include "cli/top_command.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/page_client.h"
#include "base/status_macros.h"
#include "cli/cluster_view.h"
#include "cli/metrics_page.h"
#include "cli/page_address.h"
#include "cli/terminal.h"

namespace outrider {
namespace {

constexpr Duration kScrapeBound = std::chrono::seconds(2);

struct Look {
  MetricsPageView page;
  TimePoint at;
};

// All pages as one; a page that does not say whose it is gets its address for a process's name. UNAVAILABLE if none of
// them answers.
absl::StatusOr<Look> TakeLook(const std::vector<std::string>& addresses) {
  std::vector<PageRequest> requests;
  for (const std::string& address : addresses) {
    ASSIGN_OR_RETURN(const std::string resolved, ResolvePageAddress(address));
    requests.push_back({resolved, "/metrics"});
  }
  const auto pages = FetchPages(requests, kScrapeBound);
  Look look;
  look.at = std::chrono::steady_clock::now();
  absl::Status error;
  int num_answers = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    if (pages[i].ok() && pages[i]->status == 200) {
      look.page.Add(pages[i]->body, {{"process", addresses[i]}});
      ++num_answers;
    } else if (error.ok()) {
      error =
          pages[i].ok() ? absl::UnavailableError(absl::StrCat(addresses[i], " has no /metrics")) : pages[i].status();
    }
  }
  if (num_answers == 0) {
    return absl::UnavailableError(
        absl::StrCat(error.message(), "; is `outrider serve` running, and this its metrics port?"));
  }
  return look;
}

double Seconds(const Look& before, const Look& after) {
  return std::max(1e-3, std::chrono::duration<double>(after.at - before.at).count());
}

std::string Title(const std::vector<std::string>& addresses, const std::string& note) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  char time[16];
  std::strftime(time, sizeof(time), "%H:%M:%S", &local);
  return absl::StrCat("outrider top  ", time, "  ", absl::StrJoin(addresses, " "), note);
}

// The terminal without line editing and on its second screen, until destroyed.
class Screen {
 public:
  Screen() { Enter(); }
  ~Screen() { Leave(); }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  void Enter() {
    ::tcgetattr(STDIN_FILENO, &before_);
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    std::printf("\x1b[?1049h\x1b[?25l");
  }
  void Leave() {
    std::printf("\x1b[?25h\x1b[?1049l");
    std::fflush(stdout);
    ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  static void Show(const std::string& text) {
    std::string out = "\x1b[H";
    for (const char c : text) out += c == '\n' ? std::string("\x1b[K\n") : std::string(1, c);
    std::printf("%s\x1b[J", out.c_str());
    std::fflush(stdout);
  }

 private:
  termios before_{};
};

absl::Status ShowLive(const std::vector<std::string>& addresses, double interval_s) {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP}) ::sigaddset(&signals, signal);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  const int signal_fd = ::signalfd(-1, &signals, SFD_CLOEXEC);
  ASSIGN_OR_RETURN(Look before, TakeLook(addresses));
  const bool colour = UseColour(STDOUT_FILENO);
  Screen screen;
  ClusterView view = ViewCluster(before.page, before.page, 1);
  std::string note;
  TimePoint next = std::chrono::steady_clock::now();
  while (true) {
    const int width = TerminalWidth(STDOUT_FILENO), height = TerminalHeight(STDOUT_FILENO);
    Screen::Show(ClusterText(view, Title(addresses, note), width, height - 1, colour));
    next = std::max(next + FromMillis(1000 * interval_s), std::chrono::steady_clock::now());
    for (bool due = false; !due;) {
      const auto wait = std::chrono::ceil<std::chrono::milliseconds>(next - std::chrono::steady_clock::now()).count();
      pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {signal_fd, POLLIN, 0}};
      if (::poll(fds, 2, static_cast<int>(std::max<int64_t>(0, wait))) == 0) due = true;
      char key = 0;
      if (fds[0].revents != 0 && (::read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q' || key == 4)) {
        return absl::OkStatus();
      }
      signalfd_siginfo info{};
      if (fds[1].revents != 0 && ::read(signal_fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGTSTP) {
          screen.Leave();
          ::raise(SIGSTOP);
          screen.Enter();
        } else if (info.ssi_signo != SIGWINCH) {
          return absl::OkStatus();
        }
        break;  // drawn anew at once, figures as they are
      }
    }
    if (std::chrono::steady_clock::now() < next) continue;
    absl::StatusOr<Look> after = TakeLook(addresses);
    note = after.ok() ? "" : "  NO ANSWER, figures are old";
    if (!after.ok()) continue;
    view = ViewCluster(before.page, after->page, Seconds(before, *after));
    before = *std::move(after);
  }
}

absl::Status ShowOnce(const std::vector<std::string>& addresses, double interval_s, bool json) {
  ASSIGN_OR_RETURN(const Look before, TakeLook(addresses));
  ::usleep(static_cast<useconds_t>(1e6 * interval_s));
  ASSIGN_OR_RETURN(const Look after, TakeLook(addresses));
  const ClusterView view = ViewCluster(before.page, after.page, Seconds(before, after));
  const bool terminal = IsTerminal(STDOUT_FILENO);
  std::printf("%s", json ? ClusterJson(view).c_str()
                         : ClusterText(view, Title(addresses, ""), terminal ? TerminalWidth(STDOUT_FILENO) : 120, 0,
                                       UseColour(STDOUT_FILENO))
                               .c_str());
  return absl::OkStatus();
}

}  // namespace

void AddTopCommand(CLI::App& app, int& exit_code) {
  struct Flags {
    std::vector<std::string> addresses = {"127.0.0.1:9100"};
    double interval_s = 1;
    bool once = false, json = false;
  };
  CLI::App* const command = app.add_subcommand("top", "Watch a cluster: load, latency, drafts, memory");
  const auto flags = std::make_shared<Flags>();
  command
      ->add_option("--metrics-address", flags->addresses,
                   "Metrics ports to ask, or unix:PATH: that of `outrider serve` has all; else the router's and each "
                   "leader's and draft worker's")
      ->type_name("[127.0.0.1:9100]")
      ->delimiter(',');
  command->add_option("--interval", flags->interval_s, "Seconds between looks; rates are of this time")
      ->type_name("[1]")
      ->check(CLI::Range(0.1, 60.0));
  command->add_flag("--once", flags->once, "Print it once; so is it done where no terminal is");
  command->add_flag("--json", flags->json, "Print it once, as JSON");
  command->footer(
      "Keys: q, Ctrl-C or Ctrl-D leave. ACC%: draft tokens accepted; LEN: tokens a round; HIDDEN%: rounds whose draft "
      "was\n"
      "there without a wait; PREEMPT: sequences paused a second since KV memory ran out. -: not known, or nothing "
      "happened.\n\n"
      "Examples:\n"
      "  outrider top\n"
      "  outrider top --metrics-address router:9100,group-0:9101,draft-0:9102\n"
      "  outrider top --json --interval 5 | jq .output_tokens_per_s");
  command->callback([=, &exit_code] {
    const bool live = !flags->once && !flags->json && IsTerminal(STDIN_FILENO) && IsTerminal(STDOUT_FILENO);
    const absl::Status status = live ? ShowLive(flags->addresses, flags->interval_s)
                                     : ShowOnce(flags->addresses, flags->interval_s, flags->json);
    if (status.ok()) return;
    std::fprintf(stderr, "outrider top: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
                 std::string(status.message()).c_str());
    exit_code = status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  });
}

}  // namespace outrider
