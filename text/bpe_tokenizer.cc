#include "text/bpe_tokenizer.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/byte_alphabet.h"

namespace outrider::text {
namespace {

uint64_t PairKey(TokenId left, TokenId right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

std::string Quoted(absl::string_view bytes) { return absl::StrCat("\"", absl::CHexEscape(bytes.substr(0, 48)), "\""); }

}  // namespace

void SpecialTokenTrie::Add(absl::string_view bytes, TokenId id) {
  roots_[static_cast<uint8_t>(bytes[0])] = true;
  uint32_t node = 0;
  for (const char byte : bytes) {
    const uint64_t edge = uint64_t{node} << 8 | static_cast<uint8_t>(byte);
    const auto [child, inserted] = children_.try_emplace(edge, static_cast<uint32_t>(nodes_.size()));
    if (inserted) nodes_.emplace_back();
    node = child->second;
  }
  nodes_[node].id = id;
}

SpecialTokenTrie::Match SpecialTokenTrie::LongestPrefix(absl::string_view text) const {
  Match match;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto child = children_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[i]));
    if (child == children_.end()) break;
    node = child->second;
    if (nodes_[node].id >= 0) match = {i + 1, nodes_[node].id};
  }
  return match;
}

// A word as a doubly linked list of symbols, and the merges that are possible now as a binary heap of
// rank << 32 | index of the left symbol: lowest rank first, then leftmost. An entry is void when its symbol's rank has
// changed since; it is then skipped rather than removed.
struct BpeTokenizer::Workspace {
  struct Symbol {
    TokenId id;
    int32_t previous;  // -1: none
    int32_t next;      // -1: none
    uint32_t rank;     // of the merge with the next symbol; kNoMerge, also once merged into its left neighbour
    TokenId merged;    // what that merge makes
  };
  static constexpr uint32_t kNoMerge = 0xFFFFFFFF;

  std::vector<absl::string_view> words;
  std::vector<Symbol> symbols;
  std::vector<uint64_t> heap;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Make(TokenizerDefinition definition) {
  ASSIGN_OR_RETURN(std::unique_ptr<PreTokenizer> pre_tokenizer, PreTokenizer::Make(definition.pre));
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer(std::move(definition)));
  tokenizer->pre_tokenizer_ = std::move(pre_tokenizer);
  const TokenizerDefinition& def = tokenizer->definition();
  tokenizer->ignore_merges_ = def.ignore_merges || ImpliesIgnoreMerges(def.pre);
  const size_t vocab_size = def.tokens.size();

  size_t num_bytes = 0;
  for (const std::string& token : def.tokens) num_bytes += token.size();
  tokenizer->bytes_.reserve(num_bytes);  // raw bytes are never more than the stored ones
  tokenizer->first_byte_.reserve(vocab_size + 1);
  for (size_t id = 0; id < vocab_size; ++id) {
    tokenizer->first_byte_.push_back(tokenizer->bytes_.size());
    tokenizer->bytes_ += DecodeStoredToken(def, id);
  }
  tokenizer->first_byte_.push_back(tokenizer->bytes_.size());

  absl::flat_hash_map<absl::string_view, TokenId> by_stored;
  by_stored.reserve(vocab_size);
  tokenizer->ids_by_bytes_.reserve(vocab_size);
  for (size_t i = 0; i < vocab_size; ++i) {
    const TokenId id = static_cast<TokenId>(i);
    by_stored.emplace(def.tokens[i], id);
    const absl::string_view bytes = tokenizer->TokenBytes(id);
    const bool is_control = tokenizer->IsControl(id);
    const auto [entry, inserted] = tokenizer->ids_by_bytes_.try_emplace(bytes, id);
    if (!inserted && is_control) entry->second = id;
    const bool is_user_defined = !def.types.empty() && def.types[i] == TokenType::kUserDefined;
    if (is_control || is_user_defined) tokenizer->control_and_user_defined_.Add(bytes, id);
    if (is_user_defined) tokenizer->user_defined_.Add(bytes, id);
    if (tokenizer->ignore_merges_ && !is_control && !is_user_defined && AlphabetToBytes(def.tokens[i]).has_value()) {
      tokenizer->words_.emplace(bytes, id);
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = by_stored.find(ByteToAlphabet(static_cast<uint8_t>(byte)));
    tokenizer->byte_ids_[byte] = found == by_stored.end() ? -1 : found->second;
  }

  tokenizer->merges_.reserve(def.merges.size());
  for (size_t i = 0; i < def.merges.size(); ++i) {
    const std::string& merge = def.merges[i];
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos || space + 1 == merge.size()) {
      return absl::InvalidArgumentError(absl::StrCat("merge ", i, " ", Quoted(merge), " is not two tokens"));
    }
    const absl::string_view left = absl::string_view(merge).substr(0, space);
    const absl::string_view right = absl::string_view(merge).substr(space + 1);
    const std::string merged = absl::StrCat(left, right);
    TokenId ids[3];
    const absl::string_view names[3] = {left, right, merged};
    for (int k = 0; k < 3; ++k) {
      const auto found = by_stored.find(names[k]);
      if (found == by_stored.end()) {
        return absl::InvalidArgumentError(absl::StrCat("merge ", i, " ", Quoted(merge), " names ", Quoted(names[k]),
                                                       ", which is not in the vocabulary"));
      }
      ids[k] = found->second;
    }
    const Merge value{static_cast<uint32_t>(i), ids[2]};
    const auto [other, inserted] = tokenizer->merges_.try_emplace(PairKey(ids[0], ids[1]), value);
    if (!inserted) {
      return absl::InvalidArgumentError(
          absl::StrCat("merges ", other->second.rank, " and ", i, " are both ", Quoted(merge)));
    }
  }
  return tokenizer;
}

