// That the OpenAPI document and the code say the same: the paths, the fields of every request, what each field takes,
// and the messages that answers are made of. Each comparison is itself tried with a document that is wrong.
#include "router/http/openapi.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <cctype>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/version.h"
#include "proto/load.pb.h"
#include "router/http/api_error.h"
#include "router/http/api_paths.h"
#include "router/http/generation_request.h"
#include "router/http/page_files.h"
#include "router/http/text_request.h"
#include "router/proto_conversions.h"
#include "router/request_validation.h"

namespace outrider::router {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Strings = std::vector<std::string>;

Json Document() { return Json::parse(std::string(OpenApiDocument())); }

const Json& Resolve(const Json& document, const Json& schema) {
  if (!schema.contains("$ref")) return schema;
  return Resolve(document, document.at(Json::json_pointer(schema["$ref"].get<std::string>().substr(1))));
}

const Json& Named(const Json& document, const std::string& name) { return document["components"]["schemas"][name]; }

// Characters of UTF-8.
int64_t Length(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; });
}

bool IsOfType(const std::string& type, const Json& value) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_boolean();
  if (type == "string") return value.is_string();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  if (type == "number") return value.is_number();
  return value.is_number_integer() ||
         (value.is_number_float() && value.get<double>() == std::floor(value.get<double>()));
}

// JSON Schema, as much of it as the document's requests use; anything else throws.
bool Admits(const Json& document, const Json& unresolved, const Json& value) {
  const Json& schema = Resolve(document, unresolved);
  const auto admits = [&](const Json& part, const Json& v) { return Admits(document, part, v); };
  for (const auto& [key, rule] : schema.items()) {
    bool good = true;
    if (key == "description" || key == "title" || key == "default" || key == "then") {
    } else if (key == "type") {
      const Json types = rule.is_array() ? rule : Json::array({rule});
      good = std::any_of(types.begin(), types.end(),
                         [&](const Json& type) { return IsOfType(type.get<std::string>(), value); });
    } else if (key == "enum") {
      good = std::find(rule.begin(), rule.end(), value) != rule.end();
    } else if (key == "const") {
      good = value == rule;
    } else if (key == "minimum") {
      good = !value.is_number() || value >= rule;
    } else if (key == "maximum") {
      good = !value.is_number() || value <= rule;
    } else if (key == "minLength") {
      good = !value.is_string() || Length(value.get<std::string>()) >= rule.get<int64_t>();
    } else if (key == "maxLength") {
      good = !value.is_string() || Length(value.get<std::string>()) <= rule.get<int64_t>();
    } else if (key == "pattern") {
      good = !value.is_string() || std::regex_search(value.get<std::string>(), std::regex(rule.get<std::string>()));
    } else if (key == "minItems") {
      good = !value.is_array() || value.size() >= rule.get<size_t>();
    } else if (key == "maxItems") {
      good = !value.is_array() || value.size() <= rule.get<size_t>();
    } else if (key == "items") {
      good =
          !value.is_array() || std::all_of(value.begin(), value.end(), [&](const Json& v) { return admits(rule, v); });
    } else if (key == "maxProperties") {
      good = !value.is_object() || value.size() <= rule.get<size_t>();
    } else if (key == "required") {
      good = !value.is_object() || std::all_of(rule.begin(), rule.end(), [&](const Json& name) {
        return value.contains(name.get<std::string>());
      });
    } else if (key == "properties") {
      for (const auto& [name, part] : rule.items()) {
        good = good && (!value.is_object() || !value.contains(name) || admits(part, value[name]));
      }
    } else if (key == "propertyNames" || key == "additionalProperties") {
      if (value.is_object()) {
        for (const auto& [name, part] : value.items()) {
          good = good && admits(rule, key == "propertyNames" ? Json(name) : part);
        }
      }
    } else if (key == "allOf") {
      good = std::all_of(rule.begin(), rule.end(), [&](const Json& part) { return admits(part, value); });
    } else if (key == "oneOf") {
      good = std::count_if(rule.begin(), rule.end(), [&](const Json& part) { return admits(part, value); }) == 1;
    } else if (key == "if") {
      good = !admits(rule, value) || admits(schema["then"], value);
    } else {
      throw std::runtime_error("the test does not know the keyword " + key);
    }
    if (!good) return false;
  }
  return true;
}

