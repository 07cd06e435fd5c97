"use strict";

/** The loss, and other single curves. */

function lossSection(section) {
  const { train, validation, lr, spikes, log } = run.loss ?? {};
  if (!train?.step?.length && !validation?.step?.length) return;
  const values = numbers(train?.value);
  const lines = [];
  if (values.length) {
    lines.push({ name: "training loss, smoothed", steps: train.step, values: train.smooth ?? values, shape: null });
  }
  if (validation?.step?.length) {
    lines.push({ name: validation.name || "validation loss", steps: validation.step,
      values: validation.value, colour: 1, shape: 1 });
  }
  if (spikes?.length && values.length) {
    lines.push({ name: "spikes", steps: spikes, values: spikes.map((step) => highest(train, step)),
      colour: 3, shape: 2, points: true });
  }
  Object.entries(lr ?? {}).forEach(([name, rate], i) => lines.push({
    name: `learning rate ${name}`, steps: rate.step, values: rate.value, colour: 2, dash: 1 + (i % 5),
    shape: null, right: true, stairs: true, hidden: i > 2,
  }));
  const plot = {
    title: "Loss",
    lines,
    write,
    writeRight: write,
    log: Boolean(log),
    height: 300,
    band: train?.low?.length
      ? { steps: train.step, low: numbers(train.low), high: numbers(train.high) } : null,
    findings: run.findings,
    spans: (train?.nonfinite ?? []).map(([first, last]) => [first - 0.5, last + 0.5, "NaN or inf"]),
  };
  const chart = lineChart(plot);
  section.append(
    h("div", { class: "tools" }, lineLegend(plot, chart),
      plot.band ? h("span", { class: "key small" }, h("i", { class: "swatch band-swatch" }), bandWords(train)) : null,
      toggle("Logarithmic", plot.log, (on) => { plot.log = on; chart.draw(); })),
    chart.node,
    run.findings.length ? marksList() : "",
  );
}

const bandWords = ({ every }) => (every > 1 ? `least to largest of ${grouped(every)} steps` : "each step");

/** Findings by number, as the chart marks them. */
const marksList = () => h("p", { class: "legend" },
  run.findings.map((finding) => h("span", { class: "key" }, badge(finding),
    ` ${plain(finding.code)} from step ${grouped(finding.steps[0])}`)));

/** Return the highest loss about a step: of the band, where there is one. */
function highest(train, step) {
  const i = nearest(train.step, step);
  return numeric(train.high?.[i]) ?? numeric(train.value[i]);
}

function seriesSection(section) {
  // The validation loss is in the chart of the loss, and against training's.
  const told = run.gap && run.loss?.validation ? `validation/${run.loss.validation.name}` : null;
  const shown = Object.entries(run.series ?? {})
    .filter(([name, series]) => series.step.length && name !== told);
  const cards = shown.map(([name, series]) => [name, seriesCard(series)]);
  if (run.gap) cards.unshift(["", gapCard(run.gap)]);
  if (cards.length) section.append(...cardsOf(cards));
}

/** Training against validation loss, at each validation. */
function gapCard({ step, train, validation }) {
  const plot = {
    title: "Training against validation",
    lines: [
      { name: "training, mean since the last validation", steps: step, values: train, colour: 0, shape: 0 },
      { name: "validation", steps: step, values: validation, colour: 1, shape: 1, dash: 1 },
    ],
    write,
    height: 150,
  };
  const chart = lineChart(plot);
  const [a, b] = plot.lines.map((line) => line.values[step.length - 1]);
  return h("figure", { class: "card" },
    h("figcaption", {}, h("b", {}, plot.title), h("span", { class: "newest" }, `gap ${write(b - a)}`)),
    lineLegend(plot, chart), chart.node);
}

function seriesCard(series) {
  const values = numbers(series.value);
  const plot = {
    title: series.title,
    lines: [{ name: series.title, steps: series.step, values, shape: 0 }],
    write: writer(series.unit),
    log: series.scale === "log",
    height: 150,
  };
  const unit = series.unit && !["share", "seconds"].includes(series.unit) ? `, ${series.unit}` : "";
  const last = plot.write(values[values.length - 1]);
  return h("figure", { class: "card" },
    h("figcaption", {}, h("span", {}, h("b", {}, plain(series.title)), unit), h("span", { class: "newest" }, last)),
    series.guide ? h("p", { class: "quiet" }, series.guide) : null,
    lineChart(plot).node);
}
