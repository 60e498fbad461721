// What /v1/chat/completions sends: events, errors in plain words, and which text came from whom.

// An answer that is no answer. `status` 0: nothing came back at all.
export class ApiError extends Error {
  constructor(status, code, message, retryAfterS) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }

  static async of(response) {
    let error = {};
    try {
      error = (await response.json()).error || {};
    } catch {
      // Not ours: a proxy between, say.
    }
    const after = Number(response.headers.get('Retry-After'));
    return new ApiError(response.status, error.code, error.message || '', after > 0 ? after : null);
  }

  // What happened and what to do, for people.
  get words() {
    const said = this.message ? ` The server says: ${this.message}` : '';
    const again = this.retryAfterS ? `Try again in ${this.retryAfterS} s.` : 'Try again in a moment.';
    if (this.status === 0) return 'The server can not be reached. Check that it still runs, then try again.';
    if (this.status === 401 || this.status === 403) {
      return 'This server wants an API key that it knows. Enter yours under Settings, then try again.';
    }
    if (this.code === 'context_length_exceeded') {
      return `This conversation no longer fits the model's context. Start a new chat, or ask for fewer tokens.${said}`;
    }
    if (this.status === 429) return `The cluster has all the work it can take. ${again}`;
    if (this.status === 503) return `The cluster can not take requests now. ${again}${said}`;
    if (this.status === 400 || this.status === 413 || this.status === 422) {
      return `The server can not do that.${said}`;
    }
    if (this.status === 200) return `The answer broke off.${said}`;
    return `Something went wrong on the server (${this.status}).${said}`;
  }
}

// The data of a response's server-sent events, parsed. Returns at [DONE]; a stream that ends without it was cut, and
// one that tells an error throws it.
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError(200, 'cut', 'the connection was closed');
    rest += value;
    for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
      const lines = rest.slice(0, end).split('\n');
      rest = rest.slice(end + 2);
      for (const line of lines) {
        if (!line.startsWith('data: ')) continue;
        if (line === 'data: [DONE]') return;
        const event = JSON.parse(line.slice(6));
        if (event.error) throw new ApiError(200, event.error.code, event.error.message);
        yield event;
      }
    }
  }
}

const utf8 = new TextEncoder();

// Tells of text, as it comes, which tokens it is of. Text may come later than its token (it may begin a stop string),
// never earlier, and in order: so each token's count of bytes says where its text ends.
export class OriginSplitter {
  #tokens = [];
  #last = null;

  // `origins`: of the tokens that came with `text`, [{draft, text_bytes}]. Returns [{draft, text}], neighbours of one
  // origin joined; draft is null where nobody said.
  push(text, origins) {
    for (const origin of origins || []) this.#tokens.push({ draft: origin.draft, bytes: origin.text_bytes });
    const runs = [];
    for (const character of text) {
      const draft = this.#take(utf8.encode(character).length);
      if (runs.length > 0 && runs[runs.length - 1].draft === draft) {
        runs[runs.length - 1].text += character;
      } else {
        runs.push({ draft, text: character });
      }
    }
    return runs;
  }

  #take(numBytes) {
    while (this.#tokens.length > 0 && this.#tokens[0].bytes === 0) this.#tokens.shift();
    if (this.#tokens.length > 0) {
      this.#last = this.#tokens[0].draft;
      this.#tokens[0].bytes = Math.max(0, this.#tokens[0].bytes - numBytes);
    }
    return this.#last;
  }
}
