#include "worker/parallel/region_communicator.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

constexpr uint64_t kMagic = 0x6f75747269646572;  // "outrider"
constexpr uint32_t kVersion = 1;
constexpr size_t kReasonBytes = 512;
constexpr int64_t kPageBytes = 4096;

// Sums up to this size take one round, in which every rank reads all parts: one wait is worth more than reading twice.
// Measured with two ranks on two busy cores: 64 KiB took 9..17 us in one round, 15..70 us in two; 256 KiB and more take
// the same either way with two ranks, less in the pipeline with three.
constexpr int64_t kSmallSumBytes = 64 << 10;

// A wait pauses for so long, then yields the core between looks: ranks may outnumber cores, and the peer that is waited
// for may need this one.
constexpr Duration kPauseOnly = std::chrono::microseconds(2);

// A segment of a chunk begins on a cache line.
constexpr int64_t kSegmentFloats = 16;

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

// Whether a counter that shows `published` has reached `round`; both wrap around.
bool Reached(uint32_t published, uint32_t round) { return static_cast<int32_t>(published - round) >= 0; }

// Sleeps while *word == value, `timeout` at most. True if it timed out. The word may lie in memory shared by processes.
bool FutexWait(std::atomic<uint32_t>& word, uint32_t value, Duration timeout) {
  const int64_t ns = std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::nanoseconds>(timeout).count());
  const timespec relative{.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
  const long rc = syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT, value, &relative, nullptr, 0);
  return rc != 0 && errno == ETIMEDOUT;
}

void FutexWakeAll(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

// out[i] = (parts[0][i] + parts[1][i]) + ...; out overlaps no part.
void SumInOrder(float* __restrict out, const float* const* parts, int num_parts, int64_t count) {
  const float* __restrict a = parts[0];
  const float* __restrict b = parts[1];
  if (num_parts == 2) {
    for (int64_t i = 0; i < count; ++i) out[i] = a[i] + b[i];
    return;
  }
  const float* __restrict c = parts[2];
  if (num_parts == 3) {
    for (int64_t i = 0; i < count; ++i) out[i] = (a[i] + b[i]) + c[i];
    return;
  }
  for (int64_t i = 0; i < count; ++i) out[i] = (a[i] + b[i]) + c[i];
  for (int p = 3; p < num_parts; ++p) {
    const float* __restrict part = parts[p];
    for (int64_t i = 0; i < count; ++i) out[i] += part[i];
  }
}

// Elements [first, end) of a chunk of `count` that rank `rank` sums.
std::pair<int64_t, int64_t> Segment(int rank, int world_size, int64_t count) {
  const int64_t lines = (count + kSegmentFloats - 1) / kSegmentFloats;
  const int64_t length = (lines + world_size - 1) / world_size * kSegmentFloats;
  return {std::min(count, rank * length), std::min(count, (rank + 1) * length)};
}

}  // namespace

struct RegionCommunicator::Header {
  enum : uint32_t { kAlive = 0, kReasonComing = 1, kAborted = 2 };

  uint64_t magic;
  uint32_t version;
  uint32_t world_size;
  uint64_t chunk_bytes;
  std::atomic<uint32_t> state;  // of the group
  char reason[kReasonBytes];    // written by the one who moves state from kAlive
};

// A line of its own for each rank; only the rank writes its round and left.
struct alignas(128) RegionCommunicator::Slot {
  std::atomic<uint32_t> round;     // last published; the futex word
  std::atomic<uint32_t> sleepers;  // who may be in the futex
  std::atomic<uint32_t> left;      // the rank destroyed its communicator
};

static_assert(std::atomic<uint32_t>::is_always_lock_free, "shared between processes");

namespace {

constexpr int64_t kHeaderBytes = kPageBytes;
constexpr int64_t kSlotsBytes = int64_t{kMaxRanks} * 128;

}  // namespace

int64_t RegionBytes(int world_size, int64_t chunk_bytes) {
  CHECK(world_size >= 1 && world_size <= kMaxRanks);
  CHECK(chunk_bytes > 0 && chunk_bytes % kPageBytes == 0);
  return kHeaderBytes + kSlotsBytes + 2 * (world_size + 1) * chunk_bytes;
}

