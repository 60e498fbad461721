// ReflectionService tells tools what a server speaks, in version 1 of gRPC's server reflection; the library this is
// built with brings v1alpha only, which stays beside it.
//
// Thread safety: all methods, from any thread.
#pragma once

#include <string>
#include <vector>

#include "proto/grpc/reflection/v1/reflection.grpc.pb.h"

namespace outrider::router {

namespace reflection = ::grpc::reflection::v1;

// The answer of a server that has `services` (full names), of which the program knows the descriptors. Pure.
reflection::ServerReflectionResponse AnswerReflection(const reflection::ServerReflectionRequest& request,
                                                      const std::vector<std::string>& services);

class ReflectionService final : public reflection::ServerReflection::CallbackService {
 public:
  explicit ReflectionService(std::vector<std::string> services) : services_(std::move(services)) {}

  grpc::ServerBidiReactor<reflection::ServerReflectionRequest, reflection::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  const std::vector<std::string> services_;
};

}  // namespace outrider::router
