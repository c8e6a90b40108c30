// The page's frame: navigation, the stream of figures, the theme and the token.

import { follow, hasToken, read } from "./api.js";
import { askForToken } from "./dialogs.js";
import { el, mark, say } from "./dom.js";
import { clock, time } from "./format.js";
import { Overview } from "./overview.js";
import { QueuePage } from "./queue.js";

const OLD = 5000;
const at = (id) => document.getElementById(id);

let about = { changes: false, private: false };
let view = null;
let following = null;
let heard = performance.now();
let every = 1000;
let problem = null;
let paused = false;
let asking = null;

const rights = {
  get offered() {
    return about.changes;
  },
  granted: hasToken,
  async ask() {
    // Several requests may be refused at once: ask only once.
    asking ??= askForToken(
      about.private && !hasToken()
        ? "This dashboard requires its token."
        : "The token lets you replay and purge dead letters.",
    );
    const right = await asking;
    asking = null;
    await inform();
    if (right && view) begin();
  },
};

function route() {
  const [, where, name, part] = location.hash.split("/");
  return where === "queue" && name ? { queue: decodeURIComponent(name), part } : { queue: null };
}

function navigate() {
  if (location.hash && !location.hash.startsWith("#/")) return; // the "Skip to content" link
  const { queue, part } = route();
  if (view && view.parameters.queue === (queue ?? undefined)) {
    view.open?.(part);
    return;
  }
  view?.close?.();
  const first = view === null;
  view = queue === null ? new Overview() : new QueuePage(queue, part, rights);
  document.title = `${view.title} - pgque`;
  at("main").replaceChildren(view.element);
  if (!first) {
    view.element.querySelector("h1").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  begin();
}

/** Follow the figures of the current view. */
async function begin() {
  following?.abort();
  following = new AbortController();
  const { signal } = following;
  const shown = view;
  follow(
    shown.parameters,
    signal,
    (frame) => {
      heard = performance.now();
      if (frame.state === "live") {
        if (last !== null) every = Math.max(1000, (frame.at - last) * 1000);
        last = frame.at;
        shown.take(frame, paused);
      }
      report(frame.state === "lost" ? { code: "lost", message: frame.error, since: frame.since } : null, frame);
    },
    (error) => {
      report(error);
      if (error.code === "token") {
        following.abort();
        rights.ask();
      }
    },
  );
  try {
    const history = await read("history", shown.parameters, { signal });
    shown.plots.load(history);
  } catch {
    // The stream reports the error.
  }
}

let last = null;

function report(what, frame = null) {
  problem = what;
  const texts = {
    lost: (error) => `The database has not answered since ${clock(error.since)}. Retrying.`,
    old: (error) => `The newest figures are ${time(error.age)} old.`,
  };
  const banner = at("banner");
  if (what === null) {
    banner.replaceChildren();
  } else {
    const text = (texts[what.code] ?? ((error) => error.message))(what);
    const detail = what.code === "lost" ? what.message : "";
    if (banner.dataset.text !== text + detail || !banner.firstChild) {
      banner.dataset.text = text + detail;
      banner.replaceChildren(el("p", {}, el("strong", {}, text)), ...(detail ? [el("pre", {}, detail)] : []));
    }
  }
  const live = what === null && frame?.state !== "waiting";
  document.body.dataset.state = what ? "lost" : live ? "live" : "waiting";
  say(at("link-text"), what ? "Not live" : !live ? "Connecting" : paused ? "Paused" : "Live");
}

/** A server that hangs sends no error, and the old figures would look current. */
setInterval(() => {
  const age = performance.now() - heard;
  if (age > Math.max(OLD, 4 * every) && (problem === null || problem.code === "old")) {
    report({ code: "old", age: Math.round(age / 1000) });
  }
}, 1000);

function showRights() {
  const button = at("token");
  button.hidden = !about.changes && !about.private;
  say(button, hasToken() ? "Token set" : "Enter token");
}

function theme() {
  const kept = localStorage.getItem("pgque-theme") ?? "system";
  at("theme").value = kept;
  mark(document.documentElement, "data-theme", kept === "system" ? null : kept);
}

at("theme").addEventListener("change", (event) => {
  localStorage.setItem("pgque-theme", event.target.value);
  theme();
});
at("token").addEventListener("click", () => rights.ask());
at("pause").addEventListener("click", (event) => {
  paused = !paused;
  mark(event.target, "aria-pressed", paused);
  report(problem, { state: "live" });
});
addEventListener("hashchange", navigate);

theme();
/** Ask the server which changes it allows. */
async function inform() {
  try {
    about = await read("about");
    say(at("where"), about.where);
  } catch (error) {
    if (error.code === "token") about = { changes: false, private: true };
  }
  showRights();
  view?.rightsChanged?.();
}
await inform();
navigate();
