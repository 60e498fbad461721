#include "worker/parallel/broadcast_blob.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

// The first collective: the size and as much of the blob as fits. A decode plan of 64 sequences with drafts fits.
struct Head {
  static constexpr int64_t kInlineBytes = 4096 - 8;
  int64_t size;
  char bytes[kInlineBytes];
};

}  // namespace

absl::Status BroadcastBlob(Communicator& communicator, std::string* blob, int root) {
  if (communicator.world_size() == 1) return communicator.Broadcast(blob->data(), 0, 0);
  const bool is_root = communicator.rank() == root;
  Head head;
  if (is_root) {
    head.size = static_cast<int64_t>(blob->size());
    if (head.size > kMaxBlobBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("blob of ", head.size, " bytes; at most ", kMaxBlobBytes, " are broadcast"));
    }
    const size_t inline_bytes = static_cast<size_t>(std::min(head.size, Head::kInlineBytes));
    std::memcpy(head.bytes, blob->data(), inline_bytes);
    std::memset(head.bytes + inline_bytes, 0, sizeof(head.bytes) - inline_bytes);
  }
  RETURN_IF_ERROR(communicator.Broadcast(&head, sizeof(head), root));
  if (head.size < 0 || head.size > kMaxBlobBytes) {
    return absl::InternalError(absl::StrCat("broadcast announces ", head.size, " bytes; at most ", kMaxBlobBytes));
  }
  if (!is_root) {
    blob->resize(static_cast<size_t>(head.size));
    std::memcpy(blob->data(), head.bytes, static_cast<size_t>(std::min(head.size, Head::kInlineBytes)));
  }
  const int64_t rest = head.size - Head::kInlineBytes;
  if (rest <= 0) return absl::OkStatus();
  return communicator.Broadcast(blob->data() + Head::kInlineBytes, rest, root);
}

}  // namespace outrider
