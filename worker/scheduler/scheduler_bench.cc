// Time of one turn of the scheduler, PlanStep and ApplyResult, for a batch of sequences that decode.
//
//   bazel run -c opt //worker/scheduler:scheduler_bench
#include <benchmark/benchmark.h>

#include "worker/scheduler/scheduler.h"

namespace outrider {
namespace {

void BM_DecodeTurn(benchmark::State& state) {
  const int num_sequences = static_cast<int>(state.range(0));
  const bool drafts = state.range(1) != 0;
  Scheduler scheduler({.vocab_size = 1000,
                       .max_model_len = 1 << 20,
                       .num_blocks = 1 << 17,
                       .max_sequences = num_sequences,
                       .max_step_tokens = 1 << 16});
  for (int i = 0; i < num_sequences; ++i) {
    Request request;
    request.prompt.assign(100, i);
    request.params.max_tokens = 1 << 14;
    request.lanes.resize(1);
    if (!scheduler.Submit(request, TimePoint{}).ok()) state.SkipWithError("refused");
  }
  double now = 0;
  StepResult result;
  for (auto _ : state) {
    now += 1;
    if (drafts) {
      for (int i = 1; i <= num_sequences; ++i) {
        const Sequence* sequence = scheduler.Find(SequenceId(i));
        if (sequence == nullptr) continue;
        scheduler.GrantDraft({sequence->id(), 4, TimePoint{}});
        scheduler.OfferDraft({sequence->id(), 0, {sequence->num_tokens(), {1, 2, 3, 4}}});
      }
    }
    const StepPlan& plan = scheduler.PlanStep(TimePoint{} + FromMillis(now));
    state.PauseTiming();
    if (plan.spans.empty()) {
      state.SkipWithError("all sequences have ended");
      break;
    }
    result = {.step = plan.step};
    for (const Span& span : plan.spans) {
      SpanResult& r = result.spans.emplace_back(SpanResult{.sequence = span.sequence});
      if (!span.samples) continue;
      r.num_draft_tokens = span.lookahead;
      r.tokens = {7};
    }
    state.ResumeTiming();
    if (!scheduler.ApplyResult(result, TimePoint{} + FromMillis(now + 0.5)).ok()) state.SkipWithError("wrong result");
    benchmark::DoNotOptimize(scheduler.TakeUpdates());
  }
}
BENCHMARK(BM_DecodeTurn)->ArgsProduct({{1, 16, 64, 256}, {0, 1}})->Iterations(5000)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace outrider

BENCHMARK_MAIN();
