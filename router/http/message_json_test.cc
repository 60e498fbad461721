#include "router/http/message_json.h"

#include <gtest/gtest.h>

#include "proto/load.pb.h"

namespace outrider::router {
namespace {

std::string ToJson(const google::protobuf::Message& message) {
  std::string out;
  AppendMessageJson(message, &out);
  return out;
}

TEST(MessageJson, WritesEveryFieldByItsNameAndZeroesToo) {
  v1::DraftPartner partner;
  EXPECT_EQ(ToJson(partner), R"({"id":"","paired":false,"connected":false,"round_trip_ms":0})");
  partner.set_id("say \"d\"\n");
  partner.set_paired(true);
  partner.set_round_trip_ms(0.1f);
  EXPECT_EQ(ToJson(partner), R"({"id":"say \"d\"\n","paired":true,"connected":false,"round_trip_ms":0.1})");
}

TEST(MessageJson, WritesMessagesListsEnumsAndNumbersOf64Bits) {
  v1::GroupStatus group;
  group.set_state(v1::WORKER_STATE_HELD);
  group.set_committed_tokens_total(18446744073709551615ull);
  group.add_draft_tokens_by_position(3);
  group.add_draft_tokens_by_position(2);
  group.add_draft_workers()->set_id("a");
  group.add_draft_workers()->set_id("b");
  const std::string json = ToJson(group);
  for (const char* part :
       {R"("state":"WORKER_STATE_HELD")", R"("committed_tokens_total":18446744073709551615)",
        R"("draft_tokens_by_position":[3,2])", R"("accepted_tokens_by_position":[],)",
        R"("draft_workers":[{"id":"a","paired":false,"connected":false,"round_trip_ms":0},{"id":"b",)"}) {
    EXPECT_NE(json.find(part), std::string::npos) << part << "\n" << json;
  }
  group.set_state(static_cast<v1::WorkerState>(99));
  EXPECT_NE(ToJson(group).find(R"("state":99)"), std::string::npos);
  const std::string cluster = ToJson(v1::ClusterLoad());
  EXPECT_EQ(cluster.front(), '{');
  EXPECT_NE(cluster.find(R"("router":{"uptime_seconds":0,)"), std::string::npos) << "what is unset is whole";
}

}  // namespace
}  // namespace outrider::router
