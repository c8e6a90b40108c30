// The page of one queue: its consumers, messages, retries and dead letters.

import { Browse, PARTS } from "./browse.js";
import { el, mark } from "./dom.js";
import { count, rate, time } from "./format.js";
import { cards, consumerColumns, queueLink, toneOf } from "./overview.js";
import { Plots } from "./plots.js";
import { Table } from "./table.js";

export class QueuePage {
  constructor(name, part, rights) {
    this.title = name;
    this.name = name;
    this.parameters = { queue: name };
    this.plots = new Plots({ "": "sent" });
    this.cards = cards(
      ["state", "State"],
      ["rate", "Sent"],
      ["sent", "Sent in total"],
      ["tick_age", "Last tick"],
      ["lag", "Longest wait"],
      ["in_flight", "In flight"],
      ["retries", "Retries"],
      ["dead", "Dead letters"],
    );
    this.table = new Table({
      caption: `Consumers of ${name}`,
      key: (row) => row.consumer,
      sort: { id: "consumer", down: false },
      empty: "No consumers.",
      columns: consumerColumns(false),
    });
    this.gone = el("p", { class: "empty", hidden: true }, "This queue does not exist, or was dropped.");
    this.links = new Map(PARTS.map(([id, text]) => [id, el("a", { href: queueLink(name, id) }, text)]));
    this.place = el("div");
    this.rights = rights;
    this.element = el(
      "div",
      {},
      el("nav", { "aria-label": "Back", class: "back" }, el("a", { href: "#/" }, "All queues")),
      el("h1", { tabindex: "-1" }, name),
      this.gone,
      this.cards.element,
      this.plots.element,
      el("section", { "aria-label": "Consumers" }, el("h2", {}, "Consumers"), this.table.element),
      el(
        "section",
        { "aria-label": "Browse" },
        el("h2", { class: "unseen" }, "Browse"),
        el("nav", { "aria-label": "Browse", class: "tabs" }, ...this.links.values()),
        this.place,
      ),
    );
    this.open(part);
  }

  /** Show messages, retries or dead letters. */
  open(part) {
    const id = this.links.has(part) ? part : PARTS[0][0];
    for (const [name, link] of this.links) mark(link, "aria-current", name === id ? "page" : null);
    this.browse?.close();
    this.browse = new Browse(this.name, id, this.rights);
    this.place.replaceChildren(this.browse.element);
  }

  take(frame, paused) {
    this.plots.push(frame.at, frame.points);
    if (paused) return;
    this.plots.draw();
    const { queue } = frame;
    this.gone.hidden = queue !== null;
    this.table.show(frame.consumers);
    if (queue === null) return;
    this.cards.set("state", queue.state, toneOf(queue));
    this.cards.set("rate", rate(queue.rate));
    this.cards.set("sent", count(queue.sent));
    this.cards.set("tick_age", time(queue.tick_age));
    this.cards.set("lag", time(queue.lag), toneOf({ level: Math.max(0, ...frame.consumers.map(({ level }) => level)) }));
    this.cards.set("in_flight", count(queue.in_flight));
    this.cards.set("retries", count(queue.retries));
    this.cards.set("dead", count(queue.dead), queue.dead > 0 ? "warn" : null);
  }

  rightsChanged() {
    this.browse.rightsChanged();
  }

  close() {
    this.browse.close();
  }
}
