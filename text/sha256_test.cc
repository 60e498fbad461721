#include "text/sha256.h"

#include <string>

#include "gtest/gtest.h"

namespace outrider::text {
namespace {

std::string HexDigest(absl::string_view bytes, size_t piece) {
  Sha256 sha;
  for (size_t i = 0; i < bytes.size(); i += piece) sha.Update(bytes.substr(i, piece));
  std::string hex;
  for (const uint8_t byte : sha.Finish()) {
    hex.push_back("0123456789abcdef"[byte >> 4]);
    hex.push_back("0123456789abcdef"[byte & 15]);
  }
  return hex;
}

// The examples of FIPS 180-2, appendix B.
TEST(Sha256, GivesThePublishedDigests) {
  EXPECT_EQ(HexDigest("", 1), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(HexDigest("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(HexDigest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 7),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(HexDigest(std::string(1000000, 'a'), 997),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, DoesNotDependOnHowBytesAreGiven) {
  for (const size_t size : {55, 56, 57, 63, 64, 65, 119, 120, 128}) {
    const std::string bytes(size, 'x');
    EXPECT_EQ(HexDigest(bytes, 1), HexDigest(bytes, 1000)) << size;
  }
}

}  // namespace
}  // namespace outrider::text
