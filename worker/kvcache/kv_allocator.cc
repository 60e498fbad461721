#include "worker/kvcache/kv_allocator.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {

KvAllocator::KvAllocator(const Options& options)
    : options_(options), prefixes_(options.block_size), pool_(options.num_blocks, &prefixes_) {
  CHECK(options.num_blocks > 0 && options.block_size > 0);
}

int KvAllocator::FindPrefix(absl::Span<const TokenId> tokens, uint64_t salt, BlockTable& table) {
  CHECK(!tokens.empty());
  if (!options_.prefix_cache) return 0;
  prefixes_.Find(tokens.first(tokens.size() - 1), salt, pool_, table);
  return table.num_blocks() * options_.block_size;
}

void KvAllocator::Fork(const BlockTable& from, int num_blocks, BlockTable& to) {
  CHECK(to.num_blocks() == 0 && from.num_blocks() >= num_blocks);
  for (int i = 0; i < num_blocks; ++i) to.Append(pool_.Share(from.id(i)));
}

bool KvAllocator::CanReserve(const BlockTable& table, int num_tokens) const {
  return BlocksFor(num_tokens) - table.num_blocks() <= pool_.num_free();
}

bool KvAllocator::Reserve(BlockTable& table, int num_tokens) {
  if (!CanReserve(table, num_tokens)) return false;
  while (table.num_blocks() < BlocksFor(num_tokens)) table.Append(*pool_.Allocate());
  return true;
}

void KvAllocator::Publish(absl::Span<const TokenId> tokens, uint64_t salt, int num_computed_tokens, BlockTable& table) {
  if (!options_.prefix_cache) return;
  prefixes_.Publish(tokens, salt, num_computed_tokens / options_.block_size, pool_, table);
}

absl::Status KvAllocator::CheckInvariants(absl::Span<const BlockTable* const> tables) const {
  RETURN_IF_ERROR(pool_.CheckInvariants());
  std::vector<int> num_holds(num_blocks(), 0);
  for (const BlockTable* table : tables) {
    for (int i = 0; i < table->num_blocks(); ++i) ++num_holds[table->id(i)];
  }
  for (BlockId block = 0; block < num_blocks(); ++block) {
    if (num_holds[block] != pool_.num_holds(block)) {
      return absl::InternalError(absl::StrCat("block ", block, " is held ", pool_.num_holds(block),
                                              " times, tables name it ", num_holds[block], " times"));
    }
  }
  return absl::OkStatus();
}

}  // namespace outrider
