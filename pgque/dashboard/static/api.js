// Requests to the server: the stream of figures, pages of lists, and changes.

const KEPT = "pgque-token";
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 5000;
const GONE = "The dashboard's server does not respond.";

let token = sessionStorage.getItem(KEPT);

export const hasToken = () => token !== null;

export function keepToken(value) {
  token = value;
  if (value === null) sessionStorage.removeItem(KEPT);
  else sessionStorage.setItem(KEPT, value);
}

/** The server refused a request. See security.py for the values of `code`. */
export class Refused extends Error {
  constructor(code, text) {
    super(text);
    this.code = code;
  }
}

async function ask(path, parameters, options = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value != null && value !== "") query.set(name, value);
  }
  const headers = { ...(options.headers ?? {}) };
  if (token !== null) headers["X-Pgque-Token"] = token;
  let answer;
  try {
    answer = await fetch(`api/${path}${query.size ? `?${query}` : ""}`, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("gone", GONE);
  }
  if (!answer.ok) {
    const why = await answer.json().catch(() => ({}));
    throw new Refused(why.code ?? "status", why.error ?? `The dashboard responded with status ${answer.status}.`);
  }
  return answer;
}

export async function read(path, parameters = {}, options = {}) {
  return (await ask(path, parameters, options)).json();
}

export async function change(path, what) {
  const options = {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(what),
  };
  return (await ask(path, {}, options)).json();
}

/**
 * Follow the stream of frames until the signal aborts. A stream ends after a minute and is requested
 * again. `onFrame` gets each frame, `onLost` each error. EventSource would not do, because it cannot
 * send the token.
 */
export async function follow(parameters, signal, onFrame, onLost) {
  let pause = FIRST_PAUSE;
  while (!signal.aborted) {
    let came = false;
    try {
      const answer = await ask("stream", parameters, { signal, cache: "no-store" });
      for await (const data of events(answer.body)) {
        came = true;
        pause = FIRST_PAUSE;
        try {
          onFrame(JSON.parse(data));
        } catch (error) {
          reportError(error); // a bug in the page is not a lost server
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      came = false;
      onLost(error instanceof Refused ? error : new Refused("gone", GONE));
    }
    if (!came) {
      await new Promise((done) => setTimeout(done, pause));
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data: "));
        if (data.length) yield data.map((line) => line.slice(6)).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