absl::string_view BpeTokenizer::TokenBytes(TokenId id) const {
  if (!InVocabulary(id)) return absl::string_view();
  const size_t first = first_byte_[id];
  return absl::string_view(bytes_).substr(first, first_byte_[id + 1] - first);
}

TokenId BpeTokenizer::FindToken(absl::string_view bytes) const {
  const auto found = ids_by_bytes_.find(bytes);
  return found == ids_by_bytes_.end() ? -1 : found->second;
}

std::vector<TokenId> BpeTokenizer::Encode(absl::string_view text, const EncodeOptions& options) const {
  std::vector<TokenId> ids;
  if (options.add_special && definition().add_bos) ids.push_back(*definition().bos_id);
  const SpecialTokenTrie& special = options.parse_special ? control_and_user_defined_ : user_defined_;
  Workspace workspace;
  size_t first_plain = 0;
  for (size_t i = 0; i < text.size();) {
    if (special.CanBegin(text[i])) {
      const SpecialTokenTrie::Match match = special.LongestPrefix(text.substr(i));
      if (match.num_bytes > 0) {
        EncodePlain(text.substr(first_plain, i - first_plain), &workspace, &ids);
        ids.push_back(match.id);
        i += match.num_bytes;
        first_plain = i;
        continue;
      }
    }
    ++i;
  }
  EncodePlain(text.substr(first_plain), &workspace, &ids);
  if (options.add_special && definition().add_eos) ids.push_back(*definition().eos_id);
  return ids;
}

void BpeTokenizer::EncodePlain(absl::string_view text, Workspace* workspace, std::vector<TokenId>* ids) const {
  if (text.empty()) return;
  std::string normalized;
  if (pre_tokenizer_->normalizes()) {
    normalized = pre_tokenizer_->Normalize(text);
    text = normalized;
  }
  pre_tokenizer_->Split(text, &workspace->words);
  for (const absl::string_view word : workspace->words) EncodeWord(word, workspace, ids);
}

void BpeTokenizer::EncodeWord(absl::string_view word, Workspace* workspace, std::vector<TokenId>* ids) const {
  if (ignore_merges_) {
    const auto found = words_.find(word);
    if (found != words_.end()) {
      ids->push_back(found->second);
      return;
    }
  }
  std::vector<Workspace::Symbol>& symbols = workspace->symbols;
  std::vector<uint64_t>& heap = workspace->heap;
  symbols.clear();
  heap.clear();
  for (const char byte : word) {
    const TokenId id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id < 0) continue;
    const int32_t index = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1, Workspace::kNoMerge, -1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  const auto find_merge = [&](int32_t left) {
    Workspace::Symbol& symbol = symbols[left];
    symbol.rank = Workspace::kNoMerge;
    if (symbol.next < 0) return false;
    const auto merge = merges_.find(PairKey(symbol.id, symbols[symbol.next].id));
    if (merge == merges_.end()) return false;
    symbol.rank = merge->second.rank;
    symbol.merged = merge->second.merged;
    return true;
  };
  const auto entry = [&](int32_t left) { return uint64_t{symbols[left].rank} << 32 | static_cast<uint32_t>(left); };
  for (int32_t i = 0; i < static_cast<int32_t>(symbols.size()); ++i) {
    if (find_merge(i)) heap.push_back(entry(i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](int32_t left) {
    if (!find_merge(left)) return;
    heap.push_back(entry(left));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t best = heap.back();
    heap.pop_back();
    const int32_t index = static_cast<int32_t>(best & 0xFFFFFFFF);
    Workspace::Symbol& left = symbols[index];
    if (left.rank != best >> 32) continue;
    Workspace::Symbol& right = symbols[left.next];
    left.id = left.merged;
    left.next = right.next;
    right.rank = Workspace::kNoMerge;
    if (left.next >= 0) symbols[left.next].previous = index;
    if (left.previous >= 0) push(left.previous);
    push(index);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace outrider::text
