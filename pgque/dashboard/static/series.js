// The points of a page's plots: the server's history and the points received since.

export const KEPT_SECONDS = 1800;

export class Series {
  constructor() {
    this.times = [];
    this.plots = { rate: new Map(), lag: new Map(), latency: new Map() };
  }

  /** Prepend the server's history to the points received since. */
  load({ times, plots }) {
    const newest = this.times[0] ?? Infinity;
    let keep = times.findIndex((at) => at >= newest);
    if (keep < 0) keep = times.length;
    const here = this.times.length;
    this.times = [...times.slice(0, keep), ...this.times];
    for (const [plot, lines] of Object.entries(this.plots)) {
      const names = new Set([...Object.keys(plots[plot] ?? {}), ...lines.keys()]);
      for (const name of names) {
        const before = plots[plot]?.[name]?.slice(0, keep) ?? new Array(keep).fill(null);
        lines.set(name, [...before, ...(lines.get(name) ?? new Array(here).fill(null))]);
      }
    }
  }

  push(at, points) {
    if (at <= this.times.at(-1)) return;
    const length = this.times.push(at);
    for (const [plot, lines] of Object.entries(this.plots)) {
      for (const [name, value] of Object.entries(points[plot] ?? {})) {
        if (!lines.has(name)) lines.set(name, new Array(length - 1).fill(null));
        lines.get(name)[length - 1] = value;
      }
      for (const line of lines.values()) if (line.length < length) line.push(null);
    }
    this.#forget(at - KEPT_SECONDS);
  }

  /** Drop old points only occasionally: moving half an hour of points is slow. */
  #forget(before) {
    const old = this.times.findIndex((at) => at >= before);
    if (old < 60) return;
    this.times.splice(0, old);
    for (const lines of Object.values(this.plots)) {
      for (const [name, line] of lines) {
        line.splice(0, old);
        if (line.every((value) => value === null)) lines.delete(name);
      }
    }
  }
}
