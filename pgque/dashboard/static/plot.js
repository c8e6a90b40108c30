// A plot of lines over time as SVG, with a description in words and a table for screen readers.

import { el, mark, say, svg } from "./dom.js";
import { clock } from "./format.js";

const HEIGHT = 170;
const LEFT = 58;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;
const GAP = 12;
const ROWS = 10;
export const LINES_AT_MOST = 6;

export class Plot {
  /** `format` formats a value. `base` selects the steps of the axis: 10, or "time" for seconds. */
  constructor(title, format, { base = 10, note = "" } = {}) {
    this.title = title;
    this.format = format;
    this.base = base;
    this.width = 0;
    this.canvas = svg("svg", { role: "img", height: HEIGHT, class: "plot" });
    this.readout = el("div", { class: "readout", "aria-hidden": "true", hidden: true });
    this.summary = el("span", { class: "now" });
    this.legend = el("ul", { class: "legend" });
    this.table = el("tbody");
    this.head = el("tr");
    this.details = el(
      "details",
      { ontoggle: () => this.#tabulate() },
      el("summary", {}, "Show as table", el("span", { class: "unseen" }, `: ${title}`)),
      el("div", { class: "scroll" }, el("table", {}, el("thead", {}, this.head), this.table)),
    );
    this.element = el(
      "figure",
      {},
      el("figcaption", {}, el("h3", {}, title), this.summary, note && el("p", { class: "hint" }, note)),
      el("div", { class: "canvas" }, this.canvas, this.readout),
      this.legend,
      this.details,
    );
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => this.#leave());
    new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width > 0 && width !== this.width) {
        this.width = width;
        this.#paint();
      }
    }).observe(this.canvas.parentElement);
  }

  /**
   * Draw lines, each {name, colour, values}, between two times in seconds. `all` is the number of
   * lines including those not shown.
   */
  draw(times, lines, from, to, all = lines.length) {
    let begin = times.findIndex((at) => at >= from);
    if (begin < 0) begin = times.length;
    this.times = times.slice(begin);
    this.lines = lines.map(({ name, colour, values }) => {
      const shown = values.slice(begin);
      return { name, colour, values: shown, now: newest(shown), peak: greatest(shown) };
    });
    this.hidden = all - lines.length;
    this.from = from;
    this.to = to;
    this.#paint();
    this.#describe();
    if (this.details.open) this.#tabulate();
  }

  #describe() {
    const parts = this.lines.map(({ name, now, peak }) =>
      now === null ? `${name}: no data` : `${name}: ${this.format(now)}, at most ${this.format(peak)}`,
    );
    const minutes = Math.round((this.to - this.from) / 60);
    mark(this.canvas, "aria-label", `${this.title}, ${minutes} minutes. ${parts.join("; ") || "No figures yet"}.`);
    const only = this.lines.length === 1 ? this.lines[0] : null;
    say(this.summary, only ? (only.now === null ? "no data yet" : this.format(only.now)) : "");
    const shown = this.lines.length > 1 ? this.lines : [];
    while (this.legend.children.length > shown.length + (this.hidden > 0)) this.legend.lastChild.remove();
    shown.forEach(({ name, colour, now }, number) => {
      let item = this.legend.children[number];
      if (!item?.classList.contains(`line-${colour}`)) {
        const made = el(
          "li",
          { class: `line-${colour}` },
          svg("svg", { width: 22, height: 8, "aria-hidden": "true" }, svg("path", { d: "M1 4H21", class: "stroke" })),
          el("span", { class: "name" }),
          el("b"),
        );
        if (item) item.replaceWith(made);
        else this.legend.append(made);
        item = made;
      }
      say(item.querySelector(".name"), name);
      say(item.querySelector("b"), this.format(now));
    });
    if (this.hidden > 0) {
      const text = `and ${this.hidden} more`;
      const item = this.legend.children[shown.length];
      if (item) say(item, text);
      else this.legend.append(el("li", {}, text));
    }
  }

  #paint() {
    if (!this.lines || this.width === 0) return;
    const { width } = this;
    mark(this.canvas, "width", width);
    mark(this.canvas, "viewBox", `0 0 ${width} ${HEIGHT}`);
    const most = Math.max(0, ...this.lines.map((line) => line.peak ?? 0));
    const { top, step, label } = scale(most, this.base, this.format);
    const floor = HEIGHT - BOTTOM;
    this.x = (at) => LEFT + ((at - this.from) / (this.to - this.from)) * (width - LEFT - RIGHT);
    this.y = (value) => floor - (value / top) * (floor - TOP);
    const parts = [];
    for (let value = 0; value <= top * 1.0001; value += step) {
      const y = Math.round(this.y(value)) + 0.5;
      parts.push(svg("line", { x1: LEFT, x2: width - RIGHT, y1: y, y2: y, class: value ? "grid" : "axis" }));
      parts.push(svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, label(value)));
    }
    for (const at of marks(this.from, this.to, width - LEFT - RIGHT)) {
      const x = this.x(at);
      parts.push(svg("line", { x1: x, x2: x, y1: floor, y2: floor + 4, class: "axis" }));
      const anchor = x > width - 30 ? "end" : "middle";
      parts.push(svg("text", { x: Math.min(x, width - 2), y: HEIGHT - 5, "text-anchor": anchor }, clock(at, this.to - this.from < 240)));
    }
    for (const { colour, values } of this.lines) {
      const path = this.#path(values);
      if (this.lines.length === 1 && path.area) parts.push(svg("path", { d: path.area, class: `area line-${colour}` }));
      parts.push(svg("path", { d: path.stroke, class: `stroke line-${colour}` }));
    }
    this.needle = svg("line", { y1: TOP, y2: floor, class: "needle", visibility: "hidden" });
    this.canvas.classList.toggle("only", this.lines.length === 1);
    this.canvas.replaceChildren(...parts, this.needle);
  }

  /** Break the line at gaps in the data. A single point becomes a dot. */
  #path(values) {
    let stroke = "";
    let area = "";
    let open = null;
    let before = -Infinity;
    const close = () => {
      if (open === null) return;
      if (open.points === 1) stroke += "h0.01";
      else area += `M${open.x} ${this.y(0)}${open.path}L${open.last} ${this.y(0)}Z`;
      open = null;
    };
    values.forEach((value, number) => {
      if (value === null || value === undefined) {
        // Single seconds without a value are normal, for example for latency. They are not gaps.
        if (this.times[number] - before > GAP) close();
        return;
      }
      const at = this.times[number];
      if (at - before > GAP) close();
      const x = this.x(at).toFixed(1);
      const y = this.y(value).toFixed(1);
      if (open === null) {
        stroke += `M${x} ${y}`;
        open = { x, points: 1, path: `L${x} ${y}`, last: x };
      } else {
        stroke += `L${x} ${y}`;
        open.points += 1;
        open.path += `L${x} ${y}`;
        open.last = x;
      }
      before = at;
    });
    close();
    return { stroke, area };
  }

  #point(event) {
    if (!this.times?.length || !this.needle) return;
    const box = this.canvas.getBoundingClientRect();
    const at = this.from + ((event.clientX - box.left - LEFT) / (this.width - LEFT - RIGHT)) * (this.to - this.from);
    let number = this.times.findIndex((one) => one >= at);
    if (number < 0) number = this.times.length - 1;
    const x = this.x(this.times[number]);
    for (const name of ["x1", "x2"]) this.needle.setAttribute(name, x);
    this.needle.setAttribute("visibility", "visible");
    const texts = this.lines.map(({ name, values }) => `${name}: ${this.format(values[number])}`);
    this.readout.replaceChildren(el("b", {}, clock(this.times[number])), ...texts.map((text) => el("div", {}, text)));
    this.readout.hidden = false;
    this.readout.classList.toggle("left", x > this.width / 2);
    this.readout.style.left = x > this.width / 2 ? "" : `${x + 8}px`;
    this.readout.style.right = x > this.width / 2 ? `${this.width - x + 8}px` : "";
  }

  #leave() {
    this.readout.hidden = true;
    this.needle?.setAttribute("visibility", "hidden");
  }

  #tabulate() {
    if (!this.details.open || !this.lines) return;
    this.head.replaceChildren(
      el("th", { scope: "col" }, "Time"),
      ...this.lines.map(({ name }) => el("th", { scope: "col", class: "number" }, name)),
    );
    const step = Math.max(1, Math.floor(this.times.length / ROWS));
    const rows = [];
    for (let number = this.times.length - 1; number >= 0 && rows.length < ROWS; number -= step) {
      rows.push(
        el(
          "tr",
          {},
          el("th", { scope: "row" }, clock(this.times[number])),
          ...this.lines.map(({ values }) => el("td", { class: "number" }, this.format(values[number]))),
        ),
      );
    }
    this.table.replaceChildren(...rows);
  }
}

