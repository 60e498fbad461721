// The live map: asks /cluster each second while the page is seen, and shows what it says.
import { byId, count, el, figure, milliseconds, percent, say, setAttribute, setText } from './dom.js';

const kIntervalMs = 1000;
// Shares and rates are of so long, where there was work; else since the start.
const kWindowMs = 30000;

const kStates = {
  WORKER_STATE_SERVING: ['Serving', 'good'],
  WORKER_STATE_SUSPECT: ['Late', 'warn'],
  WORKER_STATE_HELD: ['Held', 'warn'],
  WORKER_STATE_DRAINING: ['Draining', 'warn'],
  WORKER_STATE_UNREACHABLE: ['Unreachable', 'bad'],
  WORKER_STATE_NOT_SERVING: ['Not serving', 'bad'],
};

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

// What a worker counted, over time. A count that falls is a new life.
class History {
  #samples = [];

  add(at, counts) {
    const last = this.#samples[this.#samples.length - 1];
    if (last !== undefined && counts.committed < last.counts.committed) this.#samples = [];
    this.#samples.push({ at, counts });
    while (this.#samples.length > 2 && at - this.#samples[1].at >= kWindowMs) this.#samples.shift();
  }

  get #first() { return this.#samples[0]; }
  get #last() { return this.#samples[this.#samples.length - 1]; }

  // A second, over the last few; null before two samples.
  rate(name, windowMs = 3000) {
    const last = this.#last;
    const from = this.#samples.find((sample) => last.at - sample.at <= windowMs) || this.#first;
    return from === last ? null : (1000 * (last.counts[name] - from.counts[name])) / (last.at - from.at);
  }

  // Counts of the window if any round was in it, else of the group's life.
  recent() {
    const first = this.#first.counts;
    const last = this.#last.counts;
    if (last.rounds === first.rounds) return { ...last, isRecent: false };
    const minus = (to, from) => to.map((number, i) => number - (from[i] || 0));
    return {
      rounds: last.rounds - first.rounds,
      hidden: last.hidden - first.hidden,
      drafted: minus(last.drafted, first.drafted),
      accepted: minus(last.accepted, first.accepted),
      isRecent: true,
    };
  }
}

// A bar with its words. `of` 1 is full.
class Meter {
  constructor(name) {
    this.fill = el('span', { class: 'fill' });
    this.value = el('span', { class: 'value' });
    this.bar = el('span', { class: 'track', role: 'meter', 'aria-label': name, 'aria-valuemin': '0',
      'aria-valuemax': '100' }, this.fill);
    this.element = el('div', { class: 'meter' }, el('span', { class: 'name' }, name), this.value, this.bar);
  }

  set(ratio, words) {
    const known = ratio === null || !Number.isFinite(ratio) ? 0 : Math.max(0, Math.min(1, ratio));
    this.fill.style.setProperty('--ratio', String(known));
    setAttribute(this.bar, 'aria-valuenow', String(Math.round(100 * known)));
    setAttribute(this.bar, 'aria-valuetext', words);
    setText(this.value, words);
  }
}

class Card {
  constructor(kind, id) {
    this.name = el('h4', {}, id);
    this.state = el('span', { class: 'pill' });
    this.element = el('article', { class: `card ${kind}`, 'data-id': id, 'aria-label': `${kind} ${id}` },
      el('header', {}, this.name, this.state));
  }

  setState(state) {
    const [words, mood] = kStates[state] || [state, 'warn'];
    setText(this.state, words);
    setAttribute(this.state, 'data-mood', mood);
    setAttribute(this.element, 'data-state', state);
  }

  facts(...names) {
    const list = el('dl', { class: 'facts' });
    const values = names.map((name) => {
      const value = el('dd', {}, '–');
      list.append(el('div', {}, el('dt', {}, name), value));
      return value;
    });
    this.element.append(list);
    return values;
  }
}

class RouterCard extends Card {
  constructor() {
    super('router', 'router');
    [this.open, this.waiting, this.rate, this.total] =
      this.facts('Requests', 'Waiting', 'Tokens/s', 'Tokens so far');
    this.history = new History();
  }

