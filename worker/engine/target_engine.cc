#include "worker/engine/target_engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace outrider {
namespace {

const char* OutcomeName(const SequenceUpdate& update) {
  if (update.finish) {
    switch (*update.finish) {
      case FinishReason::kEndToken:
        return "end_token";
      case FinishReason::kStopToken:
        return "stop_token";
      case FinishReason::kStopString:
        return "stop_string";
      case FinishReason::kLength:
        return "length";
      case FinishReason::kCancelled:
        return "cancelled";
    }
  }
  switch (update.error.code()) {
    case absl::StatusCode::kDeadlineExceeded:
      return "deadline_exceeded";
    case absl::StatusCode::kResourceExhausted:
      return "resource_exhausted";
    case absl::StatusCode::kUnavailable:
      return "unavailable";
    case absl::StatusCode::kInvalidArgument:
      return "invalid_argument";
    default:
      return "internal";
  }
}

}  // namespace

TargetEngine::TargetEngine(const Options& options, Inbox& inbox, StepBackend& backend, const Clock& clock,
                           EngineMetrics& metrics)
    : inbox_(inbox),
      backend_(backend),
      clock_(clock),
      metrics_(metrics),
      tracer_(options.tracer),
      scheduler_(options.scheduler),
      draft_planner_(options.drafts) {
  CHECK(backend.depth() <= 1);
  prediction_source_id_ = draft_planner_.AddPredictionSource(&prediction_source_);
  if (options.ngram_draft) draft_planner_.AddSource(&ngram_source_, /*in_process=*/true);
}

TargetEngine::~TargetEngine() = default;

absl::Status TargetEngine::Run() {
  while (true) {
    ASSIGN_OR_RETURN(const Next next, Step());
    if (next == Next::kEnd) return absl::OkStatus();
    if (next == Next::kSleep) inbox_.WaitUntil(scheduler_.NextDeadline());
  }
}

absl::StatusOr<TargetEngine::Next> TargetEngine::Step() {
  const absl::StatusOr<bool> busy = RunTurn();
  if (!busy.ok()) {
    const std::string reason = absl::StrCat("the group's epoch has ended: ", busy.status().message());
    inbox_.CloseToSubmissions(reason);
    FailAll(absl::UnavailableError(reason));
    return busy.status();
  }
  if (stopped_) {
    FailAll(absl::UnavailableError("draining: the group is stopping"));
    RETURN_IF_ERROR(CollectRest());
    return Next::kEnd;
  }
  if (*busy) return Next::kTurn;
  if (draining_ && lanes_.empty()) return Next::kEnd;
  MutexLock lock(mu_);
  turn_began_.reset();
  return Next::kSleep;
}

void TargetEngine::Drain() {
  draining_ = true;
  inbox_.CloseToSubmissions("draining: the group takes nothing new");
}

void TargetEngine::Stop() {
  stopped_ = true;
  inbox_.CloseToSubmissions("draining: the group is stopping");
}

absl::StatusOr<bool> TargetEngine::RunTurn() {
  const TimePoint now = clock_.Now();
  {
    MutexLock lock(mu_);
    turn_began_ = now;
  }
  DrainInbox(now);
  draft_planner_.TakeProposals([this](SequenceId id) { return scheduler_.Find(id); }, now, draft_decisions_);
  ApplyDraftDecisions();
  NoticeLostPeers();

  const StepPlan* plan = nullptr;
  if (steps_out_.empty() || PlansAhead()) plan = &scheduler_.PlanStep(now);
  const bool planned = plan != nullptr && !plan->empty();
  Digest(now, now);
  bool collects = !planned && !steps_out_.empty();
  if (planned) {
    steps_out_.push_back({plan, now});
    if (steps_out_.size() == 1 && !PlansAhead()) {
      RETURN_IF_ERROR(Apply(backend_.SubmitAndCollect(*plan)));
    } else {
      RETURN_IF_ERROR(backend_.Submit(*plan));
      collects = static_cast<int>(steps_out_.size()) > backend_.depth();
    }
  }
  if (collects) RETURN_IF_ERROR(Apply(backend_.Collect()));
  Publish();
  return planned || collects;
}

bool TargetEngine::PlansAhead() const { return backend_.depth() > 0 && scheduler_.MayPlanAhead(); }

absl::Status TargetEngine::Apply(const absl::StatusOr<StepResult>& result) {
  RETURN_IF_ERROR(result.status());
  const TimePoint collected = clock_.Now();
  const StepOut step = steps_out_.front();
  steps_out_.pop_front();
  // With a step before it in the way, a step began when that one ended.
  const TimePoint began = std::max(step.submitted, last_collected_);
  last_collected_ = collected;
  metrics_.StepTook(*step.plan, *result, collected - began);
  RETURN_IF_ERROR(scheduler_.ApplyResult(*result, collected));
  Digest(collected, began);
  return absl::OkStatus();
}

