"use strict";

/** Fills the page that compares runs: each curve of all of them, on one axis. */
const runsKnots = run.runs.map((one) => ({ epoch: knots(one.axis, "epoch"), seconds: knots(one.axis, "seconds") }));
const AXES_OF_ALL = Object.entries(AXES).filter(([name]) =>
  name === "step" || runsKnots.every((known) => known[name].length > 1));

/** All lines and shaded spans of all charts, with the steps of their own run. */
const allLines = [];
const allSpans = [];
const hiddenRuns = new Set();

/** Make a line of a run, told from others by colour and dash. */
function runLine(i, steps, values, more = {}) {
  const line = { name: run.runs[i].name, run: i, own: steps, steps: [], values: numbers(values),
    colour: i % 6, dash: (i + Math.floor(i / 6)) % 6, shape: i, hidden: hiddenRuns.has(i), ...more };
  allLines.push(line);
  place(line);
  return line;
}

/** Put a line where its steps are on the axis. */
function place(line) {
  line.steps = line.own.map((step) => ownAxis(line.run, step));
}

const ownAxis = (i, step) => (across.name === "step" ? step : along(runsKnots[i][across.name], step));

/** Return a shaded span of a run whose loss was not finite. */
function gapSpan([i, first, last]) {
  const span = [0, 0, `${plain(run.runs[i].name)}: NaN or inf`];
  span.put = () => { [span[0], span[1]] = [ownAxis(i, first - 0.5), ownAxis(i, last + 0.5)]; };
  span.put();
  allSpans.push(span);
  return span;
}

/** Show all runs by steps, epochs or time, each run's own. */
function switchAll(name) {
  across.name = name;
  allLines.forEach(place);
  allSpans.forEach((span) => span.put());
  const ends = allLines.filter((line) => line.steps.length)
    .flatMap((line) => [line.steps[0], line.steps[line.steps.length - 1]]);
  if (ends.length) [firstStep, lastStep] = [Math.min(...ends), Math.max(...ends)];
  across.view = null;
  drawAll();
}

/** Return buttons that hide and show runs, on all charts. */
function runsLegend() {
  return h("div", { class: "legend shown", role: "group", "aria-label": "Runs" }, run.runs.map(({ name }, i) =>
    toggle([h("i", { class: `stroke dash-${(i + Math.floor(i / 6)) % 6} tint-c${i % 6}` }), ` ${plain(name)}`],
      true, (on) => {
        if (on) hiddenRuns.delete(i);
        else hiddenRuns.add(i);
        allLines.forEach((line) => { line.hidden = hiddenRuns.has(line.run); });
        drawAll();
      })));
}

function lossOfRuns(section) {
  const { lines, log, gaps } = run.loss;
  if (!lines.length) return;
  const shown = lines.map((line) => {
    const [raw, smooth] = [numbers(line.value), numbers(line.smooth)];
    return runLine(line.run, line.step, smooth, { raw, smooth, shape: null });
  });
  const plot = { title: "Training loss", lines: shown, write, log, height: 300, spans: gaps.map(gapSpan) };
  const chart = lineChart(plot);
  section.append(
    h("div", { class: "tools" },
      toggle("Smoothed", true, (on) => {
        shown.forEach((line) => { line.values = on ? line.smooth : line.raw; });
        chart.draw();
      }),
      toggle("Logarithmic", log, (on) => { plot.log = on; chart.draw(); })),
    chart.node);
}

function validationOfRuns(section) {
  const { lines, title, log } = run.validation;
  if (!lines.length) return;
  const plot = { title, write, log, height: 240, lines: lines.map((line) => runLine(line.run, line.step, line.value)) };
  const chart = lineChart(plot);
  section.append(
    h("div", { class: "tools" }, toggle("Logarithmic", log, (on) => { plot.log = on; chart.draw(); })),
    chart.node);
}

function seriesOfRuns(section) {
  const cards = run.series.filter((series) => series.lines.length).map((series) => {
    const unit = series.unit && !["share", "seconds"].includes(series.unit) ? `, ${series.unit}` : "";
    const chart = lineChart({
      title: series.title, write: writer(series.unit), log: series.log, height: 170,
      lines: series.lines.map((line) => runLine(line.run, line.step, line.value,
        { stairs: series.stairs, shape: series.stairs ? null : line.run })),
    });
    return [series.id, h("figure", { class: "card" },
      h("figcaption", {}, h("span", {}, h("b", {}, plain(series.title)), unit)), chart.node)];
  });
  if (cards.length) section.append(...cardsOf(cards));
}

/** Return the largest of some numbers over the smallest, in words. */
function ratioWords(values, unit) {
  const seen = values.filter(finite);
  const [low, high] = [Math.min(...seen), Math.max(...seen)];
  if (seen.length < 2) return null;
  if (unit === "share") return `${Math.round(100 * (high - low))} points`;
  return low > 0 ? `${write(high / low)}×` : null;
}