// What an object's schema is made of.
std::vector<Json> Parts(const Json& schema) {
  std::vector<Json> parts;
  for (const char* key : {"allOf", "oneOf"}) {
    if (schema.contains(key)) parts.insert(parts.end(), schema[key].begin(), schema[key].end());
  }
  return parts;
}

// The properties of a schema and of all that it is made of, with those of objects within as OUTER.INNER.
std::set<std::string> PropertyNames(const Json& document, const Json& unresolved) {
  const Json& schema = Resolve(document, unresolved);
  std::set<std::string> names;
  for (const Json& part : Parts(schema)) names.merge(PropertyNames(document, part));
  const Json properties = schema.value("properties", Json::object());
  for (const auto& [name, property] : properties.items()) {
    names.insert(name);
    if (name != "stream_options") continue;
    for (const std::string& inner : PropertyNames(document, property)) names.insert(absl::StrCat(name, ".", inner));
  }
  return names;
}

// A request of the API: its schema, a body that it takes, and the code that reads it, which gives back what it knows.
struct Reader {
  std::string schema;
  Json base;
  std::function<absl::Status(FieldReader&)> read;
};

absl::Status CheckCalls(const absl::StatusOr<GenerationRequest>& parsed) {
  if (!parsed.ok()) return parsed.status();
  for (const v1::GenerateRequest& call : parsed->calls) {
    if (const absl::Status status = CheckInput(ViewOf(call)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckChat(const v1::GenerateRequest& chat) {
  const RequestInput input = ViewOf(chat);
  const absl::Status status = CheckMessages(input.messages);
  return status.ok() ? CheckChatOptions(input.chat, /*has_messages=*/true) : status;
}

std::vector<Reader> Readers() {
  const Json messages = Json::array({{{"role", "user"}, {"content", "hi"}}});
  const auto chat = [](FieldReader& fields) { return CheckCalls(ParseChatRequest(fields)); };
  const auto completion = [](FieldReader& fields) { return CheckCalls(ParseCompletionRequest(fields)); };
  const auto tokenize = [](FieldReader& fields) {
    const auto parsed = ParseTokenizeRequest(fields);
    if (!parsed.ok() || parsed->prompt.has_value()) return parsed.status();
    return CheckChat(parsed->chat);
  };
  const auto detokenize = [](FieldReader& fields) { return ParseDetokenizeRequest(fields).status(); };
  const auto render = [](FieldReader& fields) {
    const auto parsed = ParseTemplateRequest(fields);
    return parsed.ok() ? CheckChat(parsed->chat) : parsed.status();
  };
  return {
      // Streamed, since some fields are about streams; and with logprobs, since one is about them.
      {"ChatRequest", {{"messages", messages}, {"stream", true}, {"logprobs", true}, {"stream_options", {}}}, chat},
      {"CompletionRequest", {{"prompt", "a"}, {"stream", true}}, completion},
      {"TokenizeRequest", {{"messages", messages}}, tokenize},
      {"DetokenizeRequest", {{"tokens", {1}}}, detokenize},
      {"TemplateRequest", {{"messages", messages}}, render},
  };
}

Strings DifferencesOfPaths(const Json& document) {
  std::set<std::string> described, routed;
  for (const auto& [path, operations] : document["paths"].items()) {
    for (const auto& [method, operation] : operations.items()) {
      const bool is_open = operation.contains("security") && operation["security"].empty();
      described.insert(absl::StrCat(method, " ", path, is_open ? " open" : ""));
    }
  }
  for (const ApiPath& path : ApiPaths()) {
    routed.insert(absl::StrCat(path.is_post ? "post " : "get ", std::string(path.path), path.is_open ? " open" : ""));
  }
  Strings differences;
  for (const std::string& path : described) {
    if (routed.count(path) == 0) differences.push_back(absl::StrCat(path, " is described and not routed"));
  }
  for (const std::string& path : routed) {
    if (described.count(path) == 0) differences.push_back(absl::StrCat(path, " is routed and not described"));
  }
  return differences;
}

Strings DifferencesOfFields(const Json& document) {
  Strings differences;
  for (const Reader& reader : Readers()) {
    const std::set<std::string> described = PropertyNames(document, Named(document, reader.schema));
    Json body = reader.base;
    // stream_options is read where there is one.
    if (reader.schema == "CompletionRequest") body["stream_options"] = Json::object();
    if (reader.schema == "ChatRequest") body["stream_options"] = Json::object();
    FieldReader fields(body);
    EXPECT_TRUE(reader.read(fields).ok()) << reader.schema;
    const Strings known = fields.KnownFields();
    for (const std::string& name : known) {
      if (described.count(name) == 0)
        differences.push_back(absl::StrCat(reader.schema, ": ", name, " is not described"));
    }
    for (const std::string& name : described) {
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        differences.push_back(absl::StrCat(reader.schema, ": ", name, " is not read"));
      }
    }
  }
  return differences;
}

// The schemas of one property, which may be in several parts of its object's.
void FindProperty(const Json& document, const Json& unresolved, const std::string& name, Json* parts) {
  const Json& schema = Resolve(document, unresolved);
  for (const Json& part : Parts(schema)) FindProperty(document, part, name, parts);
  const Json properties = schema.value("properties", Json::object());
  if (properties.contains(name)) parts->push_back(properties[name]);
}

// Values of every kind, and those at and beyond the bounds that `unresolved` has anywhere.
void AddCandidates(const Json& document, const Json& unresolved, Json* values) {
  const Json& schema = Resolve(document, unresolved);
  const auto number = [&](const Json& bound, int step) {
    values->push_back(bound);
    // What is a whole number of 64 bits is taken as one only where it is written as one.
    if (std::abs(bound.get<double>()) > 1e15) return values->push_back(bound.get<double>() * 2);
    if (bound.is_number_integer()) values->push_back(bound.get<int64_t>() + step);
    values->push_back(std::nextafter(bound.get<double>(), step * std::numeric_limits<double>::infinity()));
    if (bound.is_number_float()) values->push_back(bound.get<double>() * (step > 0 ? 1.001 : 0.999));
    values->push_back(bound.get<double>() + step * 0.5);
  };
  const auto repeated = [&](const Json& item, int64_t count) {
    Json array = Json::array();
    for (int64_t i = 0; i < count; ++i) array.push_back(item);
    values->push_back(array);
  };
  for (const auto& [key, rule] : schema.items()) {
    if (key == "minimum") number(rule, -1);
    if (key == "maximum") number(rule, 1);
    if (key == "minLength" || key == "maxLength") {
      for (const int64_t more : {-1, 0, 1}) {
        values->push_back(std::string(std::max<int64_t>(0, rule.get<int64_t>() + more), 'x'));
      }
    }
    if (key == "enum") values->insert(values->end(), rule.begin(), rule.end());
    if (key == "const") values->push_back(rule);
    if (key == "maxItems") {
      for (const Json& item : {Json("x"), Json(7), Json({{"role", "user"}, {"content", "a"}})}) {
        for (const int64_t more : {0, 1}) repeated(item, rule.get<int64_t>() + more);
      }
    }
    if (key == "maxProperties") {
      Json object = Json::object();
      for (int64_t i = 0; i < rule.get<int64_t>(); ++i) object[absl::StrCat(i)] = 1;
      values->push_back(object);
      object["100000"] = 1;
      values->push_back(object);
    }
    if (key == "items" || key == "additionalProperties") {
      Json inner = Json::array();
      AddCandidates(document, rule, &inner);
      for (const Json& value : inner) values->push_back(key == "items" ? Json::array({value}) : Json({{"7", value}}));
    }
    if (key == "properties") {
      for (const auto& [name, property] : rule.items()) {
        Json inner = Json::array();
        AddCandidates(document, property, &inner);
        for (const Json& value : inner) values->push_back({{name, value}});
      }
    }
    if (key == "oneOf" || key == "allOf") {
      for (const Json& part : rule) AddCandidates(document, part, values);
    }
  }
  for (const char* kind :
       {"null", "true", "false", "\"\"",    "\"x\"", "\"auto\"", "0",    "1",  "1.0",        "1.5",           "-1",
        "1e30", "[]",   "[1]",   "[\"x\"]", "[[]]",  "[null]",   "[{}]", "{}", "{\"x\": 1}", "{\"7\": \"x\"}"}) {
    values->push_back(Json::parse(kind));
  }
}

std::string Shortened(const Json& value) {
  const std::string text = value.dump();
  return text.size() <= 100 ? text : text.substr(0, 100) + "...";
}

// Field by field: whether the schema and the code take the same values.
Strings DifferencesOfValues(const Json& document, int* num_tried) {
  // What a field needs beside it. Empty: its own value.
  const std::map<std::string, std::pair<std::string, Json>> companions = {
      {"best_of", {"n", ""}},
      {"logprobs", {"top_logprobs", nullptr}},
      {"stream", {"stream_options", nullptr}},
      {"prompt", {"messages", nullptr}},
      {"continue_final_message", {"add_generation_prompt", false}},
  };
  Strings differences;
  for (const Reader& reader : Readers()) {
    const Json& schema = Named(document, reader.schema);
    for (const std::string& name : PropertyNames(document, schema)) {
      if (absl::StrContains(name, ".")) continue;
      Json parts = Json::array(), values = Json::array();
      FindProperty(document, schema, name, &parts);
      for (const Json& part : parts) AddCandidates(document, part, &values);
      for (const Json& value : values) {
        Json body = reader.base;
        if (const auto it = companions.find(name); it != companions.end()) {
          const auto& [companion, its_value] = it->second;
          body[companion] = its_value == "" ? value : its_value;
        }
        body[name] = value;
        FieldReader fields(body);
        const absl::Status status = reader.read(fields);
        const bool admitted = Admits(document, schema, body);
        ++*num_tried;
        if (status.ok() == admitted) continue;
        differences.push_back(absl::StrCat(reader.schema, ": ", name, " of ", Shortened(value), " is ",
                                           admitted ? "admitted" : "not admitted", " and the code says ",
                                           status.ToString()));
      }
    }
  }
  return differences;
}

void CompareMessage(const Json& document, const google::protobuf::Descriptor& message, Strings* differences) {
  using Field = google::protobuf::FieldDescriptor;
  const Json schema = document["components"]["schemas"].value(message.name(), Json::object());
  const auto say = [&](const std::string& name, const char* what) {
    differences->push_back(absl::StrCat(message.name(), ".", name, " ", what));
  };
  const Json properties = schema.value("properties", Json::object());
  std::set<std::string> names;
  for (int i = 0; i < message.field_count(); ++i) {
    const Field& field = *message.field(i);
    names.insert(field.name());
    if (!properties.contains(field.name())) {
      say(field.name(), "is not described");
      continue;
    }
    const Json required = schema.value("required", Json::array());
    if (std::find(required.begin(), required.end(), field.name()) == required.end()) say(field.name(), "is optional");
    Json property = properties[field.name()];
    if (field.is_repeated()) property = property.value("items", Json());
    static const std::map<Field::CppType, std::string> kTypes = {
        {Field::CPPTYPE_STRING, "string"},  {Field::CPPTYPE_BOOL, "boolean"}, {Field::CPPTYPE_UINT32, "integer"},
        {Field::CPPTYPE_UINT64, "integer"}, {Field::CPPTYPE_FLOAT, "number"}, {Field::CPPTYPE_DOUBLE, "number"}};
    if (const auto type = kTypes.find(field.cpp_type()); type != kTypes.end()) {
      if (property.value("type", "") != type->second) say(field.name(), "has another type");
      continue;
    }
    const std::string wanted =
        field.message_type() != nullptr ? field.message_type()->name() : field.enum_type()->name();
    if (property.value("$ref", "") != "#/components/schemas/" + wanted) say(field.name(), "has another type");
    if (field.message_type() != nullptr) {
      CompareMessage(document, *field.message_type(), differences);
    } else {
      Json expected = Json::array();
      for (int j = 0; j < field.enum_type()->value_count(); ++j)
        expected.push_back(field.enum_type()->value(j)->name());
      if (Named(document, wanted)["enum"] != expected) say(field.name(), "has other values");
    }
  }
  for (const auto& [name, property] : properties.items()) {
    if (names.count(name) == 0) say(name, "is not in the message");
  }
}

Strings DifferencesOfMessages(const Json& document) {
  Strings differences;
  CompareMessage(document, *v1::ClusterLoad::descriptor(), &differences);
  return differences;
}

TEST(OpenApi, DescribesThePathsThatAreRoutedAndNoOthers) {
  EXPECT_THAT(DifferencesOfPaths(Document()), IsEmpty());
  Json wrong = Document();
  wrong["paths"].erase("/load");
  wrong["paths"]["/metrics"]["post"] = wrong["paths"]["/metrics"]["get"];
  wrong["paths"]["/health"]["get"].erase("security");
  EXPECT_THAT(DifferencesOfPaths(wrong),
              ElementsAre("get /health is described and not routed", "post /metrics is described and not routed",
                          "get /health open is routed and not described", "get /load is routed and not described"));
}

TEST(OpenApi, DescribesTheFieldsThatRequestsHaveAndNoOthers) {
  EXPECT_THAT(DifferencesOfFields(Document()), IsEmpty());
  Json wrong = Document();
  Json& schemas = wrong["components"]["schemas"];
  schemas["GenerationFields"]["properties"].erase("seed");
  schemas["DetokenizeRequest"]["properties"]["unheard_of"] = Json::object();
  schemas["GenerationFields"]["properties"]["stream_options"]["properties"].erase("include_usage");
  EXPECT_THAT(
      DifferencesOfFields(wrong),
      ElementsAre("ChatRequest: seed is not described", "ChatRequest: stream_options.include_usage is not described",
                  "CompletionRequest: seed is not described",
                  "CompletionRequest: stream_options.include_usage is not described",
                  "DetokenizeRequest: unheard_of is not read"));
}

TEST(OpenApi, AdmitsTheValuesThatTheCodeTakesAndNoOthers) {
  int num_tried = 0;
  EXPECT_THAT(DifferencesOfValues(Document(), &num_tried), IsEmpty());
  EXPECT_GT(num_tried, 4000);
  Json wrong = Document();
  Json& fields = wrong["components"]["schemas"]["GenerationFields"]["properties"];
  fields["n"]["maximum"] = 17;
  fields["top_p"]["type"] = "number";
  fields["priority"].erase("minimum");
  fields["priority"]["description"] = "No bound, so nothing beyond it is tried; its type still is.";
  fields["stop"]["maxItems"] = 15;
  fields["acceptance"]["enum"].push_back("sometimes");
  const Strings differences = DifferencesOfValues(wrong, &num_tried);
  for (const char* expected :
       {"ChatRequest: n of 17 is admitted", "ChatRequest: top_p of null is not admitted",
        "ChatRequest: stop of [\"x\",", "ChatRequest: acceptance of \"sometimes\" is admitted"}) {
    EXPECT_THAT(differences, Contains(HasSubstr(expected)));
  }
}

TEST(OpenApi, DescribesTheClusterAsItsMessagesAre) {
  EXPECT_THAT(DifferencesOfMessages(Document()), IsEmpty());
  Json wrong = Document();
  Json& schemas = wrong["components"]["schemas"];
  schemas["RouterLoad"]["properties"].erase("tokens_waiting");
  schemas["ClusterLoad"]["properties"]["serving"]["type"] = "string";
  schemas["DraftWorker"]["properties"]["extra"] = Json::object();
  schemas["WorkerState"]["enum"].erase(2);
  EXPECT_THAT(DifferencesOfMessages(wrong),
              ElementsAre("ClusterLoad.serving has another type", "RouterLoad.tokens_waiting is not described",
                          "GroupStatus.state has other values", "DraftWorker.state has other values",
                          "DraftWorker.extra is not in the message"));
}

TEST(OpenApi, NamesTheFilesOfThePage) {
  const Json document = Document();
  std::set<std::string> described, files;
  for (const Json& name : document["paths"]["/page/{file}"]["get"]["parameters"][0]["schema"]["enum"]) {
    described.insert("/page/" + name.get<std::string>());
  }
  for (const PageFile& file : PageFiles()) files.insert(std::string(file.path));
  files.erase("/");
  EXPECT_EQ(described, files);
}

TEST(OpenApi, DescribesEveryStatusThatAnErrorMayHave) {
  const Json document = Document();
  const Json& responses = document["paths"]["/v1/completions"]["post"]["responses"];
  for (int code = 1; code <= 16; ++code) {
    const ApiError error = ToApiError(absl::Status(static_cast<absl::StatusCode>(code), "why"));
    // The client of a cancelled request is gone.
    EXPECT_TRUE(error.status == 499 || responses.contains(absl::StrCat(error.status))) << error.status;
    EXPECT_TRUE(Admits(document, Named(document, "Error"), Json::parse(RenderError(error)))) << RenderError(error);
  }
}

TEST(OpenApi, IsOfThisVersionAndRefersToWhatItHas) {
  const Json document = Document();
  EXPECT_EQ(document["info"]["version"], kProgramVersion);
  int num_references = 0;
  const std::function<void(const Json&)> walk = [&](const Json& node) {
    if (node.is_object() && node.contains("$ref")) {
      ++num_references;
      EXPECT_NO_THROW(Resolve(document, node)) << node;
    }
    if (node.is_structured()) {
      for (const auto& [key, child] : node.items()) walk(child);
    }
  };
  walk(document);
  EXPECT_GT(num_references, 100);
}

}  // namespace
}  // namespace outrider::router
