#include "worker/parallel/shm_communicator.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/parallel/file_descriptor.h"

namespace outrider {
namespace {

constexpr uint64_t kMagic = 0x6f75747269644101;
constexpr uint32_t kVersion = 1;
constexpr int64_t kMaxChunkBytes = int64_t{64} << 20;
constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW;

// The exchange of an attach: one packet each way. Both ends are the same build on the same machine.
struct AttachRequest {
  uint64_t magic;
  uint64_t epoch;
  uint32_t version;
  int32_t rank;
  int32_t world_size;
  uint32_t unused;
};

// With code 0 (OK) it carries descriptors: the memory, this rank's pipe (writing end), the pipes of all other ranks in
// rank order (reading ends).
struct AttachReply {
  uint64_t magic;
  int64_t chunk_bytes;
  uint32_t version;
  int32_t code;       // absl::StatusCode
  char message[240];  // of an error
};

absl::Status SystemError(absl::string_view what, int error) {
  const std::string message = absl::StrCat("shared memory group: ", what, ": ", std::strerror(error));
  switch (error) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOSPC:
    case ENOBUFS:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::InternalError(message);
  }
}

// The pipes that tell who is alive, as one rank holds them.
struct Lifelines {
  FileDescriptor own;                 // writing end; nobody else holds one
  std::vector<FileDescriptor> peers;  // [world_size] reading ends; none at the own rank

  bool IsDead(int rank) const {
    pollfd entry{.fd = peers[rank].get(), .events = 0, .revents = 0};
    return poll(&entry, 1, 0) > 0 && (entry.revents & (POLLHUP | POLLERR)) != 0;
  }
};

absl::StatusOr<std::shared_ptr<void>> MapRegion(int fd, int64_t bytes) {
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (memory == MAP_FAILED) return SystemError("mmap", errno);
  return std::shared_ptr<void>(memory, [bytes](void* p) { munmap(p, static_cast<size_t>(bytes)); });
}

std::unique_ptr<Communicator> MakeCommunicator(std::shared_ptr<void> region, int rank, int world_size,
                                               const RegionOptions& options, Lifelines lifelines) {
  auto shared = std::make_shared<Lifelines>(std::move(lifelines));
  return std::make_unique<RegionCommunicator>(std::move(region), rank, world_size, options,
                                              [shared](int peer) { return shared->IsDead(peer); });
}

// The address of an abstract name such as "@outrider-1"; the length in *length.
absl::StatusOr<sockaddr_un> AbstractAddress(const std::string& name, socklen_t* length) {
  sockaddr_un address{};
  if (name.size() < 2 || name[0] != '@' || name.size() > sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" is no abstract socket name (@ and 1..",
                                                   sizeof(address.sun_path) - 1, " characters)"));
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data() + 1, name.size() - 1);
  *length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  return address;
}

absl::Status CheckSameUser(int fd, absl::string_view who) {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return SystemError("SO_PEERCRED", errno);
  if (credentials.uid != geteuid()) {
    return absl::FailedPreconditionError(
        absl::StrCat(who, " is of user ", credentials.uid, ", this process of user ", geteuid()));
  }
  return absl::OkStatus();
}

// Milliseconds left for poll(2), rounded up; 0 when none.
int PollTimeout(TimePoint deadline) {
  const Duration left = deadline - std::chrono::steady_clock::now();
  if (left <= Duration::zero()) return 0;
  return static_cast<int>(std::min<int64_t>(std::chrono::ceil<std::chrono::milliseconds>(left).count(), 3600 * 1000));
}

class Rendezvous final : public ShmRendezvous {
 public:
  Rendezvous(int world_size, uint64_t epoch, RegionOptions options)
      : world_size_(world_size), epoch_(epoch), options_(options), attached_(world_size, false) {
    attached_[0] = true;
  }

  absl::Status Open();
  const std::string& socket_name() const override { return socket_name_; }
  absl::StatusOr<std::unique_ptr<Communicator>> AwaitRanks(Duration timeout) override;
  void Cancel() override {
    const uint64_t one = 1;
    if (write(cancel_.get(), &one, sizeof(one)) < 0) return;  // already signalled
  }

 private:
  absl::Status OpenMemory();
  absl::Status OpenSocket();
  void Accept();
  // Reads the request of a connection and answers it; the connection is done afterwards.
  void Answer(const FileDescriptor& connection);
  absl::Status Admit(int connection, AttachRequest* request) const;
  absl::Status SendAttached(int connection, int rank);
  std::string MissingRanks() const;