void RegionCommunicator::Initialise(void* region, int world_size, int64_t chunk_bytes) {
  static_assert(sizeof(Header) <= kHeaderBytes && sizeof(Slot) == 128);
  Header* header = new (region) Header{};
  header->magic = kMagic;
  header->version = kVersion;
  header->world_size = static_cast<uint32_t>(world_size);
  header->chunk_bytes = static_cast<uint64_t>(chunk_bytes);
  char* slots = static_cast<char*>(region) + kHeaderBytes;
  for (int r = 0; r < kMaxRanks; ++r) new (slots + r * sizeof(Slot)) Slot{};
}

absl::Status RegionCommunicator::Check(const void* region, int world_size, int64_t chunk_bytes) {
  const Header* header = static_cast<const Header*>(region);
  if (header->magic != kMagic) return absl::FailedPreconditionError("shared region: not one of a group's");
  if (header->version != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("shared region: version ", header->version, ", this build has ", kVersion));
  }
  if (header->world_size != static_cast<uint32_t>(world_size)) {
    return absl::FailedPreconditionError(
        absl::StrCat("shared region: made for ", header->world_size, " ranks, this group has ", world_size));
  }
  if (header->chunk_bytes != static_cast<uint64_t>(chunk_bytes)) {
    return absl::FailedPreconditionError(
        absl::StrCat("shared region: chunks of ", header->chunk_bytes, " bytes instead of ", chunk_bytes));
  }
  return absl::OkStatus();
}

RegionCommunicator::RegionCommunicator(std::shared_ptr<void> region, int rank, int world_size, RegionOptions options,
                                       IsDead is_dead)
    : region_(std::move(region)),
      rank_(rank),
      world_size_(world_size),
      options_(options),
      is_dead_(std::move(is_dead)),
      header_(static_cast<Header*>(region_.get())),
      slots_(reinterpret_cast<Slot*>(static_cast<char*>(region_.get()) + kHeaderBytes)),
      parts_(static_cast<char*>(region_.get()) + kHeaderBytes + kSlotsBytes),
      sums_(parts_ + 2 * world_size * options.chunk_bytes) {
  CHECK(rank >= 0 && rank < world_size && world_size <= kMaxRanks);
}

RegionCommunicator::~RegionCommunicator() {
  slots_[rank_].left.store(1, std::memory_order_seq_cst);
  FutexWakeAll(slots_[rank_].round);
}

char* RegionCommunicator::Part(uint32_t round, int rank) const {
  return parts_ + ((round & 1) * static_cast<int64_t>(world_size_) + rank) * options_.chunk_bytes;
}

float* RegionCommunicator::Sums(uint32_t round) const {
  return reinterpret_cast<float*>(sums_ + (round & 1) * options_.chunk_bytes);
}

absl::Status RegionCommunicator::BeginRound() {
  RETURN_IF_ERROR(AbortedStatus());
  return WaitForAll(round_);
}

void RegionCommunicator::Publish() {
  Slot& own = slots_[rank_];
  // Sequentially consistent with a sleeper's (sleepers += 1; look at round): one of us sees the other.
  own.round.store(++round_, std::memory_order_seq_cst);
  if (own.sleepers.load(std::memory_order_seq_cst) != 0) FutexWakeAll(own.round);
}

absl::Status RegionCommunicator::WaitForAll(uint32_t round) {
  for (int i = 1; i < world_size_; ++i) {
    RETURN_IF_ERROR(WaitFor((rank_ + i) % world_size_, round, Bound::kTimeout));
  }
  return absl::OkStatus();
}

absl::Status RegionCommunicator::WaitFor(int peer, uint32_t round, Bound bound) {
  const std::atomic<uint32_t>& published = slots_[peer].round;
  if (Reached(published.load(std::memory_order_acquire), round)) return absl::OkStatus();
  const TimePoint start = std::chrono::steady_clock::now();
  for (Duration waited{}; waited < options_.spin; waited = std::chrono::steady_clock::now() - start) {
    if (waited < kPauseOnly) {
      for (int i = 0; i < 16; ++i) {
        Pause();
        if (Reached(published.load(std::memory_order_acquire), round)) return absl::OkStatus();
      }
    } else {
      sched_yield();
      if (Reached(published.load(std::memory_order_acquire), round)) return absl::OkStatus();
    }
  }
  return WaitAsleep(peer, round, bound);
}

