#include "router/http/page.h"

#include <gtest/gtest.h>

#include <regex>
#include <set>

#include "router/http/page_files.h"

namespace outrider::router {
namespace {

std::string Header(const HttpResponse& response, const std::string& name) {
  for (const auto& [key, value] : response.headers) {
    if (key == name) return value;
  }
  return "";
}

TEST(Page, ServesItsFilesAndNothingElse) {
  const auto page = AnswerPage("/", "");
  ASSERT_TRUE(page.has_value());
  EXPECT_EQ(page->status, 200);
  EXPECT_EQ(page->content_type, "text/html; charset=utf-8");
  EXPECT_EQ(page->body.rfind("<!doctype html>", 0), 0u);
  EXPECT_TRUE(AnswerPage("/page/app.js", "").has_value());
  for (const char* path : {"", "/page", "/page/", "/page/index.html", "/page/../app.js", "/app.js", "/page/app.js/"}) {
    EXPECT_FALSE(AnswerPage(path, "").has_value()) << path;
  }
}

TEST(Page, HoldsItsFilesWhole) {
  for (const PageFile& file : PageFiles()) {
    SCOPED_TRACE(std::string(file.path));
    EXPECT_FALSE(file.body.empty());
    EXPECT_EQ(file.body.back(), '\n');
    EXPECT_EQ(file.body.find('\0'), absl::string_view::npos);
  }
  // Characters beyond ASCII and escapes come through: these stand in its sources.
  EXPECT_NE(AnswerPage("/page/dom.js", "")->body.find("\xe2\x80\x93"), std::string::npos);
  EXPECT_NE(AnswerPage("/page/stream.js", "")->body.find(R"('\n\n')"), std::string::npos);
}

TEST(Page, RefersToWhatIsThereAndToNobodyElse) {
  std::set<std::string> paths;
  for (const PageFile& file : PageFiles()) paths.insert(std::string(file.path));
  const std::regex reference(R"((?:src|href)="([^"#]+)\"|from '\./([^']+)')");
  int num_references = 0;
  for (const PageFile& file : PageFiles()) {
    const std::string body(file.body);
    for (std::sregex_iterator it(body.begin(), body.end(), reference), end; it != end; ++it, ++num_references) {
      const std::string path = (*it)[1].matched ? "/" + (*it)[1].str() : "/page/" + (*it)[2].str();
      EXPECT_EQ(paths.count(path), 1u) << file.path << " refers to " << path;
    }
    for (const char* elsewhere : {"https://", "src=\"//", "url(", "@import"}) {
      EXPECT_EQ(body.find(elsewhere), std::string::npos) << file.path << " has " << elsewhere;
    }
  }
  EXPECT_GE(num_references, 8);
}

TEST(Page, HasAStrictPolicyAndNothingInlineThatItWouldForbid) {
  const auto page = AnswerPage("/", "");
  const std::string policy = Header(*page, "Content-Security-Policy");
  EXPECT_NE(policy.find("default-src 'none'"), std::string::npos);
  EXPECT_NE(policy.find("frame-ancestors 'none'"), std::string::npos);
  EXPECT_EQ(policy.find("unsafe"), std::string::npos);
  EXPECT_EQ(Header(*page, "X-Content-Type-Options"), "nosniff");
  EXPECT_FALSE(std::regex_search(page->body, std::regex(R"(<script>|<style|\sstyle=|\son\w+=)")));
}

TEST(Page, AnswersThatTheClientHasItAlready) {
  const auto page = AnswerPage("/", "");
  const std::string etag = Header(*page, "ETag");
  ASSERT_GT(etag.size(), 10u);
  EXPECT_NE(etag, Header(*AnswerPage("/page/app.js", ""), "ETag"));
  for (const std::string& known : {etag, "W/" + etag, "\"other\", " + etag, std::string("*")}) {
    const auto again = AnswerPage("/", known);
    EXPECT_EQ(again->status, 304) << known;
    EXPECT_EQ(again->body, "");
    EXPECT_EQ(Header(*again, "ETag"), etag);
  }
  EXPECT_EQ(AnswerPage("/", "\"other\"")->status, 200);
}

}  // namespace
}  // namespace outrider::router
