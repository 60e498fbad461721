#include "worker/parallel/loopback_communicator.h"

#include <sys/mman.h>

#include "base/status_macros.h"

namespace outrider {

std::vector<std::unique_ptr<Communicator>> CreateLoopbackCommunicators(int world_size, RegionOptions options) {
  const size_t bytes = static_cast<size_t>(RegionBytes(world_size, options.chunk_bytes));
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  const std::shared_ptr<void> region(memory, [bytes](void* p) { munmap(p, bytes); });
  RegionCommunicator::Initialise(region.get(), world_size, options.chunk_bytes);
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int rank = 0; rank < world_size; ++rank) {
    communicators.push_back(std::make_unique<RegionCommunicator>(region, rank, world_size, options, nullptr));
  }
  return communicators;
}

}  // namespace outrider
