// Clients over HTTP: POST /v1/completions with "stream": true on connections that are kept and used again, all in one
// thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "benchmarks/edge/stream_load.h"

namespace outrider::edge {

class HttpClients {
 public:
  // `address`: IPV4:PORT.
  explicit HttpClients(std::string address);
  ~HttpClients();

  // Blocks until every stream has ended. From one thread at a time.
  StreamFigures Run(const StreamLoad& load);

 private:
  class Connection;
  class Loop;
  std::unique_ptr<Connection> Connect(int receive_buffer) const;

  const std::string address_;
  std::vector<std::unique_ptr<Connection>> idle_;
};

// Gets `path` `count` times on one connection: ms from the request's first byte to the answer's last. `body` becomes
// the last answer's. Ends the process if the server does not answer with 200.
std::vector<double> TimeGets(const std::string& address, const std::string& path, int count, std::string* body);

}  // namespace outrider::edge