  update(cluster, at) {
    const { router } = cluster;
    this.setState(cluster.serving ? 'WORKER_STATE_SERVING' : 'WORKER_STATE_NOT_SERVING');
    this.history.add(at, { committed: router.output_tokens_total });
    setText(this.open, figure(router.requests_open));
    setText(this.waiting, figure(router.requests_waiting));
    setText(this.rate, figure(this.history.rate('committed')));
    setText(this.total, figure(router.output_tokens_total));
  }
}

class GroupCard extends Card {
  constructor(id) {
    super('group', id);
    this.ranks = el('ul', { class: 'ranks', 'aria-label': 'Ranks' });
    this.element.append(this.ranks);
    [this.rate, this.length, this.preempted] = this.facts('Tokens/s', 'Per round', 'Preempted');
    this.load = new Meter('Sequences');
    this.kv = new Meter('KV cache');
    this.hidden = new Meter('Drafts hidden');
    this.hidden.element.classList.add('hidden-share');
    this.hidden.element.title = 'Rounds whose draft was there when the target wanted it: nothing waited for them';
    this.element.append(this.load.element, this.kv.element, this.hidden.element);
    this.bars = el('ol', { class: 'bars' });
    this.caption = el('figcaption', {});
    this.chart = el('figure', { class: 'chart' }, this.caption, this.bars);
    this.element.append(this.chart);
    this.history = new History();
  }

  update(group, at) {
    this.setState(group.state);
    this.setRanks(group.ranks);
    this.history.add(at, {
      committed: group.committed_tokens_total,
      rounds: group.rounds_total,
      hidden: group.hidden_rounds_total,
      drafted: group.draft_tokens_by_position,
      accepted: group.accepted_tokens_by_position,
    });
    const { sequences_running: running, sequences_waiting: waiting, max_sequences: most } = group;
    this.load.set((running + waiting) / most, `${running} of ${most}${waiting > 0 ? `, ${waiting} wait` : ''}`);
    this.kv.set(group.kv_cache_used_ratio, percent(group.kv_cache_used_ratio));
    const recent = this.history.recent();
    const hidden = recent.rounds > 0 ? recent.hidden / recent.rounds : null;
    this.hidden.set(hidden, percent(hidden));
    const rate = this.history.rate('committed');
    setText(this.rate, figure(rate));
    this.element.toggleAttribute('data-busy', rate > 0);
    setText(this.length, figure(recent.rounds > 0 ? 1 + sum(recent.accepted) / recent.rounds : null));
    setText(this.preempted, figure(group.preemptions_total));
    this.setBars(recent);
  }

  setRanks(numRanks) {
    while (this.ranks.childElementCount > numRanks) this.ranks.lastElementChild.remove();
    for (let rank = this.ranks.childElementCount; rank < numRanks; ++rank) {
      this.ranks.append(el('li', { title: rank === 0 ? 'rank 0 leads the group' : null },
        rank === 0 ? 'rank 0, leads' : `rank ${rank}`));
    }
  }

  // Accepted of the draft tokens at each position of their draft.
  setBars(recent) {
    const shares = [];
    recent.drafted.forEach((drafted, i) => {
      if (drafted > 0) shares.push(recent.accepted[i] / drafted);
    });
    const all = shares.length === 0 ? null : sum(recent.accepted) / sum(recent.drafted);
    setText(this.caption, shares.length === 0 ? 'Accepted by position: no draft yet'
      : `Accepted by position, ${percent(all)} ${recent.isRecent ? 'in all' : 'so far'}`);
    while (this.bars.childElementCount > shares.length) this.bars.lastElementChild.remove();
    shares.forEach((share, i) => {
      let bar = this.bars.children[i];
      if (bar === undefined) {
        bar = el('li', {}, el('span', { class: 'column', 'aria-hidden': 'true' }),
          el('span', { class: 'unseen' }), el('span', { class: 'position', 'aria-hidden': 'true' }, String(i + 1)));
        this.bars.append(bar);
      }
      bar.firstElementChild.style.setProperty('--ratio', String(share));
      setText(bar.children[1], `position ${i + 1}: ${percent(share)}`);
      setAttribute(bar, 'title', `position ${i + 1}: ${percent(share)}`);
    });
  }
}

class DraftCard extends Card {
  constructor(id) {
    super('draft worker', id);
    this.element.className = 'card draft';
    this.model = el('p', { class: 'model' });
    this.partners = el('ul', { class: 'partners', 'aria-label': 'Drafts for' });
    this.element.append(this.model);
    [this.rate, this.queue, this.sequences] = this.facts('Tokens/s', 'Queue', 'Sequences');
    this.element.append(this.partners);
  }