  const int world_size_;
  const uint64_t epoch_;
  const RegionOptions options_;
  std::string socket_name_;
  FileDescriptor memory_;
  FileDescriptor listener_;
  FileDescriptor cancel_;  // eventfd
  std::shared_ptr<void> region_;
  std::vector<FileDescriptor> read_ends_;   // [world_size]
  std::vector<FileDescriptor> write_ends_;  // [world_size]; given away on attach
  std::vector<bool> attached_;
  std::vector<FileDescriptor> pending_;  // connected, nothing read yet; oldest first
  bool crowded_ = false;                 // some were dropped
};

absl::Status Rendezvous::Open() {
  RETURN_IF_ERROR(OpenMemory());
  cancel_ = FileDescriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!cancel_.valid()) return SystemError("eventfd", errno);
  for (int r = 0; r < world_size_; ++r) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return SystemError("pipe2", errno);
    read_ends_.emplace_back(ends[0]);
    write_ends_.emplace_back(ends[1]);
  }
  return OpenSocket();
}

absl::Status Rendezvous::OpenMemory() {
  const int64_t bytes = RegionBytes(world_size_, options_.chunk_bytes);
  memory_ = FileDescriptor(memfd_create("outrider-group", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory_.valid()) return SystemError("memfd_create", errno);
  if (ftruncate(memory_.get(), bytes) != 0) return SystemError("ftruncate", errno);
  // Memory that is not there is an error here, not a SIGBUS later.
  if (const int error = posix_fallocate(memory_.get(), 0, bytes); error != 0) return SystemError("fallocate", error);
  if (fcntl(memory_.get(), F_ADD_SEALS, kSeals) != 0) return SystemError("F_ADD_SEALS", errno);
  ASSIGN_OR_RETURN(region_, MapRegion(memory_.get(), bytes));
  RegionCommunicator::Initialise(region_.get(), world_size_, options_.chunk_bytes);
  return absl::OkStatus();
}

absl::Status Rendezvous::OpenSocket() {
  listener_ = FileDescriptor(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener_.valid()) return SystemError("socket", errno);
  uint64_t random = 0;
  if (getrandom(&random, sizeof(random), 0) != sizeof(random)) return SystemError("getrandom", errno);
  socket_name_ = absl::StrCat("@outrider-", absl::Hex(random, absl::kZeroPad16));
  socklen_t length = 0;
  ASSIGN_OR_RETURN(const sockaddr_un address, AbstractAddress(socket_name_, &length));
  if (bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    return SystemError(absl::StrCat("bind ", socket_name_), errno);
  }
  if (listen(listener_.get(), kMaxPendingAttaches) != 0) return SystemError("listen", errno);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Communicator>> Rendezvous::AwaitRanks(Duration timeout) {
  const TimePoint deadline = std::chrono::steady_clock::now() + timeout;
  while (std::find(attached_.begin(), attached_.end(), false) != attached_.end()) {
    std::vector<pollfd> entries = {{.fd = cancel_.get(), .events = POLLIN, .revents = 0},
                                   {.fd = listener_.get(), .events = POLLIN, .revents = 0}};
    // An attached rank that dies hangs up; entries of others (and the leader's own) are passed over by poll as -1.
    for (int r = 0; r < world_size_; ++r) {
      entries.push_back({.fd = r > 0 && attached_[r] ? read_ends_[r].get() : -1, .events = 0, .revents = 0});
    }
    for (const FileDescriptor& connection : pending_) {
      entries.push_back({.fd = connection.get(), .events = POLLIN, .revents = 0});
    }
    const int num_ready = poll(entries.data(), entries.size(), PollTimeout(deadline));
    if (num_ready < 0 && errno != EINTR) return SystemError("poll", errno);
    if (num_ready == 0 && std::chrono::steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat("rank ", MissingRanks(), " did not attach within ",
                                                      static_cast<int64_t>(ToMillis(timeout)), " ms"));
    }
    if (num_ready <= 0) continue;
    if (entries[0].revents != 0) return absl::CancelledError("waiting for ranks was cancelled");
    for (int r = 0; r < world_size_; ++r) {
      if (entries[2 + r].revents != 0) {
        return absl::UnavailableError(absl::StrCat("rank ", r, " died before all ranks had attached"));
      }
    }
    std::vector<FileDescriptor> still_pending;
    for (size_t i = 0; i < pending_.size(); ++i) {
      if (entries[2 + world_size_ + i].revents != 0) {
        Answer(pending_[i]);
      } else {
        still_pending.push_back(std::move(pending_[i]));
      }
    }
    pending_ = std::move(still_pending);
    if (entries[1].revents != 0) Accept();
  }
  listener_.Close();
  pending_.clear();
  Lifelines lifelines;
  lifelines.own = std::move(write_ends_[0]);
  read_ends_[0].Close();
  lifelines.peers = std::move(read_ends_);
  return MakeCommunicator(region_, 0, world_size_, options_, std::move(lifelines));
}

void Rendezvous::Accept() {
  FileDescriptor connection(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!connection.valid()) return;
  if (pending_.size() == kMaxPendingAttaches) {
    if (!std::exchange(crowded_, true)) {
      LogWarning("shared memory group: more than ", kMaxPendingAttaches, " attaches pending, the oldest are dropped");
    }
    pending_.erase(pending_.begin());
  }
  pending_.push_back(std::move(connection));
}

absl::Status Rendezvous::Admit(int connection, AttachRequest* request) const {
  RETURN_IF_ERROR(CheckSameUser(connection, "the attaching process"));
  char buffer[sizeof(AttachRequest) + 1];
  const ssize_t received = recv(connection, buffer, sizeof(buffer), 0);
  if (received < 0) return SystemError("recv", errno);
  if (received != sizeof(AttachRequest)) {
    return absl::FailedPreconditionError(absl::StrCat("not an attach request (", received, " bytes)"));
  }
  std::memcpy(request, buffer, sizeof(*request));
  if (request->magic != kMagic) return absl::FailedPreconditionError("not an attach request (wrong magic)");
  if (request->version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("attach version ", request->version, ", this is ", kVersion));
  }
  if (request->epoch != epoch_) {
    return absl::FailedPreconditionError(absl::StrCat("epoch ", request->epoch, ", the group's is ", epoch_));
  }
  if (request->world_size != world_size_) {
    return absl::FailedPreconditionError(
        absl::StrCat("world size ", request->world_size, ", the group has ", world_size_, " ranks"));
  }
  if (request->rank < 1 || request->rank >= world_size_) {
    return absl::FailedPreconditionError(absl::StrCat("rank ", request->rank, " is not in [1, ", world_size_, ")"));
  }
  if (attached_[request->rank]) {
    return absl::FailedPreconditionError(absl::StrCat("rank ", request->rank, " has already attached"));
  }
  return absl::OkStatus();
}