absl::Status RegionCommunicator::WaitAsleep(int peer, uint32_t round, Bound bound) {
  Slot& slot = slots_[peer];
  const TimePoint start = std::chrono::steady_clock::now();
  for (;;) {
    slot.sleepers.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t published = slot.round.load(std::memory_order_seq_cst);
    bool timed_out = false;
    if (!Reached(published, round) && header_->state.load() == Header::kAlive && slot.left.load() == 0) {
      Duration slice = kLivenessInterval;
      if (bound == Bound::kTimeout) {
        slice = std::min(slice, start + options_.timeout - std::chrono::steady_clock::now());
      }
      timed_out = slice <= Duration::zero() || FutexWait(slot.round, published, slice);
    }
    slot.sleepers.fetch_sub(1, std::memory_order_relaxed);
    if (Reached(slot.round.load(std::memory_order_acquire), round)) return absl::OkStatus();
    RETURN_IF_ERROR(LookAround(peer, round));
    if (timed_out && bound == Bound::kTimeout && std::chrono::steady_clock::now() - start >= options_.timeout) {
      return Die(absl::StrCat("rank ", peer, " did not arrive within ",
                              static_cast<int64_t>(ToMillis(options_.timeout)), " ms (rank ", rank_, " waited)"));
    }
  }
}

absl::Status RegionCommunicator::LookAround(int peer, uint32_t round) {
  RETURN_IF_ERROR(AbortedStatus());
  for (int r = 0; r < world_size_; ++r) {
    if (r == rank_) continue;
    // A rank that left in order has done its part in what goes on, unless it is the one that is waited for.
    const bool left = slots_[r].left.load(std::memory_order_acquire) != 0;
    if (left ? r != peer : !is_dead_ || !is_dead_(r)) continue;
    if (r == peer && Reached(slots_[r].round.load(std::memory_order_acquire), round)) continue;
    return Die(absl::StrCat("rank ", r, left ? " has left" : " died"));
  }
  return absl::OkStatus();
}

absl::Status RegionCommunicator::Die(const std::string& reason) {
  Abort(reason.c_str());
  return AbortedStatus();
}

absl::Status RegionCommunicator::AbortedStatus() const {
  uint32_t state = header_->state.load(std::memory_order_acquire);
  if (state == Header::kAlive) return absl::OkStatus();
  // Its writer is a few stores from the end, unless it was killed between them.
  for (int i = 0; state == Header::kReasonComing && i < 1000; ++i) {
    sched_yield();
    state = header_->state.load(std::memory_order_acquire);
  }
  if (state != Header::kAborted) return absl::UnavailableError("group aborted");
  return absl::UnavailableError(absl::string_view(header_->reason, strnlen(header_->reason, kReasonBytes)));
}

void RegionCommunicator::Abort(const char* reason) {
  uint32_t state = Header::kAlive;
  if (!header_->state.compare_exchange_strong(state, Header::kReasonComing)) return;
  const size_t length = std::min(std::strlen(reason), kReasonBytes - 1);
  std::memcpy(header_->reason, reason, length);
  header_->reason[length] = '\0';
  header_->state.store(Header::kAborted);
  for (int r = 0; r < world_size_; ++r) FutexWakeAll(slots_[r].round);
}

absl::Status RegionCommunicator::AllReduceSum(float* data, int64_t count) {
  CHECK(count >= 0);
  if (world_size_ == 1 || count == 0) return AbortedStatus();
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  if (bytes <= std::min(kSmallSumBytes, options_.chunk_bytes)) return AllReduceSmall(data, count);
  return AllReduceLarge(data, count);
}

absl::Status RegionCommunicator::AllReduceSmall(float* data, int64_t count) {
  RETURN_IF_ERROR(BeginRound());
  std::memcpy(Part(round_ + 1, rank_), data, count * sizeof(float));
  Publish();
  RETURN_IF_ERROR(WaitForAll(round_));
  const float* parts[kMaxRanks];
  for (int r = 0; r < world_size_; ++r) parts[r] = reinterpret_cast<const float*>(Part(round_, r));
  SumInOrder(data, parts, world_size_, count);
  return absl::OkStatus();
}

