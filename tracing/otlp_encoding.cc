#include "tracing/otlp_encoding.h"

#include <type_traits>

namespace outrider {
namespace {

constexpr char kScope[] = "outrider";
// trace.proto, SpanFlags: whether the parent is remote is known, and it is.
constexpr uint32_t kSampledFlag = 0x01;
constexpr uint32_t kRemoteIsKnownFlag = 0x100;
constexpr uint32_t kRemoteFlag = 0x200;

void AppendBigEndian(uint64_t value, std::string* bytes) {
  for (int shift = 56; shift >= 0; shift -= 8) *bytes += static_cast<char>(value >> shift);
}

std::string Bytes(SpanId id) {
  std::string bytes;
  AppendBigEndian(id, &bytes);
  return bytes;
}

std::string Bytes(const TraceId& id) {
  std::string bytes;
  AppendBigEndian(id.high, &bytes);
  AppendBigEndian(id.low, &bytes);
  return bytes;
}

// Bytes of the character that `text` begins with; 0 if it begins with none (RFC 3629, section 4).
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [&](size_t i) -> uint32_t { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0; };
  const auto follows = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  if (byte(0) < 0x80) return 1;
  if (byte(0) >= 0xc2 && byte(0) <= 0xdf) return follows(1) ? 2 : 0;
  if (byte(0) >= 0xe0 && byte(0) <= 0xef) {
    const uint32_t least = byte(0) == 0xe0 ? 0xa0 : 0x80;  // no shorter form
    const uint32_t most = byte(0) == 0xed ? 0x9f : 0xbf;   // no surrogates
    return byte(1) >= least && byte(1) <= most && follows(2) ? 3 : 0;
  }
  if (byte(0) >= 0xf0 && byte(0) <= 0xf4) {
    const uint32_t least = byte(0) == 0xf0 ? 0x90 : 0x80;
    const uint32_t most = byte(0) == 0xf4 ? 0x8f : 0xbf;  // up to U+10FFFF
    return byte(1) >= least && byte(1) <= most && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

void SetText(const char* key, absl::string_view text, otlp::KeyValue* attribute) {
  attribute->set_key(key);
  attribute->mutable_value()->set_string_value(MendText(text));
}

void ToOtlp(const SpanAttribute& attribute, otlp::KeyValue* proto) {
  proto->set_key(attribute.name);
  otlp::AnyValue* const value = proto->mutable_value();
  std::visit(
      [value](const auto& held) {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, bool>) {
          value->set_bool_value(held);
        } else if constexpr (std::is_same_v<T, int64_t>) {
          value->set_int_value(held);
        } else if constexpr (std::is_same_v<T, double>) {
          value->set_double_value(held);
        } else if constexpr (std::is_same_v<T, std::string>) {
          value->set_string_value(MendText(held));
        } else {
          otlp::ArrayValue* const array = value->mutable_array_value();
          for (const std::string& text : held) array->add_values()->set_string_value(MendText(text));
        }
      },
      attribute.value);
}

otlp::Span::SpanKind ToOtlp(SpanKind kind) {
  switch (kind) {
    case SpanKind::kServer:
      return otlp::Span::SPAN_KIND_SERVER;
    case SpanKind::kClient:
      return otlp::Span::SPAN_KIND_CLIENT;
    case SpanKind::kInternal:
      break;
  }
  return otlp::Span::SPAN_KIND_INTERNAL;
}

void ToOtlp(const TraceSpan& span, otlp::Span* proto) {
  proto->set_trace_id(Bytes(span.trace));
  proto->set_span_id(Bytes(span.id));
  if (span.parent != 0) proto->set_parent_span_id(Bytes(span.parent));
  proto->set_name(MendText(span.name));
  proto->set_kind(ToOtlp(span.kind));
  proto->set_start_time_unix_nano(static_cast<uint64_t>(span.start_unix_ns));
  proto->set_end_time_unix_nano(static_cast<uint64_t>(span.end_unix_ns));
  for (const SpanAttribute& attribute : span.attributes) ToOtlp(attribute, proto->add_attributes());
  if (span.failed) {
    proto->mutable_status()->set_code(otlp::Status::STATUS_CODE_ERROR);
    proto->mutable_status()->set_message(MendText(span.error));
  }
  proto->set_flags(kSampledFlag | kRemoteIsKnownFlag | (span.parent_is_remote ? kRemoteFlag : 0));
}

}  // namespace

std::string MendText(absl::string_view text) {
  constexpr absl::string_view kReplacement = "\xef\xbf\xbd";
  std::string mended;
  while (!text.empty()) {
    const size_t size = CharacterBytes(text);
    const absl::string_view next = size == 0 ? kReplacement : text.substr(0, size);
    if (mended.size() + next.size() > kMaxTextBytes) break;
    mended.append(next.data(), next.size());
    text.remove_prefix(size == 0 ? 1 : size);
  }
  return mended;
}

void SpansToOtlp(const TraceResource& resource, absl::Span<const TraceSpan> spans,
                 otlp::ExportTraceServiceRequest* request) {
  otlp::ResourceSpans* const proto = request->add_resource_spans();
  otlp::Resource* const who = proto->mutable_resource();
  SetText("service.name", resource.service, who->add_attributes());
  SetText("service.instance.id", resource.instance, who->add_attributes());
  SetText("telemetry.sdk.name", kScope, who->add_attributes());
  SetText("telemetry.sdk.language", "cpp", who->add_attributes());
  otlp::ScopeSpans* const scope = proto->add_scope_spans();
  scope->mutable_scope()->set_name(kScope);
  scope->mutable_spans()->Reserve(static_cast<int>(spans.size()));
  for (const TraceSpan& span : spans) ToOtlp(span, scope->add_spans());
}

}  // namespace outrider
