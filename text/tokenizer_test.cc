#include "text/tokenizer.h"

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "text/byte_alphabet.h"
#include "text/testing/smollm2_tokenizer.h"

namespace outrider::text {
namespace {

// 256 bytes, "ab" (256), "abc" (257), <|bos|> (258), <|eos|> (259), "[tab]" (260, user-defined).
TokenizerDefinition SmallDefinition() {
  TokenizerDefinition definition;
  definition.model = "gpt2";
  definition.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) definition.tokens.emplace_back(ByteToAlphabet(static_cast<uint8_t>(byte)));
  for (const char* token : {"ab", "abc", "<|bos|>", "<|eos|>", "[tab]"}) definition.tokens.push_back(token);
  definition.types.assign(261, TokenType::kNormal);
  definition.types[258] = definition.types[259] = TokenType::kControl;
  definition.types[260] = TokenType::kUserDefined;
  definition.merges = {"a b", "ab c"};
  definition.bos_id = 258;
  definition.eos_id = 259;
  return definition;
}

std::unique_ptr<Tokenizer> Make(TokenizerDefinition definition) { return *MakeTokenizer(std::move(definition)); }

std::string ErrorOf(TokenizerDefinition definition) {
  const auto result = MakeTokenizer(std::move(definition));
  EXPECT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_LT(result.status().message().size(), 1000u);
  return std::string(result.status().message());
}

TEST(Tokenizer, RecognisesControlTokensOnlyWhenAsked) {
  const auto tokenizer = Make(SmallDefinition());
  EXPECT_EQ(tokenizer->Encode("x<|eos|>y", {.parse_special = true}), (std::vector<TokenId>{'x', 259, 'y'}));
  EXPECT_EQ(tokenizer->Encode("<|eos|>").size(), 7u);
  EXPECT_EQ(tokenizer->Encode("<|eos|>", {.parse_special = true}), (std::vector<TokenId>{259}));
}

TEST(Tokenizer, RecognisesUserDefinedTokensAlways) {
  const auto tokenizer = Make(SmallDefinition());
  EXPECT_EQ(tokenizer->Encode("a[tab]"), (std::vector<TokenId>{'a', 260}));
}

TEST(Tokenizer, PrefersTheLongestOfTheSpecialTokensAtAPlace) {
  TokenizerDefinition definition = SmallDefinition();
  definition.tokens.push_back("<|eos|><|eos|>");
  definition.types.push_back(TokenType::kControl);
  const auto tokenizer = Make(definition);
  EXPECT_EQ(tokenizer->Encode("<|eos|><|eos|><|eos|>", {.parse_special = true}), (std::vector<TokenId>{261, 259}));
}

TEST(Tokenizer, AddsBosAndEosWhenTheDefinitionSaysSo) {
  TokenizerDefinition definition = SmallDefinition();
  definition.add_bos = true;
  const auto bos = Make(definition);
  EXPECT_EQ(bos->Encode("x", {.add_special = true}), (std::vector<TokenId>{258, 'x'}));
  EXPECT_EQ(bos->Encode("x"), (std::vector<TokenId>{'x'}));
  definition.add_eos = true;
  EXPECT_EQ(Make(definition)->Encode("", {.add_special = true}), (std::vector<TokenId>{258, 259}));
}

TEST(Tokenizer, KnowsItsTokens) {
  const auto tokenizer = Make(SmallDefinition());
  EXPECT_EQ(tokenizer->vocab_size(), 261);
  EXPECT_EQ(tokenizer->TokenBytes(257), "abc");
  EXPECT_EQ(tokenizer->TokenBytes(' '), " ");
  EXPECT_EQ(tokenizer->TokenBytes(0), absl::string_view("\0", 1));
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer->TokenBytes(261), "");
  EXPECT_EQ(tokenizer->FindToken("abc"), 257);
  EXPECT_EQ(tokenizer->FindToken("<|bos|>"), 258);
  EXPECT_EQ(tokenizer->FindToken("nope"), -1);
  EXPECT_TRUE(tokenizer->IsControl(258));
  EXPECT_FALSE(tokenizer->IsControl(260));
  EXPECT_FALSE(tokenizer->IsSpecial(1000000));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(259));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(258));
}

TEST(Tokenizer, EndsAtEosAndAtControlTokensKnownToEndATurn) {
  const auto smollm2 = MakeSmolLm2Tokenizer();
  EXPECT_EQ(smollm2->end_of_generation_ids(), (std::vector<TokenId>{0, 2}));  // <|endoftext|>, <|im_end|>
  // The name alone is not enough: it has to be a control token.
  TokenizerDefinition definition = SmallDefinition();
  definition.tokens.push_back("<|im_end|>");
  definition.types.push_back(TokenType::kNormal);
  definition.eot_id = 'x';
  EXPECT_EQ(Make(definition)->end_of_generation_ids(), (std::vector<TokenId>{'x', 259}));
}