void TargetEngine::DrainInbox(TimePoint now) {
  for (InboxEvent& event : inbox_.Drain()) {
    std::visit([this, now](auto& e) { Take(std::move(e), now); }, event);
  }
}

void TargetEngine::Take(SubmitEvent event, TimePoint now) {
  if (event.trace.has_value() && event.trace->sampled) event.request.trace = event.trace;
  // Time in the inbox counts as time in the queue.
  const auto sequences = scheduler_.Submit(event.request, std::min(now, event.received));
  if (!sequences.ok()) {
    for (const RequestLane& lane : event.request.lanes) {
      event.stream->Append({event.id, lane.lane}, FailedEvent{.status = sequences.status()});
      metrics_.RequestEnded(OutcomeName({.error = sequences.status()}));
    }
    Touch(event.stream);
    return;
  }
  requests_[{event.stream.get(), event.id}] = *sequences;
  for (size_t i = 0; i < sequences->size(); ++i) {
    const uint32_t lane_index = event.request.lanes[i].lane;
    Lane& lane = lanes_[(*sequences)[i]];
    lane = {.stream = event.stream, .id = {event.id, lane_index}, .received = event.received};
    if (tracer_ == nullptr || !event.trace.has_value() || !event.trace->sampled) continue;
    lane.trace =
        std::make_unique<LaneTrace>(tracer_, *event.trace, lane_index, static_cast<int>(event.request.prompt.size()),
                                    event.received, WallClock(clock_.Now(), std::chrono::system_clock::now()));
  }
}

void TargetEngine::Take(CancelEvent event, TimePoint) {
  const auto request = requests_.find({event.stream.get(), event.id});
  if (request == requests_.end()) return;
  for (SequenceId sequence : request->second) scheduler_.Cancel(sequence);
}

void TargetEngine::Take(StopAtEvent event, TimePoint) {
  const auto request = requests_.find({event.stream.get(), event.id.request});
  if (request == requests_.end()) return;
  for (SequenceId sequence : request->second) {
    const auto lane = lanes_.find(sequence);
    if (lane == lanes_.end() || lane->second.id != event.id) continue;
    const absl::Status status = scheduler_.StopAt(sequence, event.num_output_tokens);
    if (!status.ok()) scheduler_.Fail(sequence, status);
  }
}

void TargetEngine::Take(StreamLostEvent event, TimePoint) {
  for (const auto& [sequence, lane] : lanes_) {
    if (lane.stream == event.stream) scheduler_.Cancel(sequence);
  }
}

void TargetEngine::Take(AttachSourceEvent event, TimePoint now) {
  Take(DetachSourceEvent{event.name}, now);
  AttachedSource& attached = sources_[event.name];
  attached.id = draft_planner_.AddSource(event.source.get(), /*in_process=*/false);
  attached.source = std::move(event.source);
}

void TargetEngine::Take(DetachSourceEvent event, TimePoint) {
  const auto attached = sources_.find(event.name);
  if (attached == sources_.end()) return;
  draft_planner_.RemoveSource(attached->second.id);
  sources_.erase(attached);
  EndDraftWaits();
}

void TargetEngine::NoticeLostPeers() {
  bool lost = false;
  for (auto& [name, attached] : sources_) {
    const uint64_t connection = attached.source->connection();
    if (attached.connection == connection) continue;
    lost |= attached.connection != 0;
    attached.connection = connection;
  }
  if (lost) EndDraftWaits();
}

void TargetEngine::EndDraftWaits() {
  for (const auto& [sequence, lane] : lanes_) scheduler_.OfferDraft({.sequence = sequence});
}

void TargetEngine::ApplyDraftDecisions() {
  for (const DraftGrant& grant : draft_decisions_.grants) scheduler_.GrantDraft(grant);
  for (DraftOffer& offer : draft_decisions_.offers) scheduler_.OfferDraft(std::move(offer));
  draft_decisions_.clear();
}

void TargetEngine::Digest(TimePoint now, TimePoint step_began) {
  while (true) {
    std::vector<SequenceUpdate> updates = scheduler_.TakeUpdates();
    if (updates.empty()) break;
    draft_planner_.AfterUpdates(
        updates, [this](SequenceId id) { return scheduler_.Find(id); }, scheduler_.decode_cost(),
        scheduler_.num_running(), now, draft_decisions_);
    ApplyDraftDecisions();
    for (SequenceUpdate& update : updates)
      Emit(update, now, step_began);  // may fail sequences: there is more to take then
  }
  for (const StreamPointer& stream : touched_streams_) stream->Flush();
  touched_streams_.clear();
}

