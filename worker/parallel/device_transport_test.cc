#include "worker/parallel/device_transport.h"

#include "gtest/gtest.h"

namespace outrider {
namespace {

// Rank r: a process of its own on one host, GPU r.
std::vector<DeviceCard> Cards(int count) {
  std::vector<DeviceCard> cards(static_cast<size_t>(count));
  for (int r = 0; r < count; ++r) {
    cards[r].host[0] = 7;
    cards[r].gpu[15] = static_cast<uint8_t>(r);
    cards[r].process = 100 + static_cast<uint64_t>(r);
    cards[r].buffer_bytes = 4096;
  }
  return cards;
}

const TransportReport kBoth = TransportReport::Make(absl::OkStatus(), absl::OkStatus());
const TransportReport kNcclOnly = TransportReport::Make(absl::InternalError("no link"), absl::OkStatus());
const TransportReport kPeerOnly = TransportReport::Make(absl::OkStatus(), absl::InternalError("no library"));
const TransportReport kNeither =
    TransportReport::Make(absl::InternalError("no link"), absl::InternalError("no library"));

TEST(DeviceTransport, NamesComeBack) {
  for (const char* name : {"auto", "peer", "nccl"}) {
    const auto parsed = ParseDeviceTransport(name);
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(DeviceTransportName(*parsed), name);
  }
  const absl::Status bad = ParseDeviceTransport("ib").status();
  EXPECT_EQ(bad.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(bad.message(), "gpu_transport is 'ib'; it may be auto, peer or nccl");
}

TEST(DeviceTransport, ReachIsByProcessAndHost) {
  auto cards = Cards(4);
  cards[2].process = cards[0].process;
  cards[3].host[0] = 8;
  EXPECT_EQ(ReachOf(cards, 0, 0), PeerReach::kSelf);
  EXPECT_EQ(ReachOf(cards, 0, 1), PeerReach::kHost);
  EXPECT_EQ(ReachOf(cards, 0, 2), PeerReach::kProcess);
  EXPECT_EQ(ReachOf(cards, 0, 3), PeerReach::kNone);
  // An equal number drawn on another host is another process.
  cards[3].process = cards[0].process;
  EXPECT_EQ(ReachOf(cards, 0, 3), PeerReach::kNone);
}

TEST(DeviceTransport, RefusesTwoProcessesOnOneGpuNamingThem) {
  auto cards = Cards(3);
  EXPECT_TRUE(CheckCards(cards).ok());
  cards[2].gpu = cards[1].gpu;
  const absl::Status status = CheckCards(cards);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("ranks 1 and 2 are processes on the same GPU"), absl::string_view::npos) << status;
  // Threads of one process take turns well.
  cards[2].process = cards[1].process;
  EXPECT_TRUE(CheckCards(cards).ok());
}

TEST(DeviceTransport, RefusesBuffersOfOtherSizes) {
  auto cards = Cards(2);
  cards[1].buffer_bytes = 8192;
  EXPECT_NE(CheckCards(cards).message().find("rank 1 exchanges through 8192 bytes, rank 0 through 4096"),
            absl::string_view::npos);
}

TEST(DeviceTransport, TakesPeersWhereEveryRankHasThemElseNccl) {
  using Reports = std::vector<TransportReport>;
  EXPECT_EQ(*ChooseTransport(DeviceTransport::kAuto, Reports{kBoth, kBoth}), DeviceTransport::kPeer);
  EXPECT_EQ(*ChooseTransport(DeviceTransport::kAuto, Reports{kPeerOnly, kPeerOnly}), DeviceTransport::kPeer);
  EXPECT_EQ(*ChooseTransport(DeviceTransport::kAuto, Reports{kBoth, kNcclOnly}), DeviceTransport::kNccl);
  EXPECT_EQ(*ChooseTransport(DeviceTransport::kNccl, Reports{kBoth, kBoth}), DeviceTransport::kNccl);
  EXPECT_EQ(*ChooseTransport(DeviceTransport::kPeer, Reports{kBoth, kPeerOnly}), DeviceTransport::kPeer);
}

TEST(DeviceTransport, SaysWhichRankLacksWhatIsWanted) {
  using Reports = std::vector<TransportReport>;
  const auto message = [](DeviceTransport wanted, const Reports& reports) {
    const auto chosen = ChooseTransport(wanted, reports);
    EXPECT_EQ(chosen.status().code(), absl::StatusCode::kFailedPrecondition);
    return std::string(chosen.status().message());
  };
  EXPECT_EQ(message(DeviceTransport::kPeer, {kBoth, kNcclOnly}),
            "gpu_transport is peer, but the GPUs can not map each other's memory: rank 1: no link");
  EXPECT_EQ(message(DeviceTransport::kNccl, {kPeerOnly, kBoth}),
            "gpu_transport is nccl, but NCCL can not be had: rank 0: no library");
  // One rank lacks the one, another the other.
  EXPECT_EQ(message(DeviceTransport::kAuto, {kPeerOnly, kNcclOnly, kNeither}),
            "the GPUs can not map each other's memory (rank 1: no link), and NCCL, which would do without, can not be "
            "had (rank 0: no library)");
}

TEST(DeviceTransport, KeepsTheBeginningOfALongReason) {
  const TransportReport report =
      TransportReport::Make(absl::InternalError(std::string(1000, 'x')), absl::InternalError(""));
  EXPECT_EQ(report.peer_error.back(), '\0');
  EXPECT_EQ(std::string(report.peer_error.data()), std::string(231, 'x'));
  EXPECT_EQ(std::string(report.nccl_error.data()), "unknown");  // an error without words is one all the same
}

}  // namespace
}  // namespace outrider
