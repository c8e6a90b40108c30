// The first page: an overview of all queues.

import { el, later, newId, say } from "./dom.js";
import { count, rate, time } from "./format.js";
import { Plots } from "./plots.js";
import { Table } from "./table.js";

export function queueLink(name, part = "") {
  return `#/queue/${encodeURIComponent(name)}${part && `/${part}`}`;
}

export function cards(...names) {
  const values = new Map();
  const element = el("dl", { class: "cards" });
  for (const [id, title] of names) {
    const value = el("dd");
    values.set(id, value);
    element.append(el("div", {}, el("dt", {}, title), value));
  }
  return {
    element,
    set(id, text, tone = null) {
      const value = values.get(id);
      say(value, text);
      if (tone) value.parentElement.dataset.tone = tone;
      else delete value.parentElement.dataset.tone;
    },
  };
}

/** The tone of a state. Levels are those of pgque/watching/states.py. */
export const toneOf = ({ level }) => (level >= 3 ? "bad" : level === 2 ? "warn" : null);

const STATE = { id: "state", title: "State", value: (row) => row.level, text: (row) => row.state, tone: toneOf };
const tone = (bad, kind = "warn") => (bad ? kind : null);

export class Overview {
  constructor() {
    this.title = "Queues";
    this.parameters = {};
    this.plots = new Plots({ "": "sent" });
    this.cards = cards(
      ["ticker", "Ticker"],
      ["queues", "Queues"],
      ["sent", "Sent"],
      ["handled", "Handled"],
      ["lag", "Longest wait"],
      ["in_flight", "In flight"],
      ["retries", "Retries"],
      ["dead", "Dead letters"],
    );
    this.table = new Table({
      caption: "Queues",
      key: (row) => row.queue,
      sort: { id: "queue", down: false },
      empty: "No queues yet. Create one: pgque queue create NAME",
      columns: [
        {
          id: "queue",
          title: "Queue",
          value: (row) => row.queue,
          node: (row) => el("a", { href: queueLink(row.queue), title: row.queue }, row.queue),
        },
        STATE,
        { id: "rate", title: "Sent", number: true, value: (row) => row.rate, text: (row) => rate(row.rate) },
        { id: "unticked", title: "Not ticked", number: true, hint: "Events without a tick", value: (row) => row.unticked, text: (row) => count(row.unticked) },
        { id: "tick_age", title: "Last tick", number: true, value: (row) => row.tick_age, text: (row) => time(row.tick_age) },
        { id: "consumers", title: "Consumers", number: true, value: (row) => row.consumers, text: (row) => count(row.consumers) },
        { id: "lag", title: "Waiting", number: true, hint: "Age of the oldest event that is pending for any consumer", value: (row) => row.lag, text: (row) => time(row.lag) },
        { id: "pending", title: "Pending", number: true, hint: "Pending events of the consumer with the most", value: (row) => row.pending, text: (row) => count(row.pending) },
        { id: "in_flight", title: "In flight", number: true, value: (row) => row.in_flight, text: (row) => count(row.in_flight) },
        { id: "retries", title: "Retries", number: true, value: (row) => row.retries, text: (row) => count(row.retries) },
        { id: "dead", title: "Dead", number: true, value: (row) => row.dead, text: (row) => count(row.dead), tone: (row) => tone(row.dead > 0) },
      ],
    });
    this.slowest = new Table({
      caption: "Consumers furthest behind",
      key: (row) => JSON.stringify([row.queue, row.consumer]),
      empty: "No consumer is behind.",
      columns: consumerColumns(true),
    });
    const id = newId("filter");
    this.filter = el("input", { type: "search", id, placeholder: "part of a name", oninput: later(100, () => this.#list()) });
    this.found = el("span", { class: "hint", role: "status", "aria-live": "polite" });
    this.element = el(
      "div",
      {},
      el("h1", { tabindex: "-1" }, "Queues"),
      this.cards.element,
      this.plots.element,
      el(
        "section",
        { "aria-label": "Queues" },
        el("div", { class: "bar" }, el("h2", {}, "All queues"), this.found, el("span", { class: "beside" }, el("label", { for: id }, "Filter"), this.filter)),
        this.table.element,
      ),
      el("section", { "aria-label": "Furthest behind" }, el("h2", {}, "Furthest behind"), this.slowest.element),
    );
    this.rows = [];
  }

  /** Take a frame. While `paused`, store its points but draw nothing. */
  take(frame, paused) {
    this.plots.push(frame.at, frame.points);
    if (paused) return;
    this.plots.draw();
    const { totals, points } = frame;
    const late = totals.late > 0;
    this.cards.set("ticker", frame.ticking ? "running" : late ? "none" : "no leader", late ? "bad" : null);
    this.cards.set("queues", count(totals.queues));
    this.cards.set("sent", rate(points.rate[""]));
    this.cards.set("handled", rate(points.rate.handled));
    this.cards.set("lag", time(points.lag.longest), toneOf({ level: Math.max(0, ...frame.slowest.map(({ level }) => level)) }));
    this.cards.set("in_flight", count(totals.in_flight));
    this.cards.set("retries", count(totals.retries));
    this.cards.set("dead", count(totals.dead), tone(totals.dead > 0));
    this.rows = frame.queues.map((values) => Object.fromEntries(values.map((value, number) => [frame.columns[number], value])));
    this.#list();
    this.slowest.show(frame.slowest);
  }

  #list() {
    const wanted = this.filter.value.trim().toLowerCase();
    const rows = wanted ? this.rows.filter(({ queue }) => queue.toLowerCase().includes(wanted)) : this.rows;
    say(this.found, wanted ? `${count(rows.length)} of ${count(this.rows.length)}` : "");
    this.table.show(rows, { empty: wanted ? "No queue's name contains this." : undefined });
  }
}

export function consumerColumns(withQueue) {
  const own = [
    STATE,
    { id: "rate", title: "Handled", number: true, value: (row) => row.rate, text: (row) => rate(row.rate) },
    { id: "pending", title: "Pending", number: true, hint: "Events that it has not finished", value: (row) => row.pending, text: (row) => count(row.pending) },
    { id: "lag", title: "Waiting", number: true, hint: "Age of its oldest pending event", value: (row) => row.lag, text: (row) => time(row.lag) },
    { id: "latency", title: "Latency", number: true, hint: "From the tick to the ack of its last batch", value: (row) => row.latency, text: (row) => time(row.latency) },
    { id: "in_flight", title: "In flight", number: true, hint: "Events in its open batch", value: (row) => row.in_flight, text: (row) => count(row.in_flight) },
    { id: "last_seen", title: "Last seen", number: true, value: (row) => row.last_seen, text: (row) => time(row.last_seen) },
  ];
  const link = (row) => el("a", { href: queueLink(row.queue), title: row.queue }, row.queue);
  const name = { id: "consumer", title: "Consumer", value: (row) => row.consumer, text: (row) => row.consumer };
  if (withQueue) return [{ id: "queue", title: "Queue", value: (row) => row.queue, node: link }, name, ...own];
  const kind = (row) => (row.group ? `member of ${row.group}` : row.is_group ? "group" : "normal");
  return [name, { id: "kind", title: "Kind", value: kind, text: kind }, ...own];
}
