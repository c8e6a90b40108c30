// A table that updates its rows in place when their figures change.

import { el, mark, newId, say } from "./dom.js";

export const ROWS_AT_MOST = 200;

export class Table {
  /**
   * A column is {id, title, text(row)}, optionally with `node(row)`, an element created once per row
   * instead of text; `value(row)`, the sort key; `number`, to align right; `tone(row)`, the cell's tone.
   */
  constructor({ caption, columns, key, empty, sort = null, most = ROWS_AT_MOST, chosen = null }) {
    this.columns = columns;
    this.key = key;
    this.sort = sort;
    this.most = most;
    this.empty = empty;
    this.chosen = chosen;
    this.rows = [];
    this.known = new Map();
    this.body = el("tbody");
    this.heads = columns.map((column) => this.#head(column));
    const id = newId("table");
    this.note = el("p", { class: "hint" });
    this.nothing = el("p", { class: "empty", hidden: true });
    this.scroll = el(
      "div",
      { class: "scroll", role: "region", "aria-labelledby": id, tabindex: "0" },
      el(
        "table",
        {},
        el("caption", { id, class: "unseen" }, caption),
        el("thead", {}, el("tr", {}, ...this.heads)),
        this.body,
      ),
    );
    this.sideways = el("p", { class: "hint sideways", hidden: true }, "There are more columns: scroll the table sideways.");
    this.frame = el("div", { class: "frame" }, this.scroll);
    this.element = el("div", { class: "table" }, this.sideways, this.frame, this.nothing, this.note);
    this.scroll.addEventListener("scroll", () => this.#sayCut(), { passive: true });
    new ResizeObserver(() => this.#sayCut()).observe(this.scroll);
    new ResizeObserver(() => this.#sayCut()).observe(this.body);
    this.#markSorted();
  }

  /** Show a hint if the window is too narrow for all columns, and mark the side that is cut off. */
  #sayCut() {
    const { scrollWidth, clientWidth, scrollLeft } = this.scroll;
    this.sideways.hidden = scrollWidth <= clientWidth + 1;
    mark(this.frame, "data-cut", scrollWidth - clientWidth - scrollLeft > 1 ? "right" : null);
  }

  #head(column) {
    const attributes = { scope: "col", class: column.number ? "number" : null, title: column.hint };
    if (!column.value) return el("th", attributes, column.title);
    const button = el("button", { type: "button", class: "sort", onclick: () => this.#by(column) }, column.title);
    return el("th", attributes, button);
  }

  #by(column) {
    const down = this.sort?.id === column.id ? !this.sort.down : Boolean(column.number);
    this.sort = { id: column.id, down };
    this.#markSorted();
    this.show(this.rows);
  }

  #markSorted() {
    this.columns.forEach((column, number) => {
      const here = this.sort?.id === column.id;
      mark(this.heads[number], "aria-sort", here ? (this.sort.down ? "descending" : "ascending") : null);
    });
  }

  /** Show rows, sorted. Limits their number, because a browser draws many rows slowly. */
  show(rows, { empty = this.empty } = {}) {
    this.rows = rows;
    const sorted = this.#sorted(rows);
    const shown = sorted.slice(0, this.most);
    const left = new Set(this.known.keys());
    let place = this.body.firstChild;
    for (const row of shown) {
      const key = this.key(row);
      left.delete(key);
      let made = this.known.get(key);
      if (!made) {
        made = this.#make(row);
        this.known.set(key, made);
      }
      made.update(row);
      if (made.line === place) place = place.nextSibling;
      else this.body.insertBefore(made.line, place);
    }
    for (const key of left) {
      this.known.get(key).line.remove();
      this.known.delete(key);
    }
    this.nothing.hidden = rows.length > 0;
    this.scroll.hidden = rows.length === 0;
    say(this.nothing, rows.length ? "" : empty);
    const more = rows.length - shown.length;
    say(this.note, more > 0 ? `Showing the first ${shown.length}; filter or sort to see the other ${more}.` : "");
  }

  #make(row) {
    const cells = this.columns.map((column, number) => {
      const cell = el(number === (this.chosen ? 1 : 0) ? "th" : "td", { class: column.number ? "number" : null });
      if (cell.tagName === "TH") cell.scope = "row";
      if (column.node) cell.append(column.node(row));
      return cell;
    });
    const update = (now) => {
      this.columns.forEach((column, number) => {
        if (column.text && !column.node) say(cells[number], column.text(now));
        if (column.tone) mark(cells[number], "data-tone", column.tone(now));
      });
    };
    return { line: el("tr", {}, ...cells), update };
  }

  #sorted(rows) {
    const column = this.columns.find(({ id }) => id === this.sort?.id);
    if (!column) return rows;
    const turn = this.sort.down ? -1 : 1;
    return [...rows].sort((a, b) => {
      const [left, right] = [column.value(a), column.value(b)];
      if (left === right) return compare(this.key(a), this.key(b));
      if (left == null) return 1; // unknown values come last in both directions
      if (right == null) return -1;
      return turn * compare(left, right);
    });
  }
}

function compare(a, b) {
  if (typeof a === "string") return a.localeCompare(b, undefined, { numeric: true });
  return a < b ? -1 : Number(a > b);
}
