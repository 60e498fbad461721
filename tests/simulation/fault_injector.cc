#include "tests/simulation/fault_injector.h"

#include <algorithm>
#include <utility>

namespace outrider::simulation {
namespace {

// A fault "at any event" comes after one of so many events from the workload's start.
constexpr int kEventsMax = 4000;

}  // namespace

void FaultInjector::Plan(const Scenario& scenario, TimePoint start) {
  last_end_ = start;
  for (const Fault& fault : scenario.faults()) {
    const int count = fault.has_count() ? random_.Between(static_cast<int>(fault.count().min()),
                                                          static_cast<int>(fault.count().max()))
                                        : 1;
    for (int i = 0; i < count; ++i) {
      ++num_pending_;
      const auto begin = [this, &fault] { Begin(fault); };
      if (fault.at_any_event()) {
        by_event_.emplace_back(world_.queue.num_events() + random_.Below(kEventsMax), begin);
      } else {
        world_.queue.At(start + Draw(fault.at_ms()), nullptr, begin);
      }
    }
  }
  std::stable_sort(by_event_.begin(), by_event_.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
}

std::vector<FaultInjector::Victim> FaultInjector::VictimsOf(Fault::Role role) {
  std::vector<Victim> victims;
  if (role == Fault::ROUTER || role == Fault::ANY) {
    victims.push_back({.process = &cluster_.router->process(), .is_router = true});
  }
  for (const auto& target : cluster_.targets) {
    if (role == Fault::DRAFT || role == Fault::ROUTER || role == Fault::CLIENTS) break;
    const int num_ranks = role == Fault::GROUP ? 1 : target->num_ranks();
    for (int rank = 0; rank < num_ranks; ++rank) {
      victims.push_back({.process = &target->process(rank), .target = target.get()});
    }
  }
  if (role == Fault::DRAFT || role == Fault::ANY) {
    for (const auto& draft : cluster_.drafts) victims.push_back({.process = &draft->process(), .draft = draft.get()});
  }
  if (role == Fault::CLIENTS) victims.push_back({.process = cluster_.clients});
  return victims;
}

void FaultInjector::Begin(const Fault& fault) {
  ++num_faults_;
  std::vector<Victim> victims = VictimsOf(fault.role());
  if (victims.empty()) {
    --num_pending_;
    return;
  }
  if (!fault.all()) victims = {victims[random_.Below(static_cast<int>(victims.size()))]};
  num_pending_ += static_cast<int>(victims.size()) - 1;
  for (const Victim& victim : victims) BeginOn(fault, victim);
}

// The end of what began; the fault is over then.
void FaultInjector::EndAfter(Duration duration, std::function<void()> end) {
  world_.queue.After(duration, nullptr, [this, end = std::move(end)] {
    end();
    --num_pending_;
    last_end_ = world_.queue.now();
  });
}

Process* FaultInjector::Peer(const Fault& fault, const Victim& victim) {
  std::vector<Process*> peers;
  for (const Victim& peer : VictimsOf(fault.peer())) {
    if (peer.process != victim.process) peers.push_back(peer.process);
  }
  return peers.empty() ? nullptr : peers[random_.Below(static_cast<int>(peers.size()))];
}

void FaultInjector::BeginOn(const Fault& fault, Victim victim) {
  const Duration duration = Draw(fault.duration_ms());
  Process& process = *victim.process;
  const auto nothing = [] {};
  world_.Say(process, "fault", {{"kind", fault.kind()}});
  world_.trace.Note(world_.queue.now(), process.name, Fault::Kind_Name(fault.kind()));
  const bool breaks_router = victim.is_router || fault.peer() == Fault::CLIENTS;
  switch (fault.kind()) {
    case Fault::CRASH:
      world_.router_may_break_streams |= victim.is_router;
      world_.End(process);
      return EndAfter(Duration::zero(), nothing);
    case Fault::STOP:
      world_.Stop(process);
      return EndAfter(duration, [this, &process] { world_.Continue(process); });
    case Fault::TERMINATE:
      if (process.stopped) return EndAfter(Duration::zero(), nothing);
      if (victim.target != nullptr) victim.target->Terminate();
      if (victim.draft != nullptr) victim.draft->Terminate();
      if (victim.is_router) cluster_.router->Terminate();
      return EndAfter(Duration::zero(), nothing);
    case Fault::SILENT_LOSS: {
      world_.router_may_break_streams |= victim.is_router;
      std::vector<Process*> lost = {&process};
      Supervision* supervision = &cluster_.router->supervision();
      if (victim.draft != nullptr) supervision = &victim.draft->supervision();
      if (victim.target != nullptr) {
        supervision = &victim.target->supervision();
        for (int rank = 0; rank < victim.target->num_ranks(); ++rank) lost.push_back(&victim.target->process(rank));
      }
      if (!process.alive) return EndAfter(Duration::zero(), nothing);
      supervision->Disown();
      for (Process* one : lost) world_.End(*one, /*silent=*/true);
      return EndAfter(duration, [supervision] { supervision->StartNow(); });
    }
    case Fault::PARTITION:
    case Fault::HALF_OPEN: {
      world_.router_may_break_streams |= breaks_router;
      Process* const peer = Peer(fault, victim);
      if (peer == nullptr) return EndAfter(Duration::zero(), nothing);
      const bool there = fault.kind() == Fault::PARTITION || random_.Chance(0.5);
      const bool back = fault.kind() == Fault::PARTITION || !there;
      if (there) world_.network.Cut(process, *peer);
      if (back) world_.network.Cut(*peer, process);
      return EndAfter(duration, [this, &process, peer] {
        world_.network.Mend(process, *peer);
        world_.network.Mend(*peer, process);
      });
    }
    case Fault::SLOW_LINK: {
      Process* const peer = Peer(fault, victim);
      if (peer == nullptr) return EndAfter(Duration::zero(), nothing);
      world_.network.SlowDown(process, *peer, Draw(fault.delay_ms()));
      return EndAfter(duration, [this, &process, peer] { world_.network.SlowDown(process, *peer, Duration::zero()); });
    }
    case Fault::LIE:
      if (victim.draft == nullptr) return EndAfter(Duration::zero(), nothing);
      victim.draft->set_lies(fault.share());
      return EndAfter(duration, [victim] { victim.draft->set_lies(0); });
    case Fault::SLOW: {
      const double factor = fault.factor().min() + (fault.factor().max() - fault.factor().min()) * random_.Unit();
      if (victim.target != nullptr) victim.target->set_slowness(factor);
      if (victim.draft != nullptr) victim.draft->set_slowness(factor);
      return EndAfter(duration, [victim] {
        if (victim.target != nullptr) victim.target->set_slowness(1);
        if (victim.draft != nullptr) victim.draft->set_slowness(1);
      });
    }
    case Fault::SWIZZLE: {
      world_.router_may_break_streams |= breaks_router;
      const std::vector<Victim> others = VictimsOf(Fault::ANY);
      num_pending_ += static_cast<int>(others.size());
      for (const Victim& other : others) {
        world_.queue.After(random_.Within(0, ToMillis(duration)), nullptr, [this, &process, other, duration] {
          if (other.process != &process) {
            world_.network.Cut(process, *other.process);
            world_.network.Cut(*other.process, process);
          }
          EndAfter(duration + random_.Within(0, ToMillis(duration)), [this, &process, other] {
            world_.network.Mend(process, *other.process);
            world_.network.Mend(*other.process, process);
          });
        });
      }
      return EndAfter(duration, nothing);
    }
  }
}

}  // namespace outrider::simulation
