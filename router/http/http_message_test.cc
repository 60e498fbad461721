#include "router/http/http_message.h"

#include <gtest/gtest.h>

namespace outrider::router {
namespace {

TEST(HttpMessage, DecodesPathsAndRefusesBrokenOnes) {
  EXPECT_EQ(DecodePath("/v1/models"), "/v1/models");
  EXPECT_EQ(DecodePath("/v1/models/a%2Fb%20c?x=%zz"), "/v1/models/a/b c");
  EXPECT_EQ(DecodePath("/a%2"), "");
  EXPECT_EQ(DecodePath("/a%zz"), "");
  EXPECT_EQ(DecodePath("http://host/a"), "");
  EXPECT_EQ(DecodePath(""), "");
  EXPECT_EQ(DecodePath("/a%41"), "/aA");
}

TEST(HttpMessage, TakesRequestIdsThatAreSafeToShow) {
  EXPECT_TRUE(IsRequestId("req-1_2.3:4/5+6="));
  EXPECT_FALSE(IsRequestId(""));
  EXPECT_FALSE(IsRequestId("a b"));
  EXPECT_FALSE(IsRequestId("a\r\nSet-Cookie: x"));
  EXPECT_FALSE(IsRequestId(std::string(129, 'a')));
}

TEST(HttpMessage, RendersHeadsForEachWayToEndAnAnswer) {
  const HttpHeaders headers = {{"X-A", "b"}};
  EXPECT_EQ(RenderHead({.status = 404, .content_type = "t", .headers = &headers, .content_length = 3, .date = "d"}),
            "HTTP/1.1 404 Not Found\r\nDate: d\r\nServer: outrider\r\nContent-Type: t\r\nContent-Length: 3\r\nX-A: "
            "b\r\n\r\n");
  const std::string chunked = RenderHead({.content_type = "t", .chunked = true, .date = "d"});
  EXPECT_NE(chunked.find("Transfer-Encoding: chunked\r\n"), std::string::npos);
  EXPECT_EQ(chunked.find("Connection"), std::string::npos);
  const std::string old = RenderHead({.content_type = "t", .keep_alive = false, .http_1_0 = true, .date = "d"});
  EXPECT_EQ(old.find("Transfer-Encoding"), std::string::npos);
  EXPECT_NE(old.find("Connection: close\r\n"), std::string::npos);
  EXPECT_EQ(RenderChunk("0123456789abcdef"), "10\r\n0123456789abcdef\r\n");
}

}  // namespace
}  // namespace outrider::router
