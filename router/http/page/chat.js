// The conversation: sends messages, shows answers as they stream, and what their speculation did.
import { byId, count, el, figure, milliseconds, percent, say, setText } from './dom.js';
import { ApiError, eventsOf, OriginSplitter } from './stream.js';

// Rounds that the ribbon shows; older ones leave it.
const kRibbonRounds = 160;

// One answer on the page, and its figures.
class AnswerView {
  constructor() {
    this.text = el('div', { class: 'text' });
    this.ribbon = el('div', { class: 'ribbon', role: 'img', 'aria-label': 'Rounds' });
    this.figures = el('dl', { class: 'figures' });
    this.element = el('li', { class: 'turn answer', 'data-state': 'waiting' },
      el('h3', { class: 'who' }, 'Answer'), this.text, this.ribbon, this.figures);
    this.values = {};
    for (const [id, name, hint] of [
      ['ttft', 'First token', 'from sending to the first text'],
      ['rate', 'Tokens/s', 'after the first'],
      ['length', 'Per round', 'tokens committed a round, the target\'s own included'],
      ['acceptance', 'Accepted', 'of the draft tokens that were verified'],
      ['tokens', 'Tokens', 'of this answer'],
      ['rounds', 'Rounds', 'steps of the target that gave them: a column each, drafted tokens below the target\'s own'],
    ]) {
      this.values[id] = el('dd', { 'data-figure': id }, '–');
      this.figures.append(el('div', { title: hint }, el('dt', {}, name), this.values[id]));
    }
    this.sentAt = performance.now();
    this.firstAt = null;
    this.lastAt = null;
    this.numTokens = 0;
    this.numDraft = 0;
    this.numFirst = 0;  // tokens of the first commit
    this.numRounds = 0;
    this.splitter = new OriginSplitter();
    this.content = '';
  }

  set state(state) {
    this.element.dataset.state = state;
  }

  // A commit's text and tokens.
  add(content, origins) {
    const now = performance.now();
    this.state = 'streaming';
    this.content += content;
    for (const run of this.splitter.push(content, origins)) {
      const origin = run.draft === null ? 'unknown' : run.draft ? 'draft' : 'target';
      // The space before a run is not drawn as part of it: at the end of a line it would stand alone.
      const space = /^\s*/.exec(run.text)[0];
      if (space !== '') this.text.append(el('span', { 'data-origin': origin, 'data-space': true }, space));
      if (space.length < run.text.length) {
        this.text.append(el('span', { 'data-origin': origin }, run.text.slice(space.length)));
      }
    }
    const numNew = origins ? origins.length : 0;
    if (numNew > 0) {
      const numAccepted = origins.filter((origin) => origin.draft).length;
      if (this.firstAt === null) {
        this.firstAt = now;
        this.numFirst = numNew;
      }
      this.lastAt = now;
      this.numTokens += numNew;
      this.numDraft += numAccepted;
      this.numRounds += 1;
      this.addRound(numAccepted, numNew - numAccepted);
    } else if (this.firstAt === null && content) {
      this.firstAt = now;
    }
    this.showFigures();
  }

  addRound(numDraft, numTarget) {
    const round = el('i', {});
    round.style.setProperty('--drafts', String(Math.min(numDraft, 16)));
    round.toggleAttribute('data-target', numTarget > 0);
    this.ribbon.append(round);
    if (this.ribbon.childElementCount > kRibbonRounds) this.ribbon.firstElementChild.remove();
  }

  // `usage`: the last chunk's, if it came.
  showFigures(speculation = null) {
    const { ttft, rate, length, acceptance, tokens, rounds } = this.values;
    if (this.firstAt !== null) setText(ttft, milliseconds(this.firstAt - this.sentAt));
    const seconds = this.firstAt === null || this.lastAt === null ? 0 : (this.lastAt - this.firstAt) / 1000;
    if (seconds > 0) setText(rate, figure((this.numTokens - this.numFirst) / seconds));
    if (this.numRounds > 0) setText(length, figure(this.numTokens / this.numRounds));
    if (this.numTokens > 0) setText(tokens, String(this.numTokens));
    if (this.numRounds > 0) setText(rounds, String(this.numRounds));
    if (speculation !== null && speculation.num_draft_tokens > 0) {
      setText(acceptance, percent(speculation.draft_acceptance_rate));
    }
    this.ribbon.setAttribute('aria-label',
      `${count(this.numRounds, 'round')}: ${this.numDraft} of ${count(this.numTokens, 'token')} were drafted ahead`);
  }

  // A line below: why it ended, or what went wrong.
  note(text, { alert = false, retry = null } = {}) {
    const note = el('p', { class: alert ? 'note bad' : 'note', role: alert ? 'alert' : null }, text);
    if (retry !== null) {
      const button = el('button', { type: 'button', class: 'quiet' }, 'Try again');
      button.addEventListener('click', retry);
      note.append(' ', button);
    }
    this.element.append(note);
  }
}

export class Chat {
  #messages = [];
  #abort = null;

