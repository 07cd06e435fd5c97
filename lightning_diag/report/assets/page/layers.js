"use strict";

/** The section of all layers: metric, scale, filter, the map, and its profile at one step. */

/** Return the index of the chosen step among a map's steps. */
const chosenStep = (map, state) => (state.step === null
  ? map.steps.length - 1
  : nearest(map.steps, state.step));

function layersSection(section) {
  if (!run.maps.length) return;
  const maps = run.maps;
  const state = { filter: "", onlyFound: false, closed: new Set(), active: null, step: null, log: {} };
  state.open = new Set();
  maps.forEach((map) => {
    state.log[map.id] = map.scale === "log";
    const nodes = treeOf(map);
    openAtFirst(nodes).forEach((path) => state.open.add(path));
  });
  const views = new Map();
  const body = h("div", { id: "map-panel", role: "tabpanel", tabindex: -1 });
  const parts = { tools: h("div", { class: "tools" }), legend: h("p", { class: "legend", role: "group", "aria-label": "Legend" }),
    guide: h("p", { class: "quiet" }), place: h("div"), slider: h("div", { class: "tools" }), key: h("p", { class: "legend" }), profile: h("div") };
  body.append(parts.guide, parts.tools, parts.legend, parts.place, parts.slider, parts.key, parts.profile);
  let current = null;

  const redraw = () => {
    current.view.refresh();
    current.profile.draw();
    parts.legend.replaceChildren(...colourLegend(current.map, state.log[current.map.id], palette())
      .filter(Boolean));
    parts.key.replaceChildren(...profileKey(current.map, state));
  };
  const select = (map) => {
    if (!views.has(map.id)) views.set(map.id, { map, view: new LayerMap(map, state), profile: profile(map, state) });
    current = views.get(map.id);
    body.setAttribute("aria-labelledby", `tab-${maps.indexOf(map)}`);
    parts.guide.textContent = `${map.guide ?? ""} A closed group shows the largest number in it above, and the smallest below.`.trim();
    parts.place.replaceChildren(current.view.node);
    parts.profile.replaceChildren(...[current.profile.tools, current.profile.node].filter(Boolean));
    parts.tools.replaceChildren(
      filterField(state, redraw),
      run.findings.length ? toggle("Only what findings name", state.onlyFound, (on) => { state.onlyFound = on; redraw(); }) : "",
      toggle("Logarithmic", state.log[map.id], (on) => { state.log[map.id] = on; redraw(); }),
      h("button", { type: "button", on: { click: () => { foldAll(current.view.nodes, state, true); redraw(); } } }, "Open all"),
      h("button", { type: "button", on: { click: () => { foldAll(current.view.nodes, state, false); redraw(); } } }, "Close all"),
    );
    parts.slider.replaceChildren(stepSlider(map, state, redraw));
    redraw();
  };
  section.append(tabs(maps.map((map) => map.title), body.id, (i) => select(maps[i]), "Metric"), body);
  select(maps[0]);
  across.listeners.push(() => current.profile.draw());
  themeListeners.push(redraw);
}

function foldAll(nodes, state, open) {
  state.open.clear();
  const walk = (node) => {
    if (node.children.length) state.open.add(node.path);
    node.children.forEach(walk);
  };
  if (open) nodes.forEach(walk);
}

function filterField(state, redraw) {
  const field = h("input", {
    type: "search",
    placeholder: "Filter layers",
    "aria-label": "Filter layers by name",
    on: { input: () => { state.filter = field.value; state.closed.clear(); redraw(); } },
  });
  field.value = state.filter;
  return field;
}

/** Return a slider over a map's steps. */
function stepSlider(map, state, redraw) {
  const told = h("output", {});
  const tell = () => {
    const step = map.steps[chosenStep(map, state)];
    told.textContent = when(step);
    slider.setAttribute("aria-valuetext", when(step));
  };
  const slider = h("input", {
    type: "range",
    min: 0,
    max: map.steps.length - 1,
    value: chosenStep(map, state),
    "aria-label": "Step that numbers and profile are of",
    on: {
      input: () => {
        const i = Number(slider.value);
        state.step = i === map.steps.length - 1 ? null : map.steps[i];
        tell();
        redraw();
      },
    },
  });
  tell();
  return h("label", { class: "slider" }, h("span", {}, "Numbers and profile at"), slider, told);
}

/** Return the chart of a metric along the depth of the model, at the chosen step and the first. */
function profile(map, state) {
  const write = writer(map.unit);
  const column = (k) => map.values.map((line) => line[k]);
  return depthChart({
    label: () => {
      const values = column(chosenStep(map, state));
      const step = grouped(map.steps[chosenStep(map, state)]);
      return `${map.title} along the depth of the model at step ${step}: ${write(values[0])} at `
        + `${plain(map.places[0])}, ${write(values[values.length - 1])} at ${plain(map.places[values.length - 1])}.`;
    },
    places: map.places,
    write,
    band: map.band,
    log: () => state.log[map.id],
    lines: () => {
      const chosen = chosenStep(map, state);
      return (chosen === 0 ? [0] : [chosen, 0]).map((k, n) => (
        { name: `step ${grouped(map.steps[k])}`, values: column(k), faint: n > 0, dash: n, shape: n ? 4 : 0 }));
    },
    // All steps, so that the axis stays as it is while the slider moves.
    around: (i) => map.values[i],
    pick: (i) => openLayer(layerOf(map, i)),
  });
}

/** Say which line of the profile is of which step. */
function profileKey(map, state) {
  const key = (style, k) => h("span", { class: "key" }, h("i", { class: `stroke ${style}` }), `step ${grouped(map.steps[k])}`);
  const chosen = chosenStep(map, state);
  return [h("b", { class: "small" }, "By layer"), key("dash-0 tint-line", chosen), ...(chosen ? [key("dash-5 tint-c5", 0)] : [])];
}

const layerOf = (map, i) => run.layers[map.layer[i]]?.path ?? map.places[i];
