#include "worker/parallel/star_communicator.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

// Pieces that a rank sends before it waits for the first one's result.
constexpr int64_t kPiecesAhead = 4;

enum class Kind : uint32_t { kSum = 1, kGather = 2, kBroadcast = 3 };

// Before the bytes of each message. Ranks are of one build and of processors with one byte order.
struct Header {
  uint64_t collective;  // counted from 1
  Kind kind;
  uint32_t reserved;
  int64_t bytes;
};

// What centre and points share: when and why it ended, and how they speak.
class Star : public Communicator {
 public:
  Star(int rank, int world_size, Duration timeout) : rank_(rank), world_size_(world_size), timeout_(timeout) {}

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }

  void Abort(const char* reason) override {
    {
      MutexLock lock(mu_);
      if (!ended_.ok()) return;
      ended_ = absl::UnavailableError(reason);
    }
    AbortLinks(reason);
  }

 protected:
  virtual void AbortLinks(absl::string_view reason) = 0;

  absl::Status Begin() {
    ++collective_;
    return ended();
  }
  absl::Status ended() const {
    MutexLock lock(mu_);
    return ended_;
  }
  absl::Status Die(const std::string& reason) {
    Abort(reason.c_str());
    return ended();
  }
  // Of what came of a link: every error ends the group.
  absl::Status Checked(const absl::Status& status, int peer) {
    if (status.ok()) return status;
    if (!absl::IsDeadlineExceeded(status)) return Die(std::string(status.message()));
    return Die(absl::StrCat("rank ", peer, " did not arrive within ", static_cast<int64_t>(ToMillis(timeout_)),
                            " ms (rank ", rank_, " waited)"));
  }

  absl::Status Send(ByteLink& link, int peer, Kind kind, const void* data, int64_t bytes) {
    const Header header{.collective = collective_, .kind = kind, .reserved = 0, .bytes = bytes};
    return Checked(link.Send({absl::string_view(reinterpret_cast<const char*>(&header), sizeof(header)),
                              absl::string_view(static_cast<const char*>(data), static_cast<size_t>(bytes))},
                             Deadline()),
                   peer);
  }
  absl::Status Receive(ByteLink& link, int peer, Kind kind, void* data, int64_t bytes) {
    Header header;
    RETURN_IF_ERROR(Checked(link.Receive(&header, sizeof(header), Deadline()), peer));
    if (header.collective != collective_ || header.kind != kind || header.bytes != bytes) {
      return Die(absl::StrCat("rank ", peer, " is in collective ", header.collective, " of kind ",
                              static_cast<uint32_t>(header.kind), " with ", header.bytes, " bytes, rank ", rank_,
                              " in ", collective_, " of kind ", static_cast<uint32_t>(kind), " with ", bytes));
    }
    return Checked(link.Receive(data, bytes, Deadline()), peer);
  }

  static int64_t NumPieces(int64_t bytes) { return (bytes + kStarPieceBytes - 1) / kStarPieceBytes; }
  static int64_t PieceBytes(int64_t bytes, int64_t piece) {
    return std::min(kStarPieceBytes, bytes - piece * kStarPieceBytes);
  }
  int64_t TotalBytes(const int64_t* bytes_of_rank) const {
    int64_t total = 0;
    for (int r = 0; r < world_size_; ++r) total += bytes_of_rank[r];
    return total;
  }

 private:
  TimePoint Deadline() const { return std::chrono::steady_clock::now() + timeout_; }

  const int rank_;
  const int world_size_;
  const Duration timeout_;
  uint64_t collective_ = 0;  // the collectives' thread only
  mutable Mutex mu_;
  absl::Status ended_ ABSL_GUARDED_BY(mu_);
};

class Centre final : public Star {
 public:
  Centre(std::vector<std::shared_ptr<ByteLink>> links, Duration timeout)
      : Star(0, static_cast<int>(links.size()), timeout), links_(std::move(links)) {}
  ~Centre() override {
    for (int r = 1; r < world_size(); ++r) links_[r]->Leave();
  }

