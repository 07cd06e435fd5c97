"use strict";

/** A layer's page: all that is known of it, in a dialog that Escape closes. */
let dialog = null;
let dialogCharts = [];

/** Whether a place belongs to a layer, or to one in it. */
const belongs = (map, i, path) => inside(map.places[i], path)
  || (run.layers[map.layer[i]] && inside(run.layers[map.layer[i]].path, path));

function openLayer(path) {
  hideTip();
  dialogCharts.forEach((chart) => chart.forget());
  const before = new Set(charts);
  const content = layerPage(path);
  dialogCharts = [...charts].filter((chart) => !before.has(chart));
  if (!dialog) {
    dialog = h("dialog", { class: "layer", "aria-labelledby": "layer-name" });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => {
      dialogCharts.forEach((chart) => chart.forget());
      dialogCharts = [];
      dialog.replaceChildren();
    });
    document.body.append(dialog);
  }
  dialog.replaceChildren(...content);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  dialog.querySelector("h2").focus();
}

function layerPage(path) {
  const layer = run.layers.find((each) => each.path === path);
  const found = concerning(path);
  const facts = [
    layer?.kind ? ["Kind", plain(layer.kind)] : null,
    layer?.parameters?.length ? ["Parameters", layer.parameters.map(plain).join(", ")] : null,
    layer?.calls?.length ? ["Called as", layer.calls.map(plain).join(", ")] : null,
    ["Findings", found.length ? found.map((finding) => h("a", {
      href: `#finding-${finding.number}`,
      on: { click: () => dialog.close() },
    }, `${SIGNS[finding.severity]} ${finding.number} ${plain(finding.code)} `)) : "none names it"],
  ].filter(Boolean);
  const cards = [...run.maps.map((map) => mapCard(map, path)).filter(Boolean), ...histogramCards(path)];
  return [
    h("div", { class: "bar" }, h("h2", { id: "layer-name", tabindex: -1 }, plain(path) || "the model"), neighbours(path),
      h("button", { type: "button", on: { click: () => dialog.close() } }, "Close")),
    h("dl", { class: "fields" }, facts.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)])),
    cards.length ? h("div", { class: "cards" }, cards) : h("p", { class: "quiet" }, "Nothing was observed here."),
  ];
}

/** Return buttons to the layers before and behind. */
function neighbours(path) {
  const known = run.layers.map((layer) => layer.path).filter(Boolean);
  const i = known.indexOf(path);
  const button = (to, text, label) => h("button", {
    type: "button", "aria-label": label, disabled: i < 0 || known[to] === undefined,
    on: { click: () => openLayer(known[to]) },
  }, text);
  return h("span", {}, button(i - 1, "‹", "Previous layer"), " ", button(i + 1, "›", "Next layer"));
}

/** Return a place as seen from a layer that it is in. */
const within = (place, path) => (inside(place, path) && place.length > path.length
  ? place.slice(path.length + 1) : place);

/** Lines of one metric on a layer's page. */
const MOST_LINES = 6;

function mapCard(map, path) {
  const mine = map.places.map((_, i) => i).filter((i) => belongs(map, i, path));
  if (!mine.length) return null;
  const shown = mine.slice(0, MOST_LINES);
  const plot = {
    title: map.title,
    write: writer(map.unit),
    log: map.scale === "log",
    level: map.band,
    findings: concerning(path),
    height: 170,
    lines: shown.map((i, n) => ({ name: within(map.places[i], path), steps: map.steps, values: map.values[i], colour: n, shape: n, dash: n })),
  };
  const chart = lineChart(plot);
  return h("figure", { class: "card" },
    h("figcaption", {}, h("b", {}, map.title), mine.length > shown.length ? ` (${shown.length} of ${count(mine.length, "place")})` : ""),
    shown.length > 1 ? lineLegend(plot, chart) : null,
    chart.node);
}

function histogramCards(path) {
  const layer = run.layers.find((each) => each.path === path);
  const own = new Set([...(layer?.parameters ?? []), ...(layer?.calls ?? [])]);
  return (run.histograms ?? []).filter((each) => own.has(each.place) || inside(each.place, path)).slice(0, 6)
    .map((histogram) => h("figure", { class: "card" },
      h("figcaption", {}, h("b", {}, `Histogram of the ${plain(histogram.kind)}`), ` ${plain(within(histogram.place, path))}`),
      histogramChart(histogram, () => "heat", 170).node));
}
