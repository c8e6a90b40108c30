// The three plots of a page and the choice of their time range.

import { el, newId } from "./dom.js";
import { rate, time } from "./format.js";
import { LINES_AT_MOST, Plot } from "./plot.js";
import { Series } from "./series.js";

const RANGES = [
  [120, "2 minutes"],
  [600, "10 minutes"],
  [1800, "30 minutes"],
];
const KEPT = "pgque-range";

export class Plots {
  /** `names` maps the server's names of lines to labels. */
  constructor(names = {}) {
    this.names = names;
    this.series = new Series();
    this.colours = new Map();
    this.given = 0;
    this.rate = new Plot("Rate", rate);
    this.lag = new Plot("Waiting", time, { base: "time", note: "age of the oldest pending event" });
    this.latency = new Plot("Latency", time, { base: "time", note: "from tick to ack" });
    const id = newId("range");
    this.range = el(
      "select",
      {
        id,
        onchange: () => {
          localStorage.setItem(KEPT, this.range.value);
          this.draw();
        },
      },
      ...RANGES.map(([seconds, text]) => el("option", { value: seconds }, text)),
    );
    this.range.value = RANGES.some(([seconds]) => String(seconds) === localStorage.getItem(KEPT))
      ? localStorage.getItem(KEPT)
      : "600";
    this.element = el(
      "section",
      { "aria-label": "Over time" },
      el("div", { class: "bar" }, el("h2", {}, "Over time"), el("label", { for: id }, "The last"), this.range),
      el("div", { class: "plots" }, this.rate.element, this.lag.element, this.latency.element),
    );
  }

  load(history) {
    this.series.load(history);
    this.draw();
  }

  push(at, points) {
    this.series.push(at, points);
  }

  draw() {
    const { times, plots } = this.series;
    if (!times.length) return;
    const to = times.at(-1);
    const wanted = Number(this.range.value);
    for (const kind of ["rate", "lag", "latency"]) {
      const all = [...plots[kind]].map(([key, values]) => ({ key, name: this.names[key] ?? key, values }));
      this[kind].draw(times, this.#painted(shown(all)), to - wanted, to, all.length);
    }
  }

  /** A consumer keeps the same colour in all plots. */
  #painted(lines) {
    const taken = new Set();
    for (const line of lines) {
      if (!this.colours.has(line.key)) {
        this.colours.set(line.key, line.key === "" ? 0 : 1 + (this.given++ % (LINES_AT_MOST - 1)));
      }
      line.colour = this.colours.get(line.key);
      while (taken.has(line.colour)) line.colour = (line.colour + 1) % LINES_AT_MOST;
      taken.add(line.colour);
    }
    return lines;
  }
}

/** The line of events sent, then the consumers by name. Of many, those with the largest recent values. */
function shown(lines) {
  const weight = ({ key, values }) =>
    key === "" ? Infinity : values.slice(-600).reduce((most, value) => Math.max(most, value ?? 0), 0);
  const most = lines.length > LINES_AT_MOST;
  const chosen = most ? [...lines].sort((a, b) => weight(b) - weight(a)).slice(0, LINES_AT_MOST) : lines;
  return chosen.sort((a, b) => (a.key === "" ? -1 : b.key === "" ? 1 : a.name.localeCompare(b.name)));
}