  absl::Status AllReduceSum(float* data, int64_t count) override {
    RETURN_IF_ERROR(Begin());
    const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
    part_.resize(static_cast<size_t>(std::min(bytes, kStarPieceBytes)) / sizeof(float));
    for (int64_t piece = 0; piece < NumPieces(bytes); ++piece) {
      float* const sums = data + piece * kStarPieceBytes / static_cast<int64_t>(sizeof(float));
      const int64_t piece_bytes = PieceBytes(bytes, piece);
      const int64_t piece_count = piece_bytes / static_cast<int64_t>(sizeof(float));
      for (int r = 1; r < world_size(); ++r) {
        RETURN_IF_ERROR(Receive(*links_[r], r, Kind::kSum, part_.data(), piece_bytes));
        for (int64_t i = 0; i < piece_count; ++i) sums[i] = sums[i] + part_[i];
      }
      RETURN_IF_ERROR(SendAll(Kind::kSum, sums, piece_bytes, /*but=*/0));
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(const void* send, const int64_t* bytes_of_rank, void* receive) override {
    RETURN_IF_ERROR(Begin());
    char* const out = static_cast<char*>(receive);
    if (bytes_of_rank[0] > 0) std::memcpy(out, send, static_cast<size_t>(bytes_of_rank[0]));
    char* to = out + bytes_of_rank[0];
    for (int r = 1; r < world_size(); ++r) {
      RETURN_IF_ERROR(ReceivePieces(r, Kind::kGather, to, bytes_of_rank[r]));
      to += bytes_of_rank[r];
    }
    return SendPieces(Kind::kGather, out, TotalBytes(bytes_of_rank), /*but=*/0);
  }

  absl::Status Broadcast(void* data, int64_t bytes, int root) override {
    RETURN_IF_ERROR(Begin());
    if (root != 0) RETURN_IF_ERROR(ReceivePieces(root, Kind::kBroadcast, static_cast<char*>(data), bytes));
    return SendPieces(Kind::kBroadcast, static_cast<const char*>(data), bytes, root);
  }

  absl::Status AwaitPeer(int peer) override {
    RETURN_IF_ERROR(ended());
    return peer == 0 ? absl::OkStatus() : Checked(links_[peer]->AwaitBytes(), peer);
  }

 private:
  void AbortLinks(absl::string_view reason) override {
    for (int r = 1; r < world_size(); ++r) links_[r]->Abort(reason);
  }
  // To all but rank `but` and this one.
  absl::Status SendAll(Kind kind, const void* data, int64_t bytes, int but) {
    for (int r = 1; r < world_size(); ++r) {
      if (r != but) RETURN_IF_ERROR(Send(*links_[r], r, kind, data, bytes));
    }
    return absl::OkStatus();
  }
  absl::Status SendPieces(Kind kind, const char* data, int64_t bytes, int but) {
    for (int64_t piece = 0; piece < NumPieces(bytes); ++piece) {
      RETURN_IF_ERROR(SendAll(kind, data + piece * kStarPieceBytes, PieceBytes(bytes, piece), but));
    }
    return absl::OkStatus();
  }
  absl::Status ReceivePieces(int peer, Kind kind, char* data, int64_t bytes) {
    for (int64_t piece = 0; piece < NumPieces(bytes); ++piece) {
      RETURN_IF_ERROR(Receive(*links_[peer], peer, kind, data + piece * kStarPieceBytes, PieceBytes(bytes, piece)));
    }
    return absl::OkStatus();
  }

  const std::vector<std::shared_ptr<ByteLink>> links_;
  std::vector<float> part_;
};

class Point final : public Star {
 public:
  Point(std::shared_ptr<ByteLink> link, int rank, int world_size, Duration timeout)
      : Star(rank, world_size, 2 * timeout), link_(std::move(link)) {}
  ~Point() override { link_->Leave(); }

  absl::Status AllReduceSum(float* data, int64_t count) override {
    RETURN_IF_ERROR(Begin());
    char* const bytes = reinterpret_cast<char*>(data);
    return Exchange(Kind::kSum, bytes, bytes, count * static_cast<int64_t>(sizeof(float)));
  }

  absl::Status AllGather(const void* send, const int64_t* bytes_of_rank, void* receive) override {
    RETURN_IF_ERROR(Begin());
    RETURN_IF_ERROR(SendPieces(Kind::kGather, static_cast<const char*>(send), bytes_of_rank[rank()]));
    return ReceivePieces(Kind::kGather, static_cast<char*>(receive), TotalBytes(bytes_of_rank));
  }

  absl::Status Broadcast(void* data, int64_t bytes, int root) override {
    RETURN_IF_ERROR(Begin());
    if (root == rank()) return SendPieces(Kind::kBroadcast, static_cast<const char*>(data), bytes);
    return ReceivePieces(Kind::kBroadcast, static_cast<char*>(data), bytes);
  }

  absl::Status AwaitPeer(int peer) override {
    RETURN_IF_ERROR(ended());
    if (peer == rank()) return absl::OkStatus();
    CHECK(peer == 0);
    return Checked(link_->AwaitBytes(), 0);
  }

 private:
  void AbortLinks(absl::string_view reason) override { link_->Abort(reason); }

  // Sends pieces and receives those that come of them, some behind.
  absl::Status Exchange(Kind kind, const char* send, char* receive, int64_t bytes) {
    const int64_t num_pieces = NumPieces(bytes);
    for (int64_t piece = 0; piece < num_pieces + kPiecesAhead; ++piece) {
      if (piece < num_pieces) {
        RETURN_IF_ERROR(Send(*link_, 0, kind, send + piece * kStarPieceBytes, PieceBytes(bytes, piece)));
      }
      const int64_t back = piece - kPiecesAhead;
      if (back >= 0 && back < num_pieces) {
        RETURN_IF_ERROR(Receive(*link_, 0, kind, receive + back * kStarPieceBytes, PieceBytes(bytes, back)));
      }
    }
    return absl::OkStatus();
  }
  absl::Status SendPieces(Kind kind, const char* data, int64_t bytes) {
    for (int64_t piece = 0; piece < NumPieces(bytes); ++piece) {
      RETURN_IF_ERROR(Send(*link_, 0, kind, data + piece * kStarPieceBytes, PieceBytes(bytes, piece)));
    }
    return absl::OkStatus();
  }
  absl::Status ReceivePieces(Kind kind, char* data, int64_t bytes) {
    for (int64_t piece = 0; piece < NumPieces(bytes); ++piece) {
      RETURN_IF_ERROR(Receive(*link_, 0, kind, data + piece * kStarPieceBytes, PieceBytes(bytes, piece)));
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<ByteLink> link_;
};

}  // namespace

std::unique_ptr<Communicator> MakeStarCentre(std::vector<std::shared_ptr<ByteLink>> links, Duration timeout) {
  CHECK(!links.empty() && links[0] == nullptr);
  return std::make_unique<Centre>(std::move(links), timeout);
}

std::unique_ptr<Communicator> MakeStarPoint(std::shared_ptr<ByteLink> link, int rank, int world_size,
                                            Duration timeout) {
  CHECK(link != nullptr && rank >= 1 && rank < world_size);
  return std::make_unique<Point>(std::move(link), rank, world_size, timeout);
}

}  // namespace outrider