  // `links`: [{group, connected, paired, round_trip_ms}] of the groups that have to do with it.
  update(worker, links) {
    this.setState(worker.state);
    setText(this.model, worker.model);
    setText(this.rate, worker.tokens_per_second > 0 ? figure(worker.tokens_per_second) : '–');
    setText(this.queue, milliseconds(worker.queue_ms));
    setText(this.sequences, `${worker.sequences} of ${worker.max_sequences}`);
    const words = links.map((link) => (link.connected
      ? `drafts for ${link.group}, ${link.round_trip_ms > 0 ? `${milliseconds(link.round_trip_ms)} away` : 'not measured yet'}`
      : `to draft for ${link.group}, not connected`));
    if (words.length === 0) words.push('spare: no group has it');
    while (this.partners.childElementCount > words.length) this.partners.lastElementChild.remove();
    words.forEach((text, i) => {
      if (this.partners.children[i] === undefined) this.partners.append(el('li', {}));
      setText(this.partners.children[i], text);
    });
  }
}

export class Cluster {
  #cards = new Map();
  #states = new Map();
  #links = [];
  #timer = null;
  #asking = false;
  #edgesDue = false;

  constructor() {
    document.addEventListener('visibilitychange', () => this.#poll());
    addEventListener('resize', () => this.#drawSoon());
    new ResizeObserver(() => this.#drawSoon()).observe(byId('map'));
    this.#poll();
  }

  async #poll() {
    clearTimeout(this.#timer);
    if (document.hidden || this.#asking) return;
    this.#asking = true;
    try {
      const key = byId('api-key').value.trim();
      const response = await fetch('cluster', {
        cache: 'no-store', headers: key === '' ? {} : { Authorization: `Bearer ${key}` },
      });
      if (response.ok) {
        this.#show(await response.json());
      } else if (response.status === 401 || response.status === 403) {
        this.#lost('API key wanted', 'The map is for those with an API key: enter yours under Settings.');
      } else {
        this.#lost('Server error', `The router answers with an error (${response.status}).`);
      }
    } catch {
      this.#lost('No connection', 'The router can not be reached.');
    }
    this.#asking = false;
    this.#timer = setTimeout(() => this.#poll(), kIntervalMs);
  }

  #lost(short, words) {
    setAttribute(byId('status'), 'data-state', 'bad');
    setText(byId('status-text'), short);
    byId('cluster').toggleAttribute('data-stale', true);
    const notice = byId('cluster-notice');
    notice.hidden = false;
    const isOld = this.#cards.size > 0 ? ' What you see is old; the page keeps asking.' : '';
    setText(notice, words + isOld);
  }

  #show(cluster) {
    const at = performance.now();
    byId('cluster').removeAttribute('data-stale');
    const notice = byId('cluster-notice');
    notice.hidden = cluster.serving;
    if (!cluster.serving) setText(notice, `Requests have to wait: ${cluster.status}.`);
    setAttribute(byId('status'), 'data-state', cluster.serving ? 'good' : 'warn');
    setText(byId('status-text'), cluster.serving ? cluster.model : 'Not serving yet');
    setText(byId('cluster-summary'), [
      count(cluster.groups.length, 'group'), count(cluster.draft_workers.length, 'draft worker'),
      `up ${this.#age(cluster.router.uptime_seconds)}`, `version ${cluster.version}`,
    ].join(' · '));

    this.#card('tier-router', 'router', () => new RouterCard()).update(cluster, at);
    this.#keep('tier-groups', cluster.groups.map((group) => group.id), 'No group has registered yet.');
    this.#keep('tier-drafts', cluster.draft_workers.map((worker) => worker.id), 'No draft worker: groups decode one token a step.');
    for (const group of cluster.groups) this.#card('tier-groups', group.id, (id) => new GroupCard(id)).update(group, at);
    this.#links = [];
    for (const worker of cluster.draft_workers) {
      const links = [];
      for (const group of cluster.groups) {
        const link = group.draft_workers.find((other) => other.id === worker.id);
        if (link !== undefined && (link.paired || link.connected)) links.push({ ...link, group: group.id });
      }
      this.#card('tier-drafts', worker.id, (id) => new DraftCard(id)).update(worker, links);
      for (const link of links) this.#links.push({ ...link, worker: worker.id });
    }
    this.#announce(cluster);
    this.#drawSoon();
  }

  #age(seconds) {
    if (seconds < 60) return `${Math.floor(seconds)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
    return `${Math.floor(seconds / 86400)} d`;
  }

  #card(tier, id, make) {
    const key = `${tier}/${id}`;
    let card = this.#cards.get(key);
    if (card === undefined) {
      card = make(id);
      this.#cards.set(key, card);
      byId(tier).append(card.element);
    }
    return card;
  }

  // Those that are gone leave the map.
  #keep(tier, ids, emptyWords) {
    const wanted = new Set(ids.map((id) => `${tier}/${id}`));
    for (const [key, card] of this.#cards) {
      if (!key.startsWith(`${tier}/`) || wanted.has(key)) continue;
      card.element.remove();
      this.#cards.delete(key);
    }
    const empty = byId(tier).querySelector('.empty');
    if (ids.length > 0 && empty !== null) empty.remove();
    if (ids.length === 0 && empty === null) byId(tier).append(el('p', { class: 'empty' }, emptyWords));
  }

  // What came, went or changed is read aloud; numbers are not.
  #announce(cluster) {
    const states = new Map();
    for (const group of cluster.groups) states.set(`group ${group.id}`, group.state);
    for (const worker of cluster.draft_workers) states.set(`draft worker ${worker.id}`, worker.state);
    const news = [];
    for (const [name, state] of states) {
      const before = this.#states.get(name);
      if (before !== state) news.push(`${name}: ${(kStates[state] || [state])[0].toLowerCase()}`);
    }
    for (const name of this.#states.keys()) if (!states.has(name)) news.push(`${name} is gone`);
    if (news.length > 0 && this.#states.size > 0) say(news.join(', '));
    this.#states = states;
  }

  #drawSoon() {
    if (this.#edgesDue) return;
    this.#edgesDue = true;
    requestAnimationFrame(() => {
      this.#edgesDue = false;
      this.#drawEdges();
    });
  }

  // Lines between cards of neighbouring tiers. Where cards are stacked a line would run behind others: the words on
  // the cards have to do.
  #drawEdges() {
    const map = byId('map').getBoundingClientRect();
    const paths = [];
    const gap = 90;
    const line = (from, to, attributes) => {
      if (from === undefined || to === undefined) return;
      const a = from.element.getBoundingClientRect();
      const b = to.element.getBoundingClientRect();
      const boxes = [...from.element.parentElement.children].map((card) => card.getBoundingClientRect());
      const rowEnd = Math.max(...boxes.map((box) => box.bottom));
      if (boxes.some((box) => box.top > a.bottom) || b.top < rowEnd || b.top - rowEnd > gap) return;
      const [x1, y1] = [a.left + a.width / 2 - map.left, a.bottom - map.top];
      const [x2, y2] = [b.left + b.width / 2 - map.left, b.top - map.top];
      const bend = rowEnd - map.top + (b.top - rowEnd) / 2;
      const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
      path.setAttribute('d', `M${x1} ${y1}C${x1} ${bend} ${x2} ${bend} ${x2} ${y2}`);
      for (const [name, value] of Object.entries(attributes)) path.setAttribute(name, value);
      paths.push(path);
    };
    const of = (tier, id) => this.#cards.get(`${tier}/${id}`);
    for (const [key, card] of this.#cards) {
      if (!key.startsWith('tier-groups/')) continue;
      const busy = card.element.hasAttribute('data-busy');
      line(of('tier-router', 'router'), card, { class: busy ? 'edge busy' : 'edge' });
    }
    for (const link of this.#links) {
      const group = of('tier-groups', link.group);
      const busy = group !== undefined && group.element.hasAttribute('data-busy') && link.connected;
      line(group, of('tier-drafts', link.worker),
        { class: `edge draft${busy ? ' busy' : ''}${link.connected ? '' : ' broken'}` });
    }
    byId('edges').replaceChildren(...paths);
  }
}
