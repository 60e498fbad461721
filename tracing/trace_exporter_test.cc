#include "tracing/trace_exporter.h"

#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tracing/start_tracing.h"
#include "tracing/testing/fake_collector.h"

namespace outrider {
namespace {

using Received = FakeCollector::Received;

std::vector<TraceSpan> Spans(int count, SpanId first = 1) {
  std::vector<TraceSpan> spans(static_cast<size_t>(count));
  for (TraceSpan& span : spans) span = {.trace = {1, 2}, .id = first++, .name = "x", .end_unix_ns = 1};
  return spans;
}

class Exporter {
 public:
  explicit Exporter(const std::string& address, TraceExporter::Options options = {}) {
    options.endpoint.address = address;
    options.resource = {.service = "outrider-test", .instance = "t-1"};
    if (options.interval == TraceExporter::Options().interval) options.interval = std::chrono::milliseconds(1);
    exporter_ = std::make_unique<TraceExporter>(options, TraceMetrics(registry_));
  }
  TraceExporter& operator*() { return *exporter_; }
  TraceExporter* operator->() { return exporter_.get(); }
  void End() { exporter_.reset(); }
  double exported() const { return Value("outrider_trace_spans_exported_total "); }
  double dropped(const std::string& reason) const {
    return Value(absl::StrCat("outrider_trace_spans_dropped_total{reason=\"", reason, "\"} "));
  }

