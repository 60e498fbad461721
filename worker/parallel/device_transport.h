// DeviceTransport: how the GPUs of a group exchange what they computed. Through each other's memory where every rank
// can map every other's (one host, NVLink or PCIe between them), else by NCCL. Ranks agree on it once, when the group's
// epoch starts, by two all-gathers of the group's communicator: cards, then what came of mapping them.
//
// PURE: bytes in, decisions out. What the cards and reports hold is made and used elsewhere (worker/model/
// cuda_all_reduce.h).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace outrider {

enum class DeviceTransport : uint8_t { kAuto, kPeer, kNccl };

// INVALID_ARGUMENT unless it is auto, peer or nccl.
absl::StatusOr<DeviceTransport> ParseDeviceTransport(absl::string_view name);
absl::string_view DeviceTransportName(DeviceTransport transport);

// What a rank says of its GPU. Crosses processes of one build as bytes.
struct DeviceCard {
  std::array<uint8_t, 40> host{};    // equal on one running system, say its boot id; zeros beyond
  std::array<uint8_t, 16> gpu{};     // the GPU's UUID
  std::array<uint8_t, 64> handle{};  // by which another process of the host maps the rank's buffer
  uint64_t process = 0;              // drawn at random once a process
  uint64_t buffer_address = 0;       // in that process
  int64_t buffer_bytes = 0;
  int32_t device_index = 0;  // in that process
  int32_t reserved = 0;
};

enum class PeerReach : uint8_t {
  kSelf,     // the rank's own
  kProcess,  // another rank of this process: its pointer is good here
  kHost,     // another process of this host: its handle may be opened
  kNone,     // another host
};
PeerReach ReachOf(absl::Span<const DeviceCard> cards, int rank, int peer);

// FAILED_PRECONDITION if two processes share a GPU (each would wait for what the other is kept from computing) or the
// buffers' sizes differ, naming the ranks.
absl::Status CheckCards(absl::Span<const DeviceCard> cards);

// What came of it on one rank. Empty: it can be had.
struct TransportReport {
  static TransportReport Make(const absl::Status& peers, const absl::Status& nccl);

  std::array<char, 232> peer_error{};
  std::array<char, 232> nccl_error{};
};

// Which of the two is to be had on every rank; equal on all. FAILED_PRECONDITION if what is wanted is not, naming the
// first rank that lacks it and why.
absl::StatusOr<DeviceTransport> ChooseTransport(DeviceTransport wanted, absl::Span<const TransportReport> reports);

}  // namespace outrider
