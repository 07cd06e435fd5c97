"use strict";

/** A metric along the depth of the model: from its first layer to its last. */

/** Places that have their names beneath the chart. */
const NAMED = 40;
/** Places to which one may zoom. */
const LEAST_PLACES = 3;

/**
 * Make the chart.
 *
 * @param {object} parts `label()`, the chart in a sentence; `places`; `write`; `log()`; perhaps
 *   `band` ([low, high] to shade); `lines()`, a list of `name`, `values` by place, and perhaps
 *   `colour` and `dash` (numbers), `faint`; `around(i)`, all numbers of a place that set the axis;
 *   `words(i)`, more rows of the tooltip; `pick(i)`, what a click on a place does.
 */
function depthChart(parts) {
  const last = parts.places.length - 1;
  let [from, to] = [0, last];
  const look = (low, high) => {
    const size = Math.min(last, Math.max(LEAST_PLACES - 1, high - low));
    from = Math.round(Math.min(Math.max(0, low), last - size));
    to = Math.round(Math.min(last, from + size));
    chart.draw();
  };
  const chart = new Chart({
    height: parts.height ?? 210,
    label: parts.label,
    zooms: { choose: ([low, high]) => look(from + low, from + high), all: () => look(0, last) },
    pick: (event) => {
      if (event.dataIndex !== undefined && !chart.dragged) parts.pick(from + event.dataIndex);
    },
    option: (colours, width) => depthOption(parts, [from, to], colours, width),
  });
  const half = () => (to - from) / 2;
  const move = (share) => look(from + share * half(), to + share * half());
  const button = (text, label, act) => h("button",
    { type: "button", "aria-label": label, title: label, on: { click: act } }, text);
  chart.tools = last > 11 ? h("div", { class: "tools", role: "group", "aria-label": "Layers shown below" },
    h("span", { class: "quiet small" }, "Layers"),
    button("+", "Fewer layers", () => look(from + half() / 2, to - half() / 2)),
    button("−", "More layers", () => look(from - half(), to + half())),
    button("‹", "Earlier layers", () => move(-1)),
    button("›", "Later layers", () => move(1)),
    button("All", "All layers", () => look(0, last)),
    h("span", { class: "quiet hint small" }, "or drag across the chart")) : null;
  return chart;
}

function depthOption(parts, [from, to], colours, width) {
  const log = parts.log();
  const bend = bent(log);
  const places = parts.places.slice(from, to + 1);
  const lines = parts.lines();
  const shown = places.flatMap((_, i) => (parts.around
    ? parts.around(from + i) : lines.map((line) => line.values[from + i])));
  let [low, high] = shown.map(bend).filter((value) => value !== null)
    .reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  if (low > high) [low, high] = [0, 1];
  if (!log && low > 0) low = 0;
  const room = (high - low) * 0.05 || 1;
  const ends = [low === 0 && !log ? 0 : low - room, high + room];
  const upward = (log ? logTicks : ticks)(...ends, 5);
  const few = places.length <= NAMED;
  return {
    animation: false,
    grid: { left: 54, right: 16, top: 12, bottom: 44 },
    xAxis: {
      type: "category",
      data: shortNames(places),
      name: from || to < parts.places.length - 1
        ? `layers ${from + 1} to ${to + 1} of ${parts.places.length}` : "first layer to last",
      nameLocation: "middle",
      nameGap: few ? 30 : 12,
      nameTextStyle: { color: colours.quiet, fontSize: 11, fontFamily: FONT },
      axisTick: { show: few, lineStyle: { color: colours.rule } },
      axisLine: { onZero: false, lineStyle: { color: colours.quiet } },
      axisLabel: { show: few, color: colours.quiet, fontSize: 11, hideOverlap: true, fontFamily: FONT },
    },
    yAxis: axis(colours, ends, upward, tickWriter(upward, log, parts.write)),
    tooltip: tooltip(colours, (found) => depthWords(parts, lines, found.length ? from + found[0].dataIndex : -1)),
    series: [
      ...lines.map((line, n) => depthSeries(line, n, line.values.slice(from, to + 1).map(bend), colours)),
      marksAt(ends[1], places.map((_, i) => lines.some(({ values }) =>
        values[from + i] !== null && !finite(values[from + i]))), "triangle", 10, colours["stripe-a"]),
      // A logarithmic axis has no zero: what is exactly 0 lies below it.
      marksAt(ends[0], places.map((_, i) => log && lines.some(({ values }) => values[from + i] === 0)),
        "rect", [12, 5], colours.ink),
      bandArea(parts.band, bend, colours),
    ],
  };
}

function depthSeries(line, n, data, colours) {
  const colour = line.faint ? colours.quiet : line.colour === undefined
    ? colours.line : colours.lines[line.colour % 6];
  return {
    type: "line",
    data,
    symbol: SHAPES[(line.shape ?? (n ? 4 : 0)) % SHAPES.length],
    symbolSize: data.length <= NAMED ? 7 : 3,
    showSymbol: data.length < 200,
    lineStyle: { color: colour, width: line.faint ? 1.2 : 1.8, type: DASHES[(line.dash ?? 0) % 6] },
    itemStyle: { color: colour },
    z: line.faint ? 2 : 3,
    emphasis: { disabled: true },
  };
}

function depthWords(parts, lines, i) {
  if (i < 0) return "";
  const rows = [...lines.map(({ name, values }) => [plain(name), parts.write(values[i])]),
    ...(parts.words?.(i) ?? [])];
  return h("div", { class: "tip" }, h("b", {}, plain(parts.places[i])), h("table", {},
    rows.map(([name, words]) => h("tr", {}, h("th", {}, name), h("td", {}, words)))));
}

/** Mark places whose number has no height: not finite at the top, 0 at the bottom. */
function marksAt(height, flags, symbol, symbolSize, color) {
  return {
    type: "line",
    data: flags.map((flag) => (flag ? height : null)),
    lineStyle: { width: 0 },
    symbol,
    symbolSize,
    itemStyle: { color },
    emphasis: { disabled: true },
    z: 4,
  };
}

function bandArea(band, bend, colours) {
  if (!band) return { type: "line", data: [] };
  return { type: "line", data: [], markArea: { silent: true, itemStyle: { color: colours.quiet, opacity: 0.16 },
    data: [[{ yAxis: bend(band[0]) }, { yAxis: bend(band[1]) }]] } };
}

/** Return places without what all begin with, and no longer than there is room for. */
function shortNames(places) {
  let shared = places[0].lastIndexOf(".") + 1;
  while (shared > 0 && !places.every((place) => place.startsWith(places[0].slice(0, shared)))) {
    shared = places[0].lastIndexOf(".", shared - 2) + 1;
  }
  const names = places.map((place) => plain(place.slice(shared)));
  return names.map((name) => (name.length > 20 ? `…${name.slice(-19)}` : name));
}
