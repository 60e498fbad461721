// The processes of the benchmark: this program again, in another part.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

namespace outrider::edge {

class ChildProcess {
 public:
  // Runs this program with `arguments`; its standard error goes to the file `log`. Ends with this process. Ends the
  // process if it can not be started.
  static std::unique_ptr<ChildProcess> Start(const std::vector<std::string>& arguments, const std::string& log);
  // Kills it.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // The next line of its standard output. Ends the process if it has ended.
  std::string ReadLine();
  // A line to its standard input.
  void WriteLine(const std::string& line);
  bool running();

  int64_t ResidentBytes() const;
  // User and system time so far.
  double ProcessorSeconds() const;

 private:
  ChildProcess(pid_t pid, int in, int out) : pid_(pid), in_(in), out_(out) {}
  const pid_t pid_;
  const int in_, out_;
  bool ended_ = false;
};

}  // namespace outrider::edge
