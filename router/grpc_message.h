// Messages of methods that take and give bytes, so that a request that can not be parsed gets an answer of ours: gRPC's
// own is an UNIMPLEMENTED without a word.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider::router {

// INVALID_ARGUMENT if `bytes` are not a message of this kind.
template <typename Message>
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, Message& message) {
  grpc::ByteBuffer copy = bytes;  // shares the bytes; parsing uses it up
  if (grpc::SerializationTraits<Message>::Deserialize(&copy, &message).ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the request is no ", Message::descriptor()->full_name(),
                   ": it is cut off, or a text in it is not UTF-8; send what is not text as token ids"));
}

template <typename Message>
grpc::ByteBuffer SerializeMessage(const Message& message) {
  grpc::ByteBuffer bytes;
  bool own_buffer = false;
  CHECK((grpc::SerializationTraits<Message>::Serialize(message, &bytes, &own_buffer).ok()));
  return bytes;
}

}  // namespace outrider::router