function newest(values) {
  for (let number = values.length - 1; number >= 0; number -= 1) {
    if (values[number] != null) return values[number];
  }
  return null;
}

function greatest(values) {
  return values.reduce((most, value) => (value != null && (most === null || value > most) ? value : most), null);
}

const LONG_STEPS = [
  5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400,
];

/** Return the top of an axis, the step between its lines, and the format of its labels. */
function scale(most, base, format) {
  const wanted = Math.max(most, base === "time" ? 0.002 : 1) / 4;
  const unit = 10 ** Math.floor(Math.log10(wanted));
  const long = base === "time" && wanted > 2;
  const step = long
    ? (LONG_STEPS.find((one) => one >= wanted) ?? 86400 * Math.ceil(wanted / 86400))
    : unit * [1, 2, 5, 10].find((one) => unit * one >= wanted * 0.9999);
  const top = step * Math.max(2, Math.ceil(most / step - 1e-9));
  if (!long || step >= 86400) return { top, step, label: format };
  const [length, name] = step < 60 ? [1, "s"] : step < 3600 ? [60, "min"] : [3600, "h"];
  return { top, step, label: (value) => `${Math.round((value / length) * 10) / 10} ${name}` };
}

/** Yield the round times at which the axis has marks. */
function* marks(from, to, width) {
  const apart = ((to - from) * 80) / Math.max(width, 80);
  const step = [10, 15, 30, 60, 120, 300, 600, 900, 1800].find((one) => one >= apart) ?? 3600;
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) yield at;
}