TEST(Tokenizer, RefusesHostileDefinitionsNamingWhatIsWrong) {
  const auto error = [](auto change) {
    TokenizerDefinition definition = SmallDefinition();
    change(definition);
    return ErrorOf(std::move(definition));
  };
  using D = TokenizerDefinition;
  EXPECT_EQ(error([](D& d) { d.tokens.clear(); }), "tokenizer has no tokens");
  EXPECT_EQ(error([](D& d) { d.tokens[257] = "ab"; }), "tokens 256 and 257 are both \"ab\"");
  EXPECT_EQ(error([](D& d) { d.tokens[3] = ""; }), "token 3 is empty");
  EXPECT_EQ(error([](D& d) { d.types.pop_back(); }), "tokenizer has 261 tokens but 260 token types");
  EXPECT_EQ(error([](D& d) { d.types[5] = static_cast<TokenType>(9); }), "token 5 \"\\xc4\\x85\" has unknown type 9");
  EXPECT_EQ(error([](D& d) { d.types[5] = static_cast<TokenType>(0); }), "token 5 \"\\xc4\\x85\" has unknown type 0");
  EXPECT_EQ(error([](D& d) { d.scores.resize(7); }), "tokenizer has 261 tokens but 7 scores");
  EXPECT_EQ(error([](D& d) { d.merges.push_back("a zz"); }),
            "merge 2 \"a zz\" names \"zz\", which is not in the vocabulary");
  EXPECT_EQ(error([](D& d) { d.merges.push_back("a c"); }),
            "merge 2 \"a c\" names \"ac\", which is not in the vocabulary");
  EXPECT_EQ(error([](D& d) { d.merges.push_back("ab"); }), "merge 2 \"ab\" is not two tokens");
  EXPECT_EQ(error([](D& d) { d.merges.push_back(""); }), "merge 2 \"\" is not two tokens");
  EXPECT_EQ(error([](D& d) { d.merges.push_back("a "); }), "merge 2 \"a \" is not two tokens");
  EXPECT_EQ(error([](D& d) { d.merges.push_back("a b"); }), "merges 0 and 2 are both \"a b\"");
  EXPECT_EQ(error([](D& d) { d.bos_id = 261; }), "tokenizer's bos_id 261 is outside the vocabulary of 261 tokens");
  EXPECT_EQ(error([](D& d) { d.eos_id = -1; }), "tokenizer's eos_id -1 is outside the vocabulary of 261 tokens");
  EXPECT_EQ(error([](D& d) {
              d.bos_id.reset();
              d.add_bos = true;
            }),
            "tokenizer adds bos but names no bos_id");
  EXPECT_EQ(error([](D& d) { d.tokens[260] = std::string(257, 'x'); }).substr(0, 10), "token 260 ");
  EXPECT_EQ(error([](D& d) { d.tokens[256] = std::string(4097, 'x'); }).substr(0, 10), "token 256 ");
  EXPECT_EQ(error([](D& d) { d.merges[0] = std::string(10000, 'x'); }).substr(0, 8), "merge 0 ");
  EXPECT_EQ(error([](D& d) { d.chat_template = std::string((1 << 20) + 1, 'x'); }),
            "tokenizer has 1048577 bytes of chat template; at most 1048576 are allowed");
  EXPECT_EQ(error([](D& d) { d.merges.resize(kMaxMerges + 1); }),
            "tokenizer has 2097153 merges; at most 2097152 are allowed");
  EXPECT_EQ(error([](D& d) { d.tokens.resize(kMaxVocabSize + 1); }),
            "tokenizer has 1048577 tokens; at most 1048576 are allowed");
  EXPECT_NE(error([](D& d) { d.pre = "made-up"; }).find("unknown pre-tokenizer \"made-up\"; known: "),
            std::string::npos);
  EXPECT_EQ(error([](D& d) { d.model = "gpt9"; }),
            "unknown tokenizer model \"gpt9\"; supported: gpt2 (byte-level BPE), llama (SentencePiece's BPE)");
}

TEST(Tokenizer, AKnownKindThatIsNotBuiltIsUnimplemented) {
  TokenizerDefinition definition = SmallDefinition();
  definition.model = "t5";
  EXPECT_EQ(MakeTokenizer(definition).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(Tokenizer, FingerprintNamesTheVocabularyAndNotTheTemplate) {
  const std::string base = Fingerprint(SmallDefinition());
  EXPECT_EQ(base.size(), 32u);
  const auto changed = [](auto change) {
    TokenizerDefinition definition = SmallDefinition();
    change(definition);
    return Fingerprint(definition);
  };
  using D = TokenizerDefinition;
  EXPECT_EQ(changed([](D&) {}), base);
  EXPECT_EQ(changed([](D& d) { d.chat_template = "{{ x }}"; }), base);
  EXPECT_EQ(changed([](D& d) { d.pad_id = 3; }), base);
  EXPECT_NE(changed([](D& d) { std::swap(d.tokens[3], d.tokens[4]); }), base);
  EXPECT_NE(changed([](D& d) { std::swap(d.merges[0], d.merges[1]); }), base);
  EXPECT_NE(changed([](D& d) { d.types[260] = TokenType::kControl; }), base);
  EXPECT_NE(changed([](D& d) { d.eos_id = 5; }), base);
  EXPECT_NE(changed([](D& d) { d.pre = "smollm"; }), base);
  EXPECT_NE(changed([](D& d) { d.add_bos = true; }), base);
  // Where one token ends and the next begins counts.
  EXPECT_NE(changed([](D& d) {
              d.tokens[256] = "a";
              d.tokens[257] = "babc";
            }),
            base);
}

// What registration compares between machines and releases: changing it breaks running clusters, so it is pinned.
TEST(Tokenizer, FingerprintOfSmolLm2IsPinned) {
  EXPECT_EQ(MakeSmolLm2Tokenizer()->fingerprint(), "a1ce5a26f97420cc3a7fe82c20fbcb9a");
}

}  // namespace
}  // namespace outrider::text