void TargetEngine::Emit(SequenceUpdate& update, TimePoint now, TimePoint step_began) {
  const auto found = lanes_.find(update.sequence);
  if (found == lanes_.end()) return;
  Lane& lane = found->second;
  if (update.started) {
    metrics_.Started(update.queue_time);
    if (lane.trace != nullptr) lane.trace->OnStarted(now);
  }
  if (!update.prompt_logprobs.empty()) {
    lane.stream->Append(lane.id, PromptLogprobsEvent{.first_position = update.first_prompt_position,
                                                     .logprobs = std::move(update.prompt_logprobs)});
    Touch(lane.stream);
  }
  if (!update.tokens.empty()) {
    if (lane.trace != nullptr) lane.trace->OnTokens(update, SourceName(update.draft_source), step_began, now);
    const int num_tokens = static_cast<int>(update.tokens.size());
    if (!lane.last_token) {
      metrics_.FirstTokens(num_tokens, now - lane.received);
    } else {
      metrics_.NextTokens(num_tokens, now - *lane.last_token);
    }
    lane.last_token = now;
    const bool taken = lane.stream->Append(lane.id, TokensEvent{.first_output_index = update.first_output_index,
                                                                .tokens = std::move(update.tokens),
                                                                .logprobs = std::move(update.logprobs),
                                                                .num_accepted = update.num_accepted});
    Touch(lane.stream);
    if (!taken) {
      metrics_.SlowReaderCut();
      const absl::Status cut = absl::ResourceExhaustedError(
          "the reader of this stream is too slow: as many output tokens wait for it as may (max_buffered_tokens)");
      if (update.terminal()) {
        // Its tokens are lost to the reader, so it can not count as finished.
        update.finish.reset();
        update.error = cut;
      } else {
        scheduler_.Fail(update.sequence, cut);
        return;
      }
    }
  }
  if (!update.terminal()) return;
  metrics_.RequestEnded(OutcomeName(update));
  if (lane.trace != nullptr) lane.trace->End(update, OutcomeName(update), now);
  Touch(lane.stream);
  if (update.finish) {
    lane.stream->Append(
        lane.id,
        FinishedEvent{.reason = *update.finish, .usage = update.usage, .queue_ms = ToMillis(update.queue_time)});
  } else {
    lane.stream->Append(lane.id, FailedEvent{.status = update.error, .usage = update.usage});
  }
  EndLane(update.sequence);
}

std::string TargetEngine::SourceName(DraftPlanner::DraftSourceId source) const {
  for (const auto& [name, attached] : sources_) {
    if (attached.id == source) return name;
  }
  return source == prediction_source_id_ ? "prediction" : "ngram";
}

void TargetEngine::EndLane(SequenceId sequence) {
  const auto lane = lanes_.find(sequence);
  const auto request = requests_.find({lane->second.stream.get(), lane->second.id.request});
  std::erase(request->second, sequence);
  if (request->second.empty()) requests_.erase(request);
  lanes_.erase(lane);
}

void TargetEngine::Touch(const StreamPointer& stream) {
  // One a router: few.
  if (std::find(touched_streams_.begin(), touched_streams_.end(), stream) != touched_streams_.end()) return;
  touched_streams_.push_back(stream);
}

absl::Status TargetEngine::CollectRest() {
  for (; !steps_out_.empty(); steps_out_.pop_front()) RETURN_IF_ERROR(backend_.Collect().status());
  return absl::OkStatus();
}

void TargetEngine::FailAll(const absl::Status& error) {
  for (InboxEvent& event : inbox_.Drain()) {
    auto* const submit = std::get_if<SubmitEvent>(&event);
    if (submit == nullptr) continue;
    for (const RequestLane& lane : submit->request.lanes) {
      submit->stream->Append({submit->id, lane.lane}, FailedEvent{.status = error});
    }
    Touch(submit->stream);
  }
  std::vector<SequenceId> live;
  for (const auto& [sequence, lane] : lanes_) live.push_back(sequence);
  for (SequenceId sequence : live) scheduler_.Fail(sequence, error);
  const TimePoint now = clock_.Now();
  Digest(now, now);
}

void TargetEngine::Publish() {
  const KvAllocator& kv = scheduler_.kv();
  EngineLoad load;
  load.num_running = scheduler_.num_running();
  load.num_waiting = scheduler_.num_waiting();
  load.num_outstanding_tokens = scheduler_.num_queued_tokens();
  load.kv_used_ratio = static_cast<float>(kv.num_used_blocks()) / static_cast<float>(kv.num_blocks());
  load.kv_cached_ratio = static_cast<float>(kv.num_cached_blocks()) / static_cast<float>(kv.num_blocks());
  load.num_sources = static_cast<int>(sources_.size());
  metrics_.Snapshot(load.num_running, load.num_waiting, load.kv_used_ratio, load.kv_cached_ratio);
  metrics_.Totals(scheduler_.stats(), draft_planner_.stats());
  load.totals = metrics_.totals();
  MutexLock lock(mu_);
  load_ = load;
}

EngineLoad TargetEngine::load() const {
  MutexLock lock(mu_);
  return load_;
}

bool TargetEngine::IsHealthy(Duration patience) const {
  MutexLock lock(mu_);
  return !turn_began_ || clock_.Now() - *turn_began_ < patience;
}

}  // namespace outrider
