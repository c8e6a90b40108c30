// Formats figures for people.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const ONE = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const TWO = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });

export const NOTHING = "–";

export function count(value) {
  return value == null ? NOTHING : WHOLE.format(value);
}

export function rate(value) {
  if (value == null) return NOTHING;
  return `${value >= 100 ? WHOLE.format(value) : ONE.format(value)}/s`;
}

/** Format a duration in seconds: 850 µs, 12 ms, 1.5 s, 3 min 20 s, 2.5 h, 3.1 d. */
export function time(seconds) {
  if (seconds == null) return NOTHING;
  if (seconds <= 0) return "0 s";
  if (seconds < 0.001) return `${TWO.format(seconds * 1e6)} µs`;
  if (seconds < 1) return `${TWO.format(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${ONE.format(seconds)} s`;
  if (seconds < 3600) {
    const whole = Math.round(seconds);
    return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  }
  if (seconds < 172800) return `${ONE.format(seconds / 3600)} h`;
  return `${ONE.format(seconds / 86400)} d`;
}

const two = (number) => String(number).padStart(2, "0");

/** Format seconds since 1970 as local time of day. */
export function clock(at, withSeconds = true) {
  const day = new Date(at * 1000);
  const text = `${two(day.getHours())}:${two(day.getMinutes())}`;
  return withSeconds ? `${text}:${two(day.getSeconds())}` : text;
}

/** Format an ISO time as local date and time. */
export function moment(iso) {
  if (iso == null) return NOTHING;
  const day = new Date(iso);
  const date = `${day.getFullYear()}-${two(day.getMonth() + 1)}-${two(day.getDate())}`;
  return `${date} ${clock(day / 1000)}`;
}

/** Shorten a text to one line. */
export function line(text, longest = 120) {
  if (text == null) return NOTHING;
  const flat = text.replace(/\s+/g, " ");
  return flat.length > longest ? `${flat.slice(0, longest)}…` : flat;
}

const DEEPEST = 40; // deeper levels are not indented further: there would be more space than text

/** Indent JSON without changing how numbers are written. Returns null if it is not JSON. */
export function pretty(text) {
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  const parts = [];
  let depth = 0;
  let before = "";
  for (const [part] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s"{}[\],:]+/g)) {
    const ends = part === "}" || part === "]";
    const begun = before === "{" || before === "[";
    if (ends) depth -= 1;
    if (before === "," || begun !== ends) parts.push(`\n${"  ".repeat(Math.min(depth, DEEPEST))}`);
    parts.push(part === ":" ? ": " : part);
    if (part === "{" || part === "[") depth += 1;
    before = part;
  }
  return parts.join("");
}