/** All metrics of layers: along the depth of the model, and at one place over the run. */
function layersOfRuns(section) {
  const metrics = run.layers;
  if (!metrics.length) return;
  const parts = { guide: h("p", { class: "quiet" }), depth: h("div"), one: h("div"), table: h("div") };
  const body = h("div", { id: "metric-panel", role: "tabpanel", tabindex: -1 },
    parts.guide, parts.depth, parts.one, parts.table);
  const tables = new Map([...document.querySelectorAll(".differing")].map((node) => [node.dataset.metric, node]));
  let shown = null;
  const select = (i) => {
    shown?.forget();
    shown = metricView(metrics[i], tables.get(metrics[i].metric));
    body.setAttribute("aria-labelledby", `tab-${i}`);
    parts.guide.textContent = guideOf(metrics[i]);
    parts.depth.replaceChildren(...shown.depth);
    parts.one.replaceChildren(...shown.one);
    parts.table.replaceChildren(...[tables.get(metrics[i].metric)].filter(Boolean));
  };
  tables.forEach((node) => node.remove());
  section.append(tabs(metrics.map((metric) => metric.title), body.id, select, "Metric"), body);
  select(0);
}

/** Say how to read a metric along the depth. */
function guideOf({ band, unit }) {
  const usual = band ? ` Grey is what is usual, from ${write(band[0])} to ${write(band[1])}.` : "";
  const unitWords = unit && unit !== "share" ? ` (${unit})` : "";
  return `The median${unitWords} over each run, from the first layer to the last; a click on a layer shows it over the run.${usual}`;
}

function metricView(metric, table) {
  const state = { log: metric.scale === "log" };
  const write = writer(metric.unit);
  const depth = depthChart({
    label: () => `Median of ${metric.title} over each run, along the depth of the model: ${run.runs
      .map(({ name }, i) => [plain(name), numbers(metric.medians[i]).filter(finite)])
      .map(([name, seen]) => (seen.length ? `${name} from ${write(Math.min(...seen))} to ${write(Math.max(...seen))}`
        : `${name} not observed`)).join(", ")}.`,
    places: metric.places,
    write,
    band: metric.band,
    height: 240,
    log: () => state.log,
    lines: () => run.runs.map(({ name }, i) => ({ name, values: numbers(metric.medians[i]), colour: i,
      dash: (i + Math.floor(i / 6)) % 6, shape: i, run: i })).filter((line) => !hiddenRuns.has(line.run)),
    words: (i) => {
      const told = ratioWords(metric.medians.map((line) => numeric(line[i])), metric.unit);
      return told ? [[metric.unit === "share" ? "difference" : "ratio", told]] : [];
    },
    pick: (i) => choose(i),
  });
  const one = placeView(metric, write, state);
  const choose = (i, scroll = false) => {
    one.choose(i);
    if (scroll) one.nodes[0].scrollIntoView({ block: "center" });
  };
  table?.querySelectorAll("[data-place]").forEach((cell) => pickButton(cell, metric, choose));
  const begin = metric.places.indexOf(table?.querySelector("[data-place]")?.dataset.place);
  one.choose(Math.max(0, begin));
  return {
    depth: [h("div", { class: "tools" }, h("b", { class: "small" }, "By layer"),
      toggle("Logarithmic", state.log, (on) => { state.log = on; depth.draw(); one.draw(); }), depth.tools ?? ""), depth.node],
    one: one.nodes,
    forget: () => { depth.forget(); one.forget(); },
  };
}

/** Make a place in a table the button that shows its curve. */
function pickButton(cell, metric, choose) {
  const i = metric.places.indexOf(cell.dataset.place);
  if (i < 0 || cell.querySelector("button")) return;
  const button = h("button", { type: "button", class: "pick", title: "Show it over the run" });
  button.append(...cell.childNodes);
  cell.append(button);
  button.addEventListener("click", () => choose(i, true));
}

/** One place over the run, with what chooses it. */
function placeView(metric, write, state) {
  const field = h("select", { id: "place", "aria-label": "Layer whose curve is shown",
    on: { change: () => choose(Number(field.value)) } },
  metric.places.map((each, i) => h("option", { value: i }, plain(each))));
  const area = h("div");
  let [chart, plot, mine] = [null, null, []];
  const forget = () => {
    chart?.forget();
    mine.forEach((line) => allLines.splice(allLines.indexOf(line), 1));
  };
  const choose = (i) => {
    forget();
    field.value = String(i);
    mine = metric.runs.map(({ steps, values }, k) => (values[i].length ? runLine(k, steps, values[i]) : null)).filter(Boolean);
    plot = { title: `${metric.title} of ${plain(metric.places[i])}`, lines: mine, write, log: state.log, level: metric.band, height: 220 };
    chart = lineChart(plot);
    area.replaceChildren(chart.node);
  };
  const step = (by) => choose((Number(field.value) + by + metric.places.length) % metric.places.length);
  const button = (text, label, by) => h("button", { type: "button", "aria-label": label, on: { click: () => step(by) } }, text);
  return {
    nodes: [h("div", { class: "tools" }, h("b", { class: "small" }, "Over the run at"), field,
      button("‹", "Previous layer", -1), button("›", "Next layer", 1)), area],
    choose,
    draw: () => { plot.log = state.log; chart.draw(); },
    forget,
  };
}

themeButton();
fill("loss", lossOfRuns);
fill("validation", validationOfRuns);
fill("layers", layersOfRuns);
fill("series", seriesOfRuns);
controls(AXES_OF_ALL, switchAll, runsLegend());
across.listeners.push(drawAll);
forPaper();
