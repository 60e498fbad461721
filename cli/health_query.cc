#include "cli/health_query.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/page_client.h"
#include "cli/page_address.h"

namespace outrider {
namespace {

constexpr int kServing = 1;  // grpc.health.v1.HealthCheckResponse.ServingStatus
constexpr int kNotServing = 2;

// One call of Health/Check by its bytes: the distribution has no header for it.
grpc::Status Check(grpc::GenericStub& stub, const std::string& service, Duration bound, int* serving_status) {
  // HealthCheckRequest: field 1, the service's name (shorter than 128 bytes).
  std::string bytes;
  if (!service.empty()) bytes = absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())), service);
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(bound));
  context.set_wait_for_ready(false);
  grpc::CompletionQueue queue;
  grpc::Status status;
  const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  *serving_status = 0;
  std::vector<grpc::Slice> slices;
  // HealthCheckResponse: field 1, an enum.
  if (status.ok() && response.Dump(&slices).ok() && !slices.empty() && slices[0].size() >= 2 &&
      slices[0].begin()[0] == 0x08) {
    *serving_status = slices[0].begin()[1];
  }
  return status;
}

std::string FirstLine(const std::string& body) {
  return std::string(absl::StripAsciiWhitespace(body.substr(0, body.find('\n'))));
}

}  // namespace

HealthAnswer QueryHealthPages(const std::string& address, Duration bound) {
  HealthAnswer answer{.address = address};
  const auto resolved = ResolvePageAddress(address);
  if (!resolved.ok()) {
    answer.reason = std::string(resolved.status().message());
    return answer;
  }
  const auto pages = FetchPages({{*resolved, "/livez"}, {*resolved, "/readyz"}}, bound);
  for (const auto& page : pages) {
    if (page.ok()) continue;
    answer.reason = absl::StrCat("no answer: ", page.status().message());
    return answer;
  }
  answer.live = pages[0]->status == 200;
  answer.ready = pages[1]->status == 200;
  if (!answer.live) {
    answer.reason = FirstLine(pages[0]->body);
  } else if (!answer.ready) {
    answer.reason = FirstLine(pages[1]->body);
  }
  return answer;
}

HealthAnswer QueryHealthService(const std::string& address,
                                const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                                const std::string& service, Duration bound) {
  HealthAnswer answer{.address = address};
  const auto channel = grpc::CreateChannel(address, credentials);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() +
                                 std::chrono::duration_cast<std::chrono::system_clock::duration>(bound))) {
    answer.reason = "no answer: nobody speaks gRPC there";
    return answer;
  }
  grpc::GenericStub stub(channel);
  int serving_status = 0;
  grpc::Status status = Check(stub, "liveness", bound, &serving_status);
  answer.live = status.error_code() == grpc::StatusCode::NOT_FOUND || (status.ok() && serving_status == kServing);
  if (!answer.live) {
    answer.reason = status.ok() ? "not live" : absl::StrCat("no answer: ", status.error_message());
    return answer;
  }
  status = Check(stub, service, bound, &serving_status);
  answer.ready = status.ok() && serving_status == kServing;
  if (answer.ready) return answer;
  const std::string name = service.empty() ? "the server" : absl::StrCat("service '", service, "'");
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
    answer.reason = absl::StrCat("not ready: ", name, " is not there");
  } else if (!status.ok()) {
    answer.reason = absl::StrCat("no answer: ", status.error_message());
  } else {
    answer.reason =
        absl::StrCat("not ready: ", name, serving_status == kNotServing ? " is not serving" : " is unknown");
  }
  return answer;
}

std::string HealthJson(const HealthAnswer& answer) {
  nlohmann::ordered_json json = {
      {"address", answer.address}, {"live", answer.live}, {"ready", answer.ready}, {"reason", answer.reason}};
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace outrider
