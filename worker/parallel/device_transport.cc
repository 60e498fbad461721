#include "worker/parallel/device_transport.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

template <size_t kSize>
std::array<char, kSize> Text(const absl::Status& status) {
  std::array<char, kSize> text{};
  if (status.ok()) return text;
  const absl::string_view message = status.message().empty() ? "unknown" : status.message();
  std::copy_n(message.begin(), std::min(message.size(), kSize - 1), text.begin());
  return text;
}

// "rank 1: why" of the first rank whose text is not empty; empty if all are.
template <typename Member>
std::string FirstError(absl::Span<const TransportReport> reports, Member member) {
  for (size_t rank = 0; rank < reports.size(); ++rank) {
    const auto& text = reports[rank].*member;
    if (text[0] == 0) continue;
    const size_t size = static_cast<size_t>(std::find(text.begin(), text.end(), '\0') - text.begin());
    return absl::StrCat("rank ", rank, ": ", absl::string_view(text.data(), size));
  }
  return "";
}

}  // namespace

absl::StatusOr<DeviceTransport> ParseDeviceTransport(absl::string_view name) {
  if (name == "auto") return DeviceTransport::kAuto;
  if (name == "peer") return DeviceTransport::kPeer;
  if (name == "nccl") return DeviceTransport::kNccl;
  return absl::InvalidArgumentError(absl::StrCat("gpu_transport is '", name, "'; it may be auto, peer or nccl"));
}

absl::string_view DeviceTransportName(DeviceTransport transport) {
  switch (transport) {
    case DeviceTransport::kAuto:
      return "auto";
    case DeviceTransport::kPeer:
      return "peer";
    case DeviceTransport::kNccl:
      return "nccl";
  }
  return "unknown";
}

PeerReach ReachOf(absl::Span<const DeviceCard> cards, int rank, int peer) {
  if (rank == peer) return PeerReach::kSelf;
  if (cards[rank].host != cards[peer].host) return PeerReach::kNone;
  return cards[rank].process == cards[peer].process ? PeerReach::kProcess : PeerReach::kHost;
}

absl::Status CheckCards(absl::Span<const DeviceCard> cards) {
  for (size_t b = 1; b < cards.size(); ++b) {
    if (cards[b].buffer_bytes != cards[0].buffer_bytes) {
      return absl::FailedPreconditionError(absl::StrCat("rank ", b, " exchanges through ", cards[b].buffer_bytes,
                                                        " bytes, rank 0 through ", cards[0].buffer_bytes,
                                                        ": other models or builds"));
    }
    for (size_t a = 0; a < b; ++a) {
      if (cards[a].gpu == cards[b].gpu &&
          ReachOf(cards, static_cast<int>(a), static_cast<int>(b)) != PeerReach::kProcess) {
        return absl::FailedPreconditionError(
            absl::StrCat("ranks ", a, " and ", b,
                         " are processes on the same GPU; each rank needs one of its own: see "
                         "CUDA_VISIBLE_DEVICES, or lower tensor_parallel_size"));
      }
    }
  }
  return absl::OkStatus();
}

TransportReport TransportReport::Make(const absl::Status& peers, const absl::Status& nccl) {
  return {.peer_error = Text<sizeof(peer_error)>(peers), .nccl_error = Text<sizeof(nccl_error)>(nccl)};
}

absl::StatusOr<DeviceTransport> ChooseTransport(DeviceTransport wanted, absl::Span<const TransportReport> reports) {
  const std::string peer_error = FirstError(reports, &TransportReport::peer_error);
  const std::string nccl_error = FirstError(reports, &TransportReport::nccl_error);
  if (wanted != DeviceTransport::kNccl && peer_error.empty()) return DeviceTransport::kPeer;
  if (wanted != DeviceTransport::kPeer && nccl_error.empty()) return DeviceTransport::kNccl;
  switch (wanted) {
    case DeviceTransport::kPeer:
      return absl::FailedPreconditionError(
          absl::StrCat("gpu_transport is peer, but the GPUs can not map each other's memory: ", peer_error));
    case DeviceTransport::kNccl:
      return absl::FailedPreconditionError(
          absl::StrCat("gpu_transport is nccl, but NCCL can not be had: ", nccl_error));
    case DeviceTransport::kAuto:
      break;
  }
  return absl::FailedPreconditionError(absl::StrCat("the GPUs can not map each other's memory (", peer_error,
                                                    "), and NCCL, which would do without, can "
                                                    "not be had (",
                                                    nccl_error, ")"));
}

}  // namespace outrider