void Rendezvous::Answer(const FileDescriptor& connection) {
  AttachRequest request{};
  absl::Status status = Admit(connection.get(), &request);
  if (status.ok()) {
    status = SendAttached(connection.get(), request.rank);
    if (status.ok()) {
      attached_[request.rank] = true;
      write_ends_[request.rank].Close();
      return;
    }
  }
  LogWarning("shared memory group: an attach was refused: ", std::string(status.message()));
  AttachReply reply{};
  reply.magic = kMagic;
  reply.version = kVersion;
  reply.code = static_cast<int32_t>(absl::StatusCode::kFailedPrecondition);
  const std::string message(status.message());
  std::memcpy(reply.message, message.data(), std::min(message.size(), sizeof(reply.message) - 1));
  if (send(connection.get(), &reply, sizeof(reply), MSG_NOSIGNAL) < 0) return;  // it did not wait for the answer
}

absl::Status Rendezvous::SendAttached(int connection, int rank) {
  AttachReply reply{};
  reply.magic = kMagic;
  reply.version = kVersion;
  reply.chunk_bytes = options_.chunk_bytes;
  std::vector<int> fds = {memory_.get(), write_ends_[rank].get()};
  for (int r = 0; r < world_size_; ++r) {
    if (r != rank) fds.push_back(read_ends_[r].get());
  }
  iovec part{.iov_base = &reply, .iov_len = sizeof(reply)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * (kMaxRanks + 1))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
  std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
  if (sendmsg(connection, &message, MSG_NOSIGNAL) != sizeof(reply)) return SystemError("sendmsg", errno);
  return absl::OkStatus();
}

std::string Rendezvous::MissingRanks() const {
  std::vector<int> missing;
  for (int r = 0; r < world_size_; ++r) {
    if (!attached_[r]) missing.push_back(r);
  }
  return absl::StrJoin(missing, ", ");
}

// The leader's answer and the descriptors that came with it.
absl::StatusOr<AttachReply> ReceiveReply(int fd, std::vector<FileDescriptor>* fds) {
  AttachReply reply{};
  iovec part{.iov_base = &reply, .iov_len = sizeof(reply)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * (kMaxRanks + 1))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t received = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  if (received < 0) return SystemError("recvmsg", errno);
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t num_fds = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < num_fds; ++i) {
      int value;
      std::memcpy(&value, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      fds->emplace_back(value);
    }
  }
  if (received == 0) return absl::UnavailableError("the leader went away while this rank attached");
  if (received != sizeof(reply) || reply.magic != kMagic || reply.version != kVersion) {
    return absl::DataLossError("the leader's answer to an attach is not one of this build");
  }
  return reply;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShmRendezvous>> ShmRendezvous::Listen(int world_size, uint64_t epoch,
                                                                     RegionOptions options) {
  if (world_size < 1 || world_size > kMaxRanks) {
    return absl::InvalidArgumentError(absl::StrCat("world size ", world_size, " is not in [1, ", kMaxRanks, "]"));
  }
  if (options.chunk_bytes <= 0 || options.chunk_bytes % 4096 != 0 || options.chunk_bytes > kMaxChunkBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_bytes ", options.chunk_bytes, " is not a multiple of 4096 up to ", kMaxChunkBytes));
  }
  auto rendezvous = std::make_unique<Rendezvous>(world_size, epoch, options);
  RETURN_IF_ERROR(rendezvous->Open());
  return std::unique_ptr<ShmRendezvous>(std::move(rendezvous));
}

