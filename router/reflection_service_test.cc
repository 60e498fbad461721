#include "router/reflection_service.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>

#include "proto/inference.pb.h"

namespace outrider::router {
namespace {

const std::vector<std::string> kServices = {"outrider.v1.Inference", "grpc.health.v1.Health"};

reflection::ServerReflectionResponse AskForSymbol(const std::string& symbol) {
  reflection::ServerReflectionRequest request;
  request.set_host("here");
  request.set_file_containing_symbol(symbol);
  return AnswerReflection(request, kServices);
}

TEST(AnswerReflection, ListsTheServices) {
  reflection::ServerReflectionRequest request;
  request.set_list_services("*");
  const reflection::ServerReflectionResponse response = AnswerReflection(request, kServices);
  ASSERT_EQ(response.list_services_response().service_size(), 2);
  EXPECT_EQ(response.list_services_response().service(0).name(), "outrider.v1.Inference");
  EXPECT_EQ(response.original_request().list_services(), "*");
}

// A tool that knows nothing can build the descriptors of a method from one answer.
TEST(AnswerReflection, GivesAFileWithAllThatItImports) {
  (void)v1::GenerateRequest::descriptor();
  const reflection::ServerReflectionResponse response = AskForSymbol("outrider.v1.Inference.Generate");
  EXPECT_EQ(response.valid_host(), "here");
  google::protobuf::DescriptorPool pool;
  const auto& files = response.file_descriptor_response().file_descriptor_proto();
  ASSERT_GT(files.size(), 1);
  for (auto file = files.rbegin(); file != files.rend(); ++file) {  // imports come after what imports them
    google::protobuf::FileDescriptorProto proto;
    ASSERT_TRUE(proto.ParseFromString(*file));
    ASSERT_NE(pool.BuildFile(proto), nullptr) << proto.name();
  }
  ASSERT_NE(pool.FindMethodByName("outrider.v1.Inference.Generate"), nullptr);
  EXPECT_NE(pool.FindFieldByName("outrider.v1.GenerateRequest.prompt"), nullptr);

  reflection::ServerReflectionRequest by_name;
  by_name.set_file_by_filename("proto/inference.proto");
  EXPECT_EQ(AnswerReflection(by_name, kServices).file_descriptor_response().SerializeAsString(),
            response.file_descriptor_response().SerializeAsString());
}

TEST(AnswerReflection, SaysWhatItDoesNotKnow) {
  EXPECT_EQ(AskForSymbol("outrider.v1.Nothing").error_response().error_code(), 5);
  EXPECT_NE(AskForSymbol("a.b").error_response().error_message().find("a.b"), std::string::npos);
  reflection::ServerReflectionRequest request;
  EXPECT_EQ(AnswerReflection(request, kServices).error_response().error_code(), 3);
  request.set_file_by_filename("");
  EXPECT_EQ(AnswerReflection(request, kServices).error_response().error_code(), 5);
  request.set_all_extension_numbers_of_type("outrider.v1.GenerateRequest");
  EXPECT_EQ(AnswerReflection(request, kServices).all_extension_numbers_response().extension_number_size(), 0);
  request.set_all_extension_numbers_of_type("x");
  EXPECT_EQ(AnswerReflection(request, kServices).error_response().error_code(), 5);
  request.mutable_file_containing_extension()->set_containing_type("outrider.v1.GenerateRequest");
  EXPECT_EQ(AnswerReflection(request, kServices).error_response().error_code(), 5);
}

TEST(AnswerReflection, KnowsExtensions) {
  // descriptor.proto is part of the library and may be extended; this program extends nothing.
  reflection::ServerReflectionRequest request;
  request.set_all_extension_numbers_of_type("google.protobuf.FieldOptions");
  EXPECT_EQ(AnswerReflection(request, kServices).all_extension_numbers_response().base_type_name(),
            "google.protobuf.FieldOptions");
}

}  // namespace
}  // namespace outrider::router