  constructor() {
    const message = byId('message');
    byId('composer').addEventListener('submit', (event) => {
      event.preventDefault();
      this.send(message.value);
    });
    message.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send(message.value);
    });
    message.addEventListener('input', () => this.#fit());
    byId('stop').addEventListener('click', () => this.stop());
    byId('new-chat').addEventListener('click', () => this.clear());
    for (const example of document.querySelectorAll('.examples button')) {
      example.addEventListener('click', () => this.send(example.textContent));
    }
    addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && this.#abort !== null) this.stop();
    });
  }

  // The box grows with what is in it.
  #fit() {
    const message = byId('message');
    message.style.setProperty('height', 'auto');
    message.style.setProperty('height', `${Math.min(message.scrollHeight + 2, 180)}px`);
  }

  stop() {
    if (this.#abort !== null) this.#abort.abort();
  }

  clear() {
    this.stop();
    this.#messages = [];
    byId('turns').replaceChildren();
    byId('welcome').hidden = false;
    byId('new-chat').hidden = true;
    byId('message').focus();
    say('New chat');
  }

  send(text) {
    const content = text.trim();
    if (content === '' || this.#abort !== null || !this.#settingsAreValid()) return;
    byId('message').value = '';
    this.#fit();
    byId('welcome').hidden = true;
    byId('new-chat').hidden = false;
    for (const button of document.querySelectorAll('.turn .note button')) button.remove();
    // A question without an answer is not part of the conversation.
    if (this.#messages.length > 0 && this.#messages[this.#messages.length - 1].role === 'user') this.#messages.pop();
    this.#messages.push({ role: 'user', content });
    byId('turns').append(el('li', { class: 'turn question' },
      el('h3', { class: 'who' }, 'You'), el('div', { class: 'text' }, content)));
    this.#answer();
  }

  // Else shows the one that is not.
  #settingsAreValid() {
    const wrong = byId('settings').querySelector(':invalid');
    if (wrong === null) return true;
    byId('settings').open = true;
    wrong.reportValidity();
    return false;
  }

  #request() {
    const body = {
      messages: [...this.#messages],
      stream: true,
      stream_options: { include_usage: true },
      return_token_origins: true,
    };
    const system = byId('system').value.trim();
    if (system !== '') body.messages.unshift({ role: 'system', content: system });
    for (const [id, name] of [['temperature', 'temperature'], ['max-tokens', 'max_tokens'], ['seed', 'seed']]) {
      const value = byId(id).value;
      if (value !== '') body[name] = Number(value);
    }
    const lookahead = byId('lookahead').value;
    if (lookahead === '0') body.draft = false;
    else if (lookahead !== 'auto') body.lookahead = Number(lookahead);
    return body;
  }

  #busy(busy) {
    byId('send').hidden = busy;
    byId('stop').hidden = !busy;
    // The button that had the focus is gone.
    if (document.activeElement === document.body) byId('message').focus();
  }

  // Answers the messages so far.
  async #answer() {
    const answer = new AnswerView();
    byId('turns').append(answer.element);
    const scroll = byId('scroll');
    const followed = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
    const follow = () => { scroll.scrollTop = scroll.scrollHeight; };
    follow();
    const messages = this.#messages;  // a new chat has others
    this.#abort = new AbortController();
    const mine = this.#abort;
    this.#busy(true);
    say('Waiting for the answer');
    let finish = null;
    let failure = null;
    try {
      const headers = { 'Content-Type': 'application/json' };
      const key = byId('api-key').value.trim();
      if (key !== '') headers.Authorization = `Bearer ${key}`;
      let response;
      try {
        response = await fetch('v1/chat/completions', {
          method: 'POST', headers, body: JSON.stringify(this.#request()), signal: mine.signal,
        });
      } catch (error) {
        if (mine.signal.aborted) throw error;
        throw new ApiError(0, 'unreachable', error.message);
      }
      if (!response.ok) throw await ApiError.of(response);
      for await (const event of eventsOf(response)) {
        mine.signal.throwIfAborted();
        const follows = followed();
        const choice = event.choices[0];
        if (choice !== undefined) {
          const content = choice.delta.content || '';
          if (content !== '' || choice.token_origins) answer.add(content, choice.token_origins);
          if (choice.finish_reason) finish = choice.finish_reason;
        }
        if (event.usage) answer.showFigures(event.metrics ? event.metrics.speculative_decoding : null);
        if (follows) follow();
      }
    } catch (error) {
      failure = mine.signal.aborted ? 'stopped' : error;
    }
    const follows = followed();
    this.#end(answer, messages, finish, failure, mine);
    if (follows) follow();
  }

  #end(answer, messages, finish, failure, mine) {
    if (answer.content !== '') messages.push({ role: 'assistant', content: answer.content });
    if (failure === null) {
      answer.state = 'done';
      if (finish === 'length') answer.note('It has reached Max tokens (under Settings).');
      say(`Answer: ${answer.content}`);
    } else if (failure === 'stopped') {
      answer.state = 'stopped';
      answer.note('Stopped.');
      say('Stopped');
    } else {
      answer.state = 'failed';
      const words = failure instanceof ApiError ? failure.words
        : `The server sent what this page does not understand (${failure.message}).`;
      const retry = () => {
        if (this.#abort !== null) return;
        if (answer.content !== '') messages.pop();
        answer.element.remove();
        this.#answer();
      };
      answer.note(words, { alert: true, retry });
    }
    if (this.#abort !== mine) return;
    this.#abort = null;
    this.#busy(false);
  }
}
