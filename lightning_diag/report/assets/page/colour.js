"use strict";

/** Colours: those of the style sheet, scales that everybody can tell apart, and patterns. */
const VIRIDIS = [
  [68, 1, 84], [71, 45, 123], [59, 82, 139], [44, 114, 142], [33, 145, 140],
  [40, 174, 128], [94, 201, 98], [173, 220, 48], [253, 231, 37],
];
const DIVERGING = {
  light: [[31, 95, 168], [95, 155, 208], [171, 205, 234], [223, 225, 228], [253, 200, 143],
    [238, 140, 52], [169, 78, 4]],
  dark: [[88, 166, 255], [63, 124, 191], [45, 84, 127], [74, 80, 89], [128, 86, 31],
    [192, 122, 42], [255, 171, 74]],
};

const dark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

/** Return the colours of the page, or, for paper, those of the light page. */
function palette(paper = false) {
  const root = document.documentElement;
  const before = root.dataset.theme;
  if (paper) root.dataset.theme = "light";
  const style = getComputedStyle(root);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["paper", "panel", "ink", "quiet", "rule", "line", "band", "bad", "suspect", "note",
    "nothing", "stripe-a", "stripe-b", "c0", "c1", "c2", "c3", "c4", "c5"];
  const found = Object.fromEntries(names.map((name) => [name, of(name)]));
  found.lines = [0, 1, 2, 3, 4, 5].map((i) => found[`c${i}`]);
  found.dark = dark();
  if (paper) {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
  }
  return found;
}

/** Return the colour at a share of a scale. */
function between(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2);
  const mixed = stops[i].map((low, k) => Math.round(low + (at - i) * (stops[i + 1][k] - low)));
  return `rgb(${mixed.join(",")})`;
}

/** How far a ratio is from its band, in decades to either side, until it is all one colour. */
const BAND_DECADES = 2.5;
/** Decades that a logarithmic scale of colours spans at most. */
const MOST_DECADES = 10;

/** Return the scale of colours of a map: its ends, and the colour of a number. */
function scaleOf(map, log, colours) {
  if (log && map.band) {
    const middle = (Math.log10(map.band[0]) + Math.log10(map.band[1])) / 2;
    const ends = [middle - BAND_DECADES, middle + BAND_DECADES];
    return scale(ends, DIVERGING[colours.dark ? "dark" : "light"], log);
  }
  if (!log && map.unit === "share") return scale([0, 1], VIRIDIS, log);
  let [low, high] = map.range ?? (log ? [0.1, 1] : [0, 1]);
  if (log) [low, high] = [Math.log10(low), Math.log10(high)];
  if (log) low = Math.max(low, high - MOST_DECADES);
  else if (low > 0 && low < high / 2) low = 0;
  // Numbers that are nearly alike get nearly the same colour.
  const least = log ? 1 : Math.abs(high) * 0.2 || 1;
  if (high - low < least) [low, high] = [(low + high - least) / 2, (low + high + least) / 2];
  return scale([low, high], VIRIDIS, log);
}

function scale(ends, stops, log) {
  const [low, high] = ends;
  const at = (value) => ((log ? Math.log10(value) : value) - low) / (high - low);
  return { ends, stops, log, colour: (value) => between(stops, at(value)) };
}

/** Return stripes for what is not finite. */
function stripes(pen, colours) {
  const tile = h("canvas", { width: 6, height: 6 });
  const brush = tile.getContext("2d");
  brush.fillStyle = colours["stripe-b"];
  brush.fillRect(0, 0, 6, 6);
  brush.strokeStyle = colours["stripe-a"];
  brush.lineWidth = 2.4;
  for (const shift of [-6, 0, 6]) {
    brush.beginPath();
    brush.moveTo(shift - 1, 7);
    brush.lineTo(shift + 7, -1);
    brush.stroke();
  }
  return pen.createPattern(tile, "repeat");
}

/** Say with a strip of colours, and words at its ends, what they mean. */
function colourLegend(map, log, colours) {
  const found = scaleOf(map, log, colours);
  const strip = h("canvas", { width: 160, height: 10, class: "ramp", "aria-hidden": "true" });
  const pen = strip.getContext("2d");
  for (let x = 0; x < 160; x++) {
    pen.fillStyle = between(found.stops, x / 159);
    pen.fillRect(x, 0, 1, 10);
  }
  const text = writer(map.unit);
  const [low, high] = found.ends.map((end) => text(log ? Number((10 ** end).toPrecision(2)) : end));
  const middle = map.band && log ? `, grey from ${text(map.band[0])} to ${text(map.band[1])}` : "";
  const seen = map.values.flat();
  const key = (style, words) => h("span", { class: "key" }, h("i", { class: `swatch ${style}` }), words);
  return [
    h("span", { class: "key" }, low, strip, `${high}${middle}`),
    log && seen.some((value) => value === 0) ? key("z", "exactly 0") : null,
    seen.some((value) => value !== null && !finite(value)) ? key("x", "NaN or inf") : null,
    seen.includes(null) ? key("u", "not observed") : null,
  ];
}
