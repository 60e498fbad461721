// One process of a cluster, started by a test itself: `outrider router`, `target` or `draft`.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace outrider {

class Process {
 public:
  // `args` after the program's name. Its log goes to the test's standard error. It is killed when the thread that
  // started it ends.
  // apart: with a network of its own, as on another host; sockets with a path lead in and out.
  explicit Process(const std::vector<std::string>& args, bool apart = false);
  // Killed if it still runs.
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  bool Running();
  // Its wait status; waits for the end, at most so long. -1 if it still runs then, which also fails the test.
  int Wait(std::chrono::seconds bound = std::chrono::seconds(40));

 private:
  pid_t pid_;
  bool reaped_ = false;
  int status_ = -1;
};

// Whether this process may start others apart.
bool CanStartApart();

// A folder of short path for sockets and address files, gone with the test program.
std::string RuntimeFolder();

// Waits until `condition` holds, looking every few milliseconds; false after the bound, which also fails the test with
// `what`.
bool Await(const std::string& what, const std::function<bool()>& condition,
           std::chrono::seconds bound = std::chrono::seconds(40));

// 'R', 'S', 'T' (stopped), 'Z' (ended) and so on; 0 if there is no such process.
char StateOf(pid_t pid);

// The value of `key` ("grpc", "metrics") in an address file, once it is there; empty before.
std::string AddressIn(const std::string& address_file, const std::string& key);

}  // namespace outrider