 private:
  double Value(const std::string& series) const {
    for (const absl::string_view line : absl::StrSplit(registry_.ToText(), '\n')) {
      double value;
      if (line.substr(0, series.size()) == series && absl::SimpleAtod(line.substr(series.size()), &value)) return value;
    }
    return -1;
  }
  MetricsRegistry registry_;
  std::unique_ptr<TraceExporter> exporter_;
};

size_t NumDistinct(const std::vector<Received>& received) {
  std::set<std::string> ids;
  for (const Received& r : received) ids.insert(r.span.span_id());
  return ids.size();
}

TEST(TraceExporter, BringsEverySpanOnceAndSaysWhoSentIt) {
  FakeCollector collector;
  Exporter exporter(collector.address(), {.max_batch_spans = 7});
  for (int i = 0; i < 10; ++i) exporter->Add(Spans(10, static_cast<SpanId>(1 + 10 * i)));
  ASSERT_TRUE(collector.Await([](const auto& received) { return received.size() == 100; }));
  exporter.End();
  const std::vector<Received> received = collector.received();
  EXPECT_EQ(received.size(), 100u);
  EXPECT_EQ(NumDistinct(received), 100u);
  EXPECT_EQ(received[0].service, "outrider-test");
  EXPECT_EQ(received[0].instance, "t-1");
  EXPECT_GE(collector.num_requests(), 100 / 7);
  EXPECT_EQ(exporter.exported(), 100);
  EXPECT_EQ(exporter.dropped("overflow") + exporter.dropped("refused") + exporter.dropped("unreachable"), 0);
}

TEST(TraceExporter, SendsWhatIsQueuedWhenItEnds) {
  FakeCollector collector;
  Exporter exporter(collector.address(), {.interval = std::chrono::hours(1), .last_words = std::chrono::seconds(20)});
  exporter->Add(Spans(5));
  exporter.End();
  EXPECT_EQ(collector.received().size(), 5u);
  EXPECT_EQ(exporter.exported(), 5);
}

TEST(TraceExporter, DropsAndCountsWhatAStuckCollectorLeavesNoRoomFor) {
  FakeCollector collector;
  collector.SetStuck(true);
  Exporter exporter(collector.address(), {.max_queued_spans = 100,
                                          .max_batch_spans = 10,
                                          .timeout = std::chrono::hours(1),
                                          .last_words = std::chrono::milliseconds(50)});
  exporter->Add(Spans(10));
  ASSERT_TRUE(collector.AwaitRequests(1));  // the batch is out and stays there
  for (int i = 0; i < 50; ++i) exporter->Add(Spans(10));
  EXPECT_EQ(exporter.dropped("overflow"), 400);
  exporter.End();  // within last_words, or this test never ends
  EXPECT_EQ(exporter.dropped("overflow") + exporter.dropped("unreachable"), 510);
  EXPECT_EQ(exporter.exported(), 0);
}

TEST(TraceExporter, TakesAllSpansOfARequestOrNone) {
  FakeCollector collector;
  collector.SetStuck(true);
  Exporter exporter(collector.address(), {.max_queued_spans = 10, .last_words = std::chrono::milliseconds(1)});
  exporter->Add(Spans(11));
  EXPECT_EQ(exporter.dropped("overflow"), 11);
}

TEST(TraceExporter, GivesUpOnACollectorThatIsNotThere) {
  std::string address;
  {
    FakeCollector gone;
    address = gone.address();
  }
  Exporter exporter(address, {.max_queued_spans = 100, .last_words = std::chrono::milliseconds(50)});
  for (int i = 0; i < 30; ++i) exporter->Add(Spans(10));
  exporter.End();
  EXPECT_EQ(exporter.exported(), 0);
  EXPECT_EQ(exporter.dropped("overflow") + exporter.dropped("unreachable"), 300);
}

TEST(TraceExporter, SendsABatchAgainThatACollectorCouldNotTakeYet) {
  int num_calls = 0;
  FakeCollector collector("127.0.0.1:0", [&](const auto&, auto*) {
    return ++num_calls == 1 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "starting") : grpc::Status::OK;
  });
  Exporter exporter(collector.address());
  exporter->Add(Spans(3));
  ASSERT_TRUE(collector.Await([](const auto& received) { return received.size() == 3; }));
  exporter.End();
  EXPECT_EQ(exporter.exported(), 3);
  EXPECT_EQ(exporter.dropped("unreachable"), 0);
}

TEST(TraceExporter, CountsWhatACollectorRefusesAndGoesOn) {
  FakeCollector collector("127.0.0.1:0", [&](const FakeCollector::Request& request, FakeCollector::Response* response) {
    switch (request.resource_spans(0).scope_spans(0).spans(0).span_id().back()) {
      case 1:
        return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "never");
      case 2:  // it refuses more than it got
        response->mutable_partial_success()->set_rejected_spans(1'000'000);
        response->mutable_partial_success()->set_error_message(std::string(1000, 'x'));
        return grpc::Status::OK;
      case 3:  // and an answer beyond all measure
        response->mutable_partial_success()->set_error_message(std::string(1 << 20, 'x'));
        return grpc::Status::OK;
      default:
        return grpc::Status::OK;
    }
  });
  Exporter exporter(collector.address(), {.max_batch_spans = 1});
  for (SpanId id = 1; id <= 4; ++id) exporter->Add(Spans(1, id));
  ASSERT_TRUE(collector.Await([](const auto& received) { return NumDistinct(received) == 3; }));
  exporter.End();
  EXPECT_EQ(exporter.exported(), 1);
  EXPECT_EQ(exporter.dropped("refused"), 3);
}

TEST(TraceExporter, KeepsNobodyWaitingWhileTheCollectorIsStuck) {
  FakeCollector collector;
  collector.SetStuck(true);
  Exporter exporter(collector.address(), {.max_queued_spans = 1000, .last_words = std::chrono::milliseconds(1)});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) exporter->Add(Spans(3));
    });
  }
  for (std::thread& thread : threads) thread.join();  // it would not end if Add waited: the collector never answers
  EXPECT_GE(exporter.dropped("overflow"), 12000 - 1000 - 512);
}

TEST(StartTracing, IsOffWithoutAnEndpointAndRefusesARatioThatIsNone) {
  MetricsRegistry registry;
  const auto off = StartTracing("", 1, {}, registry);
  ASSERT_TRUE(off.ok());
  EXPECT_EQ(*off, nullptr);
  for (const double ratio : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_EQ(StartTracing("c:1", ratio, {}, registry).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_NE(registry.ToText().find("outrider_trace_spans_dropped_total{reason=\"overflow\"} 0"), std::string::npos);
}

}  // namespace
}  // namespace outrider
