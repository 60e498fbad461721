// A TCP proxy on loopback whose way can be lost: from Swallow on it takes what either side says and passes nothing on,
// no end either, so that each side has a peer that is half open.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace outrider::router {

class SwallowingProxy {
 public:
  // Passes connections on to 127.0.0.1:`port`.
  explicit SwallowingProxy(int port);
  ~SwallowingProxy();
  SwallowingProxy(const SwallowingProxy&) = delete;
  SwallowingProxy& operator=(const SwallowingProxy&) = delete;

  // Where it listens itself.
  std::string address() const;
  // For good, for connections that are open; new ones are passed on as before.
  void Swallow() { swallows_before_ = num_connections_.load(); }
  int num_connections() const { return num_connections_; }
  // What was taken and not passed on.
  int64_t num_bytes_swallowed() const { return num_bytes_swallowed_; }

 private:
  void Accept();
  // One way of connection `index`.
  void Pump(int index, int from, int to);

  const int port_;
  int listener_ = -1;
  int own_port_ = 0;
  std::atomic<bool> stopped_{false};
  std::atomic<int> num_connections_{0};
  std::atomic<int> swallows_before_{0};
  std::atomic<int64_t> num_bytes_swallowed_{0};
  std::thread acceptor_;
  Mutex mu_;
  std::vector<int> sockets_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> pumps_ ABSL_GUARDED_BY(mu_);
};

}  // namespace outrider::router