absl::Status RegionCommunicator::AllReduceLarge(float* data, int64_t count) {
  const int64_t chunk = options_.chunk_bytes / static_cast<int64_t>(sizeof(float));
  const int64_t num_chunks = (count + chunk - 1) / chunk;
  const auto length = [&](int64_t k) { return std::min(chunk, count - k * chunk); };
  for (int64_t k = 0; k <= num_chunks; ++k) {
    RETURN_IF_ERROR(BeginRound());
    if (k < num_chunks) std::memcpy(Part(round_ + 1, rank_), data + k * chunk, length(k) * sizeof(float));
    Publish();
    RETURN_IF_ERROR(WaitForAll(round_));
    if (k < num_chunks) {
      const auto [first, end] = Segment(rank_, world_size_, length(k));
      const float* parts[kMaxRanks];
      for (int r = 0; r < world_size_; ++r) parts[r] = reinterpret_cast<const float*>(Part(round_, r)) + first;
      float* sums = Sums(round_) + first;
      SumInOrder(sums, parts, world_size_, end - first);
      std::memcpy(data + k * chunk + first, sums, (end - first) * sizeof(float));
    }
    if (k > 0) {
      for (int i = 1; i < world_size_; ++i) {
        const auto [first, end] = Segment((rank_ + i) % world_size_, world_size_, length(k - 1));
        std::memcpy(data + (k - 1) * chunk + first, Sums(round_ - 1) + first, (end - first) * sizeof(float));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status RegionCommunicator::AllGather(const void* send, const int64_t* bytes_of_rank, void* receive) {
  int64_t offset_of_rank[kMaxRanks];
  int64_t end = 0;
  int64_t longest = 0;
  for (int r = 0; r < world_size_; ++r) {
    CHECK(bytes_of_rank[r] >= 0);
    offset_of_rank[r] = end;
    end += bytes_of_rank[r];
    longest = std::max(longest, bytes_of_rank[r]);
  }
  RETURN_IF_ERROR(AbortedStatus());
  char* out = static_cast<char*>(receive);
  if (bytes_of_rank[rank_] > 0) {
    std::memcpy(out + offset_of_rank[rank_], send, static_cast<size_t>(bytes_of_rank[rank_]));
  }
  if (world_size_ == 1) return absl::OkStatus();
  const auto length = [&](int r, int64_t done) {
    return std::clamp<int64_t>(bytes_of_rank[r] - done, 0, options_.chunk_bytes);
  };
  for (int64_t done = 0; done < longest; done += options_.chunk_bytes) {
    RETURN_IF_ERROR(BeginRound());
    if (const int64_t bytes = length(rank_, done); bytes > 0) {
      std::memcpy(Part(round_ + 1, rank_), static_cast<const char*>(send) + done, static_cast<size_t>(bytes));
    }
    Publish();
    RETURN_IF_ERROR(WaitForAll(round_));
    for (int i = 1; i < world_size_; ++i) {
      const int r = (rank_ + i) % world_size_;
      if (const int64_t bytes = length(r, done); bytes > 0) {
        std::memcpy(out + offset_of_rank[r] + done, Part(round_, r), static_cast<size_t>(bytes));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status RegionCommunicator::Broadcast(void* data, int64_t bytes, int root) {
  CHECK(bytes >= 0 && root >= 0 && root < world_size_);
  RETURN_IF_ERROR(AbortedStatus());
  if (world_size_ == 1) return absl::OkStatus();
  for (int64_t done = 0; done < bytes; done += options_.chunk_bytes) {
    const size_t length = static_cast<size_t>(std::min(options_.chunk_bytes, bytes - done));
    char* const at = static_cast<char*>(data) + done;
    if (rank_ == root) {
      // The root waits for nobody to read: the next round that reuses the buffer does.
      RETURN_IF_ERROR(BeginRound());
      std::memcpy(Part(round_ + 1, root), at, length);
      Publish();
    } else {
      Publish();
      RETURN_IF_ERROR(WaitFor(root, round_, Bound::kTimeout));
      std::memcpy(at, Part(round_, root), length);
    }
  }
  return absl::OkStatus();
}

absl::Status RegionCommunicator::AwaitPeer(int peer) {
  CHECK(peer >= 0 && peer < world_size_);
  RETURN_IF_ERROR(AbortedStatus());
  if (peer == rank_) return absl::OkStatus();
  return WaitFor(peer, round_ + 1, Bound::kNone);
}

}  // namespace outrider
