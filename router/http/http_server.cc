#include "router/http/http_server.h"

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/write.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "router/http/http_connection.h"

namespace outrider::router {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

// After an accept that failed (no descriptors are left, say).
constexpr auto kAcceptBackoff = std::chrono::milliseconds(100);

}  // namespace

struct HttpServer::Core {
  Core(const Options& o, HttpHandler* handler)
      : options(o), acceptor(asio::make_strand(io)), backoff(acceptor.get_executor()) {
    environment = {.options = &options,
                   .handler = handler,
                   .draining = &draining,
                   .all_body_bytes = &all_body_bytes,
                   .on_closed = [this](const void* connection) {
                     MutexLock lock(mu);
                     connections.erase(connection);
                   }};
  }

  void Accept() {
    acceptor.async_accept(asio::make_strand(io), [this](const boost::system::error_code& error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (error) {
        backoff.expires_after(kAcceptBackoff);
        backoff.async_wait([this](const boost::system::error_code& stopped) {
          if (!stopped) Accept();
        });
        return;
      }
      Take(std::move(socket));
      Accept();
    });
  }

  void Take(tcp::socket socket) {
    std::shared_ptr<HttpConnection> connection;
    std::shared_ptr<asio::ssl::context> tls = options.tls == nullptr ? nullptr : options.tls->Current();
    {
      MutexLock lock(mu);
      if (!stopped && static_cast<int>(connections.size()) < options.max_connections) {
        connection = std::make_shared<HttpConnection>(std::move(socket), std::move(tls), &environment);
        connections.emplace(connection.get(), connection);
      }
    }
    if (connection != nullptr) {
      connection->Start();
      return;
    }
    if (options.tls != nullptr) return;  // what is not encrypted would not be understood
    const HttpResponse refusal = environment.handler->Refuse(
        503, absl::StrCat("all ", options.max_connections, " connections are in use; come again in a moment"));
    const std::string data = RenderHead({.status = refusal.status,
                                         .content_type = refusal.content_type,
                                         .headers = &refusal.headers,
                                         .content_length = static_cast<int64_t>(refusal.body.size()),
                                         .keep_alive = false}) +
                             refusal.body;
    boost::system::error_code ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(data), ignored);
  }

  std::vector<std::shared_ptr<HttpConnection>> Connections() {
    std::vector<std::shared_ptr<HttpConnection>> all;
    MutexLock lock(mu);
    all.reserve(connections.size());
    for (const auto& [key, weak] : connections) {
      if (std::shared_ptr<HttpConnection> connection = weak.lock()) all.push_back(std::move(connection));
    }
    return all;
  }

  const Options options;
  asio::io_context io;
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  tcp::acceptor acceptor;
  asio::steady_timer backoff;
  std::string address;
  std::atomic<bool> draining{false};
  std::atomic<int64_t> all_body_bytes{0};
  HttpConnectionEnvironment environment;
  mutable Mutex mu;
  bool stopped ABSL_GUARDED_BY(mu) = false;
  absl::flat_hash_map<const void*, std::weak_ptr<HttpConnection>> connections ABSL_GUARDED_BY(mu);
  std::vector<std::thread> threads;
};

HttpServer::HttpServer(std::unique_ptr<Core> core) : core_(std::move(core)) {}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const Options& options, HttpHandler* handler) {
  auto core = std::make_unique<Core>(options, handler);
  const auto failed = [&](const boost::system::error_code& error) {
    return absl::UnavailableError(absl::StrCat("can not listen on ", options.host, ":", options.port, ": ",
                                               error.message(), "; choose another port, or 0 for a free one"));
  };
  boost::system::error_code error;
  tcp::resolver resolver(core->io);
  const auto found = resolver.resolve(options.host, absl::StrCat(options.port),
                                      tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (error || found.empty()) return failed(error);
  const tcp::endpoint endpoint = found.begin()->endpoint();
  core->acceptor.open(endpoint.protocol(), error);
  if (!error) core->acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) core->acceptor.bind(endpoint, error);
  if (!error) core->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return failed(error);
  core->address = absl::StrCat(options.host, ":", core->acceptor.local_endpoint().port());
  asio::post(core->acceptor.get_executor(), [c = core.get()] { c->Accept(); });
  for (int i = 0; i < options.num_threads; ++i) core->threads.emplace_back([c = core.get()] { c->io.run(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(core)));
}

HttpServer::~HttpServer() {
  Shutdown();
  core_->work.reset();
  for (std::thread& thread : core_->threads) thread.join();
}

const std::string& HttpServer::address() const { return core_->address; }

int HttpServer::num_connections() const {
  MutexLock lock(core_->mu);
  return static_cast<int>(core_->connections.size());
}

void HttpServer::StartDrain() {
  core_->draining = true;
  for (const auto& connection : core_->Connections()) connection->Drain();
}

void HttpServer::Shutdown() {
  core_->draining = true;
  {
    MutexLock lock(core_->mu);
    core_->stopped = true;
  }
  asio::post(core_->acceptor.get_executor(), [c = core_.get()] {
    boost::system::error_code ignored;
    c->acceptor.close(ignored);
    c->backoff.cancel(ignored);
  });
  for (const auto& connection : core_->Connections()) connection->Shutdown();
}

}  // namespace outrider::router
