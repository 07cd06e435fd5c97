"use strict";

/** Histograms over the run: as a heat map, or as ridges behind each other. */
const MOST_RIDGES = 24;
/** Height of a ridge, in distances between two. */
const RIDGE = 2.6;

/** Return a chart of one place's histograms. `mode()` is "heat" or "ridges". */
function histogramChart(histogram, mode, height = 240) {
  return new Chart({
    height,
    zooms: false,
    label: () => histogramWords(histogram),
    option: (colours, width) => (mode() === "heat"
      ? heatOption(histogram, colours, width)
      : ridgeOption(histogram, colours, width)),
  });
}

function histogramWords(histogram) {
  const last = histogram.steps.length - 1;
  const at = (i) => `from ${write(histogram.low[i])} to ${write(histogram.high[i])} at step `
    + `${grouped(histogram.steps[i])}, most about ${write(mode(histogram, i))}`;
  return `Histograms of the ${histogram.kind} at ${plain(histogram.place)}: ${at(0)}`
    + `${last ? `; ${at(last)}` : ""}.`;
}

/** Return the middle of the fullest bin. */
function mode(histogram, i) {
  const counts = histogram.counts[i];
  const k = counts.indexOf(Math.max(...counts));
  return histogram.low[i] + ((k + 0.5) * (histogram.high[i] - histogram.low[i])) / counts.length;
}

/** Return the range of values that holds all histograms. */
function valueRange(histogram) {
  const low = Math.min(...histogram.low.filter(finite));
  const high = Math.max(...histogram.high.filter(finite));
  return low < high ? [low, high] : [low - 0.5, low + 0.5];
}

function heatOption(histogram, colours, width) {
  const ends = valueRange(histogram);
  const edges = columnEdges(histogram.steps);
  return {
    animation: false,
    grid: { left: 54, right: 16, top: 12, bottom: 26 },
    xAxis: runAxis(colours, width),
    yAxis: axis(colours, ends, ticks(...ends, 5), write, { splitLine: { show: false } }),
    series: [painted((pen, to) => {
      histogram.steps.forEach((_, i) => {
        const counts = histogram.counts[i];
        const bin = (histogram.high[i] - histogram.low[i]) / counts.length;
        if (!finite(bin)) return;
        const full = Math.max(...counts, 1);
        const [x, right] = [edges[i], edges[i + 1]].map((edge) => Math.round(to.x(onAxis(edge))));
        counts.forEach((n, k) => {
          if (!n) return;
          // Whole pixels, or the ground shines through between neighbours.
          const [bottom, top] = [k, k + 1].map((edge) => Math.round(to.y(histogram.low[i] + edge * bin)));
          // The square root, so that thin tails are seen beside a peak.
          pen.fillStyle = between(VIRIDIS, Math.sqrt(n / full));
          pen.fillRect(x, top, Math.max(right - x, 1), Math.max(bottom - top, 1));
        });
      });
    })],
  };
}

function ridgeOption(histogram, colours, width) {
  const ends = valueRange(histogram);
  const [from, to] = shownSteps();
  const inView = histogram.steps.map((_, i) => i).filter((i) => histogram.steps[i] >= from && histogram.steps[i] <= to);
  const n = Math.min(inView.length, MOST_RIDGES);
  const chosen = [...new Set(Array.from({ length: n }, (_, k) =>
    inView[Math.round((k * (inView.length - 1)) / Math.max(n - 1, 1))]))];
  const rows = chosen.length;
  const labelled = chosen.map((i, k) => [k, i]).filter(([k]) => k % Math.ceil(rows / 6) === 0 || k === rows - 1);
  return {
    animation: false,
    grid: { left: 64, right: 16, top: 8, bottom: 26 },
    xAxis: axis(colours, ends, ticks(...ends, Math.max(3, Math.floor(width / 120))), write,
      { axisLine: { show: true, onZero: false, lineStyle: { color: colours.quiet } }, splitLine: { show: false } }),
    yAxis: axis(colours, [-RIDGE, Math.max(rows - 1, 1)], labelled.map(([k]) => k),
      (k) => tickLabel(onAxis(histogram.steps[chosen[Math.round(k)]])),
      { inverse: true, splitLine: { show: false } }),
    series: [painted((pen, area) => {
      const tall = area.y(RIDGE) - area.y(0);
      chosen.forEach((i, k) => ridge(pen, area, histogram, i, k, tall, colours, k / Math.max(rows - 1, 1)));
    })],
  };
}

function ridge(pen, area, histogram, i, k, tall, colours, share) {
  const counts = histogram.counts[i];
  const bin = (histogram.high[i] - histogram.low[i]) / counts.length;
  if (!finite(bin)) return;
  const full = Math.max(...counts, 1);
  const base = area.y(k);
  const x = (j) => area.x(histogram.low[i] + (j + 0.5) * bin);
  pen.beginPath();
  pen.moveTo(area.x(histogram.low[i]), base);
  counts.forEach((n, j) => pen.lineTo(x(j), base - (n / full) * tall));
  pen.lineTo(area.x(histogram.high[i]), base);
  pen.fillStyle = between(VIRIDIS, 0.1 + 0.7 * share);
  pen.strokeStyle = colours.paper;
  pen.lineWidth = 1.4;
  pen.fill();
  pen.stroke();
}

function histogramsSection(section) {
  const all = run.histograms ?? [];
  if (!all.length) return;
  const state = { kind: all[0].kind, mode: "heat", index: 0 };
  const kinds = [...new Set(all.map((histogram) => histogram.kind))];
  const names = { activation: "Activations", gradient: "Gradients", weight: "Weights" };
  const select = h("select", {
    "aria-label": "Place",
    on: { change: () => { state.index = Number(select.value); redraw(); } },
  });
  const area = h("div");
  let chart = null;
  const ofKind = () => all.filter((histogram) => histogram.kind === state.kind);
  const redraw = () => {
    chart?.forget();
    chart = histogramChart(ofKind()[state.index], () => state.mode, 300);
    select.value = String(state.index);
    area.replaceChildren(chart.node);
  };
  const fill = () => {
    const before = select.selectedOptions[0]?.textContent;
    select.replaceChildren(...ofKind().map((each, i) => h("option", { value: i }, plain(each.place))));
    state.index = Math.max(0, ofKind().findIndex((each) => plain(each.place) === before));
    redraw();
  };
  const move = (by) => {
    state.index = (state.index + by + ofKind().length) % ofKind().length;
    redraw();
  };
  section.append(
    h("div", { class: "tools" },
      kinds.length > 1 ? choice("Of", kinds.map((kind) => [kind, names[kind] ?? kind]), state.kind,
        (kind) => { state.kind = kind; fill(); }) : null,
      choice("Drawn as", [["heat", "Over time"], ["ridges", "Ridges"]], state.mode,
        (mode) => { state.mode = mode; chart.draw(); }),
      select,
      h("button", { type: "button", "aria-label": "Previous place", on: { click: () => move(-1) } }, "‹"),
      h("button", { type: "button", "aria-label": "Next place", on: { click: () => move(1) } }, "›")),
    h("p", { class: "quiet" }, "Bright is where most values are; each moment is scaled to its own peak."),
    area,
  );
  fill();
}
