// Searches the messages, retries and dead letters of a queue, page by page, and shows single ones.

import { change, read } from "./api.js";
import { confirm, showMessage } from "./dialogs.js";
import { el, later, newId, say } from "./dom.js";
import { clock, count, line, moment, NOTHING } from "./format.js";
import { Table } from "./table.js";

export const PARTS = [
  ["messages", "Messages"],
  ["retries", "Retries"],
  ["dead", "Dead letters"],
];
const EMPTY = {
  messages: "The log holds no messages: none were sent, or rotation has removed them.",
  retries: "No retries are waiting.",
  dead: "No dead letters.",
};
const FIELDS = {
  messages: ["text", "type", "key", "until"],
  retries: ["text", "type", "key", "consumer"],
  dead: ["text", "type", "key", "consumer"],
};
const LABELS = { text: "Payload contains", type: "Type", key: "Key", consumer: "Consumer", until: "Sent before" };
const ROWS_AT_MOST = 1000;
const REPLAYED_AT_ONCE = 200; // the limit in changes.py
const REPLAYED = "Each replayed dead letter becomes a new message, delivered to every consumer of the queue, and is removed from this list.";

export class Browse {
  constructor(queue, part, rights) {
    this.queue = queue;
    this.part = part;
    this.rights = rights;
    this.rows = [];
    this.more = null;
    this.chosen = new Set();
    this.inputs = FIELDS[part].map((name) => this.#input(name));
    this.status = el("span", { class: "hint", role: "status", "aria-live": "polite" });
    this.tools = el("div", { class: "bar tools" });
    this.table = new Table({
      caption: `${PARTS.find(([id]) => id === part)[1]} of ${queue}`,
      key: (row) => row.place,
      empty: EMPTY[part],
      most: ROWS_AT_MOST,
      columns: this.#columns(),
      chosen: part === "dead",
    });
    this.older = el("button", { type: "button", hidden: true, onclick: () => this.#load(this.more) }, "Load older");
    this.element = el(
      "div",
      { class: "browse" },
      el(
        "form",
        { class: "bar", role: "search", onsubmit: (event) => (event.preventDefault(), this.#load()) },
        ...this.inputs.map(({ element }) => element),
        el("button", { type: "submit" }, "Refresh"),
        this.status,
      ),
      this.tools,
      this.table.element,
      this.older,
    );
    this.rightsChanged();
    this.#load();
  }

  close() {
    this.asking?.abort();
  }

  #input(name) {
    const id = newId("field");
    const input = el("input", {
      id,
      type: name === "until" ? "datetime-local" : "search",
      step: name === "until" ? "1" : null,
      class: name,
      oninput: later(300, () => this.#load()),
    });
    const label = name === "text" && this.part === "dead" ? "Payload or reason contains" : LABELS[name];
    const value = () => (name === "until" && input.value ? new Date(input.value).toISOString() : input.value);
    return { name, value, element: el("span", { class: "field" }, el("label", { for: id }, label), input) };
  }

  #columns() {
    const shown = (row) =>
      el("button", { type: "button", class: "linkish", onclick: () => this.#show(row), "aria-label": `Show ${named(row)}` }, row.letter ?? row.id);
    const columns = [
      { id: "id", title: "Id", node: shown },
      { id: "type", title: "Type", text: (row) => line(row.type, 40) },
      { id: "key", title: "Key", text: (row) => line(row.key, 40) },
    ];
    const payload = { id: "payload", title: "Payload", text: (row) => line(row.payload, 110) };
    const consumer = { id: "consumer", title: "Consumer", text: (row) => row.consumer };
    const again = { id: "retries", title: "Retries", number: true, text: (row) => count(row.retries) };
    if (this.part === "messages") {
      return [...columns.slice(0, 1), { id: "created", title: "Sent", text: (row) => moment(row.created) }, ...columns.slice(1), payload];
    }
    if (this.part === "retries") {
      return [columns[0], { id: "due", title: "Due", text: (row) => moment(row.due) }, consumer, again, ...columns.slice(1), payload];
    }
    const box = (row) =>
      el("input", {
        type: "checkbox",
        "aria-label": `Select ${named(row)} of ${row.consumer}`,
        onchange: (event) => {
          if (event.target.checked) this.chosen.add(row.letter);
          else this.chosen.delete(row.letter);
          this.#count();
        },
      });
    return [
      { id: "box", title: "", node: box },
      columns[0],
      { id: "died", title: "Died", text: (row) => moment(row.died) },
      consumer,
      { id: "reason", title: "Reason", text: (row) => line(row.reason, 90) },
      { id: "event", title: "Event", text: (row) => row.id },
      again,
      ...columns.slice(1),
      payload,
    ];
  }

  /** Show the tools that the user's rights allow: none, a button that asks for the token, or all. */
  rightsChanged() {
    if (this.locked) this.#load();
    this.tools.replaceChildren();
    if (this.part !== "dead") return;
    if (!this.rights.offered) {
      this.tools.append(el("p", { class: "hint" }, "Read-only: start the dashboard with a token to replay and purge."));
    } else if (!this.rights.granted()) {
      this.tools.append(el("button", { type: "button", onclick: () => this.rights.ask() }, "Replay or purge…"));
    } else {
      this.some = el("button", { type: "button", onclick: () => this.#replay([...this.chosen]) }, "Replay selected");
      this.days = el("input", { type: "number", min: 0, step: "any", value: 30, id: newId("days") });
      this.tools.append(
        el("button", { type: "button", onclick: () => this.#chooseAll() }, "Select all shown"),
        this.some,
        el("button", { type: "button", onclick: () => this.#replayAll() }, "Replay all…"),
        el("span", { class: "field" }, el("label", { for: this.days.id }, "Older than (days)"), this.days),
        el("button", { type: "button", class: "danger", onclick: () => this.#purge() }, "Purge…"),
      );
      this.#count();
    }
  }

  /** Select all rows shown, or none if all are selected. */
  #chooseAll() {
    const boxes = [...this.table.body.querySelectorAll("input")];
    const on = boxes.some((box) => !box.checked);
    for (const box of boxes) box.checked = on;
    this.chosen = new Set(on ? this.rows.map((row) => row.letter) : []);
    this.#count();
  }

  #count() {
    if (!this.some) return;
    say(this.some, this.chosen.size ? `Replay ${count(this.chosen.size)} selected…` : "Replay selected…");
    this.some.disabled = this.chosen.size === 0;
  }

  /** Load the first page, or the page after a place. */
  async #load(after = null, done = "") {
    this.asking?.abort();
    this.asking = new AbortController();
    this.locked = false;
    const { signal } = this.asking;
    const wanted = Object.fromEntries(this.inputs.map(({ name, value }) => [name, value()]));
    const searching = Object.values(wanted).some(Boolean);
    try {
      const page = await read(this.part, { queue: this.queue, ...wanted, after }, { signal });
      this.rows = after === null ? page.rows : [...this.rows, ...page.rows];
      this.more = page.more;
      const here = new Set(this.rows.map((row) => row.letter));
      for (const letter of this.chosen) if (!here.has(letter)) this.chosen.delete(letter);
      this.#count();
      this.table.show(this.rows, { empty: searching ? "No matches." : EMPTY[this.part] });
      this.older.hidden = page.more === null || this.rows.length >= ROWS_AT_MOST;
      say(this.older, page.looked_at ? "Search further back" : "Load older");
      const through = page.looked_at ? ` in the ${this.part === "retries" ? "next" : "last"} ${count(page.looked_at)} searched` : "";
      const listed = `${count(this.rows.length)} found${page.more ? " so far" : ""}${through}, at ${clock(Date.now() / 1000)}`;
      say(this.status, done ? `${done} ${listed}` : listed);
    } catch (error) {
      if (error.name === "AbortError") return;
      say(this.status, error.message);
      this.locked = error.code === "token";
      if (this.locked) this.rights.ask();
    }
  }

  async #show(row) {
    try {
      const path = { messages: "message", retries: "retry", dead: "letter" }[this.part];
      const where = this.part === "dead" ? { letter: row.letter } : { queue: this.queue, place: row.place };
      const whole = (await read(path, where)).row;
      if (whole === null) {
        say(this.status, `${capital(named(row))} no longer exists.`);
        return;
      }
      const { offered } = this.rights;
      const buttons = this.part === "dead" && offered ? [{ text: "Replay…", run: () => this.#replayOne(row.letter) }] : [];
      const hint = this.part === "dead" && !offered ? `To replay it, run: pgque dead replay ${row.letter}` : "";
      showMessage(capital(named(row)), whole, buttons, hint);
    } catch (error) {
      say(this.status, error.message);
    }
  }

  /** Ask for the token first, if it is not set. */
  async #replayOne(letter) {
    if (!this.rights.granted()) await this.rights.ask();
    if (this.rights.granted()) await this.#replay([letter]);
  }

  async #replay(letters) {
    const many = letters.length === 1 ? "1 dead letter" : `${count(letters.length)} dead letters`;
    if (!(await confirm(`Replay ${many}?`, REPLAYED, `Replay ${many}`))) return;
    for (let done = 0; done < letters.length; done += REPLAYED_AT_ONCE) {
      if (!(await this.#change("replay", { letters: letters.slice(done, done + REPLAYED_AT_ONCE) }))) return;
    }
  }

  async #replayAll() {
    const text = `This replays all dead letters of ${this.queue}, not only the search results. ${REPLAYED}`;
    if (await confirm("Replay all?", text, "Replay all")) await this.#change("replay-all", { queue: this.queue });
  }

  async #purge() {
    const days = Number(this.days.value);
    if (!this.days.reportValidity() || this.days.value === "") return;
    let found;
    try {
      found = (await read("purgeable", { queue: this.queue, days })).count;
    } catch (error) {
      say(this.status, error.message);
      return;
    }
    if (found === 0) {
      say(this.status, `No dead letter is older than ${days} days.`);
      return;
    }
    const many = found === 1 ? "1 dead letter" : `${count(found)} dead letters`;
    const text = `This permanently deletes the dead letters of ${this.queue} that are older than ${days} days.`;
    if (await confirm(`Delete ${many}?`, text, `Delete ${many}`, { danger: true })) {
      await this.#change("purge", { queue: this.queue, days });
    }
  }

  /** Make a change and reload the list. Returns whether the change succeeded. */
  async #change(path, what) {
    try {
      await this.#load(null, outcome(await change(path, what)));
      return true;
    } catch (error) {
      say(this.status, error.message);
      if (error.code === "token") this.rights.ask();
      return false;
    }
  }
}

/** A dead letter is identified by its own id, as in `pgque dead`. */
function named(row) {
  return row.letter === undefined ? `message ${row.id}` : `dead letter ${row.letter}`;
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

function outcome({ replayed, deleted, failed = [], failures = failed.length }) {
  if (deleted !== undefined) return `${count(deleted)} deleted.`;
  const why = failures ? ` ${count(failures)} failed: ${failed[0]?.error ?? NOTHING}.` : "";
  return `${count(replayed)} replayed.${why}`;
}
