"use strict";

/** The run, and how its numbers, names and moments are written: as everywhere else on the page. */
const run = JSON.parse(document.getElementById("run").textContent);

const NOT_FINITE = { nan: NaN, inf: Infinity, "-inf": -Infinity };

/** JSON has no NaN: it travels as text. What was not observed stays null. */
const numeric = (value) => (typeof value === "string" ? NOT_FINITE[value] ?? NaN : value ?? null);
const numbers = (list) => (list ?? []).map(numeric);
const finite = (value) => typeof value === "number" && Number.isFinite(value);

/** Write a number with three significant digits, as short as it can be read. */
function write(value) {
  if (value === null || value === undefined) return "not observed";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e6 || size < 0.01) {
    const [mantissa, power] = value.toExponential(2).split("e");
    return `${Number(mantissa)}e${Number(power)}`;
  }
  return size >= 1000 ? grouped(value) : String(Number(value.toPrecision(3)));
}

const grouped = (value) => Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, ",");

function percent(value) {
  if (!finite(value)) return write(value);
  if (value > 0 && value < 0.001) return "< 0.1%";
  if (Math.abs(value) >= 100) return `${write(100 * value)}%`;
  return `${Number((100 * value).toFixed(Math.abs(value) >= 0.0995 ? 0 : 1))}%`;
}

/** Write a length of time. */
function duration(seconds) {
  if (!finite(seconds)) return write(seconds);
  const size = Math.abs(seconds);
  if (size > 0 && size < 0.9995) return `${Number((1000 * seconds).toPrecision(3))} ms`;
  if (size < 60) return `${Number(seconds.toPrecision(3))} s`;
  const rest = (size) => (size ? ` ${size}` : "");
  if (size < 3600) {
    const whole = Math.round(seconds);
    return `${Math.floor(whole / 60)} min${rest(whole % 60)}${whole % 60 ? " s" : ""}`;
  }
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h${rest(minutes % 60)}${minutes % 60 ? " min" : ""}`;
}

/** Return what writes the numbers of a unit. */
function writer(unit) {
  if (unit === "share") return percent;
  return unit === "seconds" ? duration : write;
}

// Escape sequences and marks of writing direction would reorder a line; see `words.plain`.
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]/g;
const escape = (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`;
const PAIRS = /[\ud800-\udbff][\udc00-\udfff]/g;

/** Make text from a model or a file harmless to show. */
function plain(text) {
  const pieces = String(text).split(PAIRS).map((piece) => piece.replace(CONTROL, escape));
  const pairs = String(text).match(PAIRS) ?? [];
  return pieces.map((piece, i) => piece + (pairs[i] ?? "")).join("");
}

/** Make an element. Text is always text: nothing here is parsed as markup. */
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name === "on") {
      for (const [type, act] of Object.entries(value)) node.addEventListener(type, act);
    } else if (name.startsWith("aria-") && typeof value === "boolean") {
      node.setAttribute(name, String(value));
    } else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Return the index of the last item that is at most a value; -1 before the first. */
function bisect(list, value) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** Return the index of the item that is closest to a value. */
function nearest(list, value) {
  const i = Math.max(0, bisect(list, value));
  return i + 1 < list.length && list[i + 1] - value < value - list[i] ? i + 1 : i;
}

const count = (n, noun) => `${grouped(n)} ${noun}${n === 1 ? "" : "s"}`;

const SIGNS = { bad: "✖", suspect: "▲", note: "●" };

/** A link to a finding on the page. */
function badge(finding) {
  return h("a", {
    class: `badge ${finding.severity}`,
    href: `#finding-${finding.number}`,
    title: `${finding.number}: ${plain(finding.code)}`,
    "aria-label": `finding ${finding.number}, ${plain(finding.code)}`,
  }, String(finding.number));
}

const inside = (place, outer) =>
  place === outer || place.startsWith(`${outer}.`) || place.startsWith(`${outer}/`);

/** Return the findings that name a place, the layer it is in, or what is in it. */
const concerning = (place) => run.findings.filter((finding) =>
  finding.places.some((named) => inside(place, named) || inside(named, place)));
