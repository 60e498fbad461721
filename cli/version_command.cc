#include "cli/version_command.h"

#include <google/protobuf/stubs/common.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/gemm/gemm.h"
#include "worker/model/cuda_backend.h"

namespace outrider {
namespace {

#if defined(__clang__)
constexpr char kCompiler[] = "clang " __clang_version__;
#else
constexpr char kCompiler[] = "g++ " __VERSION__;
#endif

}  // namespace

void AddVersionCommand(CLI::App& app) {
  app.set_version_flag("--version", absl::StrCat("outrider ", kProgramVersion));
  CLI::App* const command = app.add_subcommand("version", "Say which program this is and what it was built with");
  const auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "As JSON");
  command->footer("Example:\n  outrider version --json | jq -r .version");
  command->callback([=] {
    const bool cuda = CheckCuda(0).code() != absl::StatusCode::kUnimplemented;
    nlohmann::ordered_json json;
    json["version"] = kProgramVersion;
    json["cuda"] = cuda;
    json["cpu_kernels"] = kernels::GemmTargetName();
    json["compiler"] = kCompiler;
    json["grpc"] = grpc::Version();
    json["protobuf"] = google::protobuf::internal::VersionString(GOOGLE_PROTOBUF_VERSION);
    if (*as_json) {
      std::printf("%s\n", json.dump(2).c_str());
    } else {
      std::printf("outrider %s, %s, CPU kernels for %s\n%s, gRPC %s, protobuf %s\n", kProgramVersion,
                  cuda ? "with CUDA" : "without CUDA", kernels::GemmTargetName(), kCompiler, grpc::Version().c_str(),
                  json["protobuf"].get<std::string>().c_str());
    }
  });
}

}  // namespace outrider