absl::StatusOr<std::unique_ptr<Communicator>> AttachShm(const std::string& socket_name, int rank, int world_size,
                                                        uint64_t epoch, Duration timeout, RegionOptions options) {
  const TimePoint deadline = std::chrono::steady_clock::now() + timeout;
  if (world_size < 1 || world_size > kMaxRanks || rank < 1 || rank >= world_size) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " of ", world_size, " can not attach"));
  }
  FileDescriptor connection(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!connection.valid()) return SystemError("socket", errno);
  // Bounds connect, which waits while the leader's backlog is full.
  const int64_t us = std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::microseconds>(timeout).count());
  const timeval bound{.tv_sec = us / 1000000, .tv_usec = us % 1000000};
  if (setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound)) != 0) {
    return SystemError("SO_SNDTIMEO", errno);
  }
  socklen_t length = 0;
  ASSIGN_OR_RETURN(const sockaddr_un address, AbstractAddress(socket_name, &length));
  if (connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    return absl::UnavailableError(absl::StrCat("no leader at ", socket_name, ": ", std::strerror(errno)));
  }
  RETURN_IF_ERROR(CheckSameUser(connection.get(), "the leader"));
  const AttachRequest request{
      .magic = kMagic, .epoch = epoch, .version = kVersion, .rank = rank, .world_size = world_size, .unused = 0};
  if (send(connection.get(), &request, sizeof(request), MSG_NOSIGNAL) != sizeof(request)) {
    return absl::UnavailableError(absl::StrCat("the leader at ", socket_name, " went away: ", std::strerror(errno)));
  }
  for (;;) {
    pollfd entry{.fd = connection.get(), .events = POLLIN, .revents = 0};
    const int num_ready = poll(&entry, 1, PollTimeout(deadline));
    if (num_ready > 0) break;
    if (num_ready < 0 && errno != EINTR) return SystemError("poll", errno);
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat("the leader at ", socket_name, " did not answer within ",
                                                      static_cast<int64_t>(ToMillis(timeout)), " ms"));
    }
  }
  std::vector<FileDescriptor> fds;
  ASSIGN_OR_RETURN(AttachReply reply, ReceiveReply(connection.get(), &fds));
  if (reply.code != 0) {
    reply.message[sizeof(reply.message) - 1] = '\0';
    return absl::FailedPreconditionError(
        absl::StrCat("the leader refused rank ", rank, ": ", absl::string_view(reply.message)));
  }
  if (reply.chunk_bytes <= 0 || reply.chunk_bytes % 4096 != 0 || reply.chunk_bytes > kMaxChunkBytes ||
      fds.size() != static_cast<size_t>(world_size) + 1) {
    return absl::DataLossError(
        absl::StrCat("attach of rank ", rank, ": chunks of ", reply.chunk_bytes, " bytes, ", fds.size(), " files"));
  }
  options.chunk_bytes = reply.chunk_bytes;
  const int64_t bytes = RegionBytes(world_size, options.chunk_bytes);
  struct stat file {};
  const int seals = fcntl(fds[0].get(), F_GET_SEALS);
  if (fstat(fds[0].get(), &file) != 0 || file.st_size != bytes || seals < 0 || (seals & kSeals) != kSeals) {
    return absl::DataLossError(absl::StrCat("attach of rank ", rank, ": memory of ", file.st_size, " bytes, seals ",
                                            seals, "; expected ", bytes, " bytes, sealed in size"));
  }
  ASSIGN_OR_RETURN(std::shared_ptr<void> region, MapRegion(fds[0].get(), bytes));
  RETURN_IF_ERROR(RegionCommunicator::Check(region.get(), world_size, options.chunk_bytes));
  Lifelines lifelines;
  lifelines.own = std::move(fds[1]);
  lifelines.peers.resize(world_size);
  for (int r = 0, i = 2; r < world_size; ++r) {
    if (r != rank) lifelines.peers[r] = std::move(fds[i++]);
  }
  return MakeCommunicator(std::move(region), rank, world_size, options, std::move(lifelines));
}

}  // namespace outrider
