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
  const parts = { tools: h("div", { class: "tools" }), legend: h("p", { class: "legend", "aria-label": "Legend" }),
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
    parts.profile.replaceChildren(current.profile.node);
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

/** Return tabs of which one is chosen, as arrow keys and screen readers expect them. */
function tabs(titles, panel, choose, label) {
  const buttons = titles.map((title, i) => h("button", {
    type: "button",
    role: "tab",
    id: `tab-${i}`,
    "aria-controls": panel,
    "aria-selected": i === 0,
    tabindex: i === 0 ? 0 : -1,
    on: {
      click: () => {
        buttons.forEach((button, k) => {
          button.setAttribute("aria-selected", k === i);
          button.tabIndex = k === i ? 0 : -1;
        });
        buttons[i].scrollIntoView?.({ block: "nearest", inline: "nearest" });
        choose(i);
      },
    },
  }, title));
  rove(buttons);
  return h("div", { class: "tabs", role: "tablist", "aria-label": label }, buttons);
}

/** Return the chart of a metric along the depth of the model, at the chosen step and the first. */
function profile(map, state) {
  const write = writer(map.unit);
  const column = (k) => map.values.map((line) => line[k]);
  const moments = () => {
    const chosen = chosenStep(map, state);
    return chosen === 0 ? [0] : [chosen, 0];
  };
  const sentences = () => {
    const values = column(chosenStep(map, state));
    const step = grouped(map.steps[chosenStep(map, state)]);
    return `${map.title} along the depth of the model at step ${step}: ${write(values[0])} at `
      + `${plain(map.places[0])}, ${write(values[values.length - 1])} at ${plain(map.places[values.length - 1])}.`;
  };
  return new Chart({
    height: 210,
    label: sentences,
    pick: (event) => { if (event.dataIndex !== undefined) openLayer(layerOf(map, event.dataIndex)); },
    option: (colours) => {
      const log = state.log[map.id];
      const bend = bent(log);
      const all = map.values.flat().map(bend).filter((value) => value !== null);
      let [low, high] = all.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
      if (low > high) [low, high] = [0, 1];
      if (!log && low > 0) low = 0;
      const room = (high - low) * 0.05 || 1;
      const ends = [low === 0 && !log ? 0 : low - room, high + room];
      const values = (log ? logTicks : ticks)(...ends, 5);
      const few = map.places.length <= 40;
      return {
        animation: false,
        grid: { left: 54, right: 16, top: 12, bottom: 44 },
        xAxis: {
          type: "category",
          data: shortNames(map.places),
          name: "first layer to last",
          nameLocation: "middle",
          nameGap: few ? 30 : 12,
          nameTextStyle: { color: colours.quiet, fontSize: 11, fontFamily: FONT },
          axisTick: { show: few, lineStyle: { color: colours.rule } },
          axisLine: { onZero: false, lineStyle: { color: colours.quiet } },
          axisLabel: { show: few, color: colours.quiet, fontSize: 11, hideOverlap: true, fontFamily: FONT },
        },
        yAxis: axis(colours, ends, values, (v) => write(Number((log ? 10 ** v : v).toPrecision(3)))),
        tooltip: tooltip(colours, (found) => profileWords(map, moments(), column, found)),
        series: [...moments().map((k, n) => ({
          type: "line",
          data: column(k).map(bend),
          symbol: n ? "emptyCircle" : "circle",
          symbolSize: few ? 7 : 3,
          showSymbol: map.places.length < 200,
          lineStyle: { color: n ? colours.quiet : colours.line, width: n ? 1.2 : 1.8, type: n ? "dashed" : "solid" },
          itemStyle: { color: n ? colours.quiet : colours.line },
          z: n ? 2 : 3,
          emphasis: { disabled: true },
        })), notFinite(column(chosenStep(map, state)), ends[1], colours), bandArea(map, log, colours)],
      };
    },
  });
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

/** Mark places whose number is not finite, at the top. */
function notFinite(values, top, colours) {
  return {
    type: "line",
    data: values.map((value) => (value !== null && !finite(value) ? top : null)),
    lineStyle: { width: 0 },
    symbol: "triangle",
    symbolSize: 10,
    itemStyle: { color: colours["stripe-a"] },
    emphasis: { disabled: true },
    z: 4,
  };
}

function bandArea(map, log, colours) {
  if (!map.band) return { type: "line", data: [] };
  const bend = bent(log);
  return { type: "line", data: [], markArea: { silent: true, itemStyle: { color: colours.quiet, opacity: 0.16 },
    data: [[{ yAxis: bend(map.band[0]) }, { yAxis: bend(map.band[1]) }]] } };
}

/** Say which line of the profile is of which step. */
function profileKey(map, state) {
  const key = (style, k) => h("span", { class: "key" }, h("i", { class: `stroke ${style}` }), `step ${grouped(map.steps[k])}`);
  const chosen = chosenStep(map, state);
  return [key("dash-0 tint-line", chosen), ...(chosen ? [key("dash-5 tint-c5", 0)] : [])];
}

function profileWords(map, moments, column, found) {
  if (!found.length) return "";
  const place = found[0].dataIndex;
  const write = writer(map.unit);
  return h("div", { class: "tip" }, h("b", {}, plain(map.places[place])), h("table", {}, moments.map((k) =>
    h("tr", {}, h("th", {}, `step ${grouped(map.steps[k])}`), h("td", {}, write(column(k)[place]))))));
}

const layerOf = (map, i) => run.layers[map.layer[i]]?.path ?? map.places[i];
