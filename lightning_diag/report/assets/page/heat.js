"use strict";

/** One metric of all layers over the run: the tree on the left, a row of colours for each. */
const ROW = 24;
const FOOT = 26;

class LayerMap {
  constructor(map, state) {
    Object.assign(this, { map, state });
    this.nodes = treeOf(map);
    this.write = writer(map.unit);
    this.tree = h("div", { class: "tree", role: "tree", "aria-label": `${map.title}: layers` });
    this.chart = new Chart({
      height: 100,
      zooms: true,
      label: () => this.sentence(),
      option: (colours, width, paper) => this.option(colours, width, paper),
      printWidth: 450,
      printHeight: () => Math.min(this.rows.length, 150) * ROW + FOOT,
    });
    this.frame = h("div", { class: "cursor", hidden: true });
    this.chart.node.append(this.frame);
    const pane = h("div", { class: "pane" }, this.chart.node);
    this.node = h("div", { class: "layers-scroll", tabindex: -1 }, this.tree, pane);
    this.node.addEventListener("scroll", () => requestAnimationFrame(() => this.chart.draw()));
    this.follow();
    this.refresh();
  }

  /** Show the rows that the state asks for. */
  refresh() {
    this.rows = rowsOf(this.nodes, this.state);
    const focused = this.tree.contains(document.activeElement);
    const active = this.rows.findIndex((row) => row.node.path === this.state.active);
    this.tree.replaceChildren(...this.rows.map((row, i) => this.row(row, i === Math.max(active, 0))));
    this.rows.length || this.tree.append(h("p", { class: "quiet" }, "No layer has this in its name."));
    const tall = this.rows.length * ROW + FOOT;
    this.tree.style.height = `${tall}px`;
    this.chart.setHeight(Math.min(tall, Math.max(240, Math.min(innerHeight * 0.75, 680))));
    this.node.style.maxHeight = `${this.chart.height}px`;
    if (focused) this.tree.children[Math.max(active, 0)]?.focus();
    this.chart.draw();
  }

  row({ node, depth, open }, active) {
    const group = node.children.length > 0;
    const sign = group ? (open ? "▾" : "▸") : "";
    const step = chosenStep(this.map, this.state);
    const value = rangeWords(this.map, node, step, this.write);
    const shown = group ? this.rowsBadges(node, open) : concerning(node.path);
    return h("div", {
      class: "row",
      role: "treeitem",
      "aria-level": depth,
      "aria-expanded": group ? open : null,
      tabindex: active ? 0 : -1,
      title: plain(node.path),
      "data-path": node.path,
      on: {
        click: (event) => {
          if (event.target.closest("a")) return;
          if (group && !event.target.closest(".name")) this.fold(node, !open);
          else this.open(node);
        },
        keydown: (event) => this.key(event, node, open),
        focus: () => this.activate(node),
      },
    },
    h("span", { class: `indent indent-${Math.min(depth - 1, 9)}` }),
    h("span", { class: "fold", "aria-hidden": true }, sign),
    h("span", { class: "name" }, plain(node.name)), " ",
    shown.slice(0, 3).map(badgeWithoutFocus),
    " ", h("span", { class: "value" }, open ? "" : value));
  }

  /** A closed group carries the findings of what is in it. */
  rowsBadges(node, open) {
    if (open) return [];
    const found = new Set(node.all.flatMap((i) => concerning(this.map.places[i])));
    return [...found].sort((a, b) => a.number - b.number);
  }

  activate(node) {
    this.state.active = node.path;
    [...this.tree.children].forEach((row) => { row.tabIndex = row.dataset.path === node.path ? 0 : -1; });
  }

  fold(node, open) {
    this.state.active = node.path;
    const filtering = this.state.filter.trim() || this.state.onlyFound;
    if (filtering) open ? this.state.closed.delete(node.path) : this.state.closed.add(node.path);
    else open ? this.state.open.add(node.path) : this.state.open.delete(node.path);
    this.refresh();
  }

  open(node) {
    this.activate(node);
    openLayer(node.layer ? node.layer.path : node.path);
  }

  key(event, node, open) {
    const rows = [...this.tree.children];
    const i = rows.indexOf(event.currentTarget);
    const go = (to) => rows[Math.min(Math.max(to, 0), rows.length - 1)].focus();
    const parent = this.rows.findIndex((row) => row.node === node.parent);
    const group = node.children.length > 0;
    const acts = {
      ArrowDown: () => go(i + 1),
      ArrowUp: () => go(i - 1),
      Home: () => go(0),
      End: () => go(rows.length - 1),
      ArrowRight: () => (group && !open ? this.fold(node, true) : go(i + 1)),
      ArrowLeft: () => (group && open ? this.fold(node, false) : parent >= 0 && go(parent)),
      Enter: () => this.open(node),
      " ": () => (group ? this.fold(node, !open) : this.open(node)),
    };
    if (!acts[event.key] || event.target !== event.currentTarget) return;
    event.preventDefault();
    acts[event.key]();
  }

  sentence() {
    const { map } = this;
    const step = chosenStep(map, this.state);
    const known = map.places.map((place, i) => [map.values[i][step], place]).filter(([v]) => finite(v));
    const ends = known.sort((a, b) => a[0] - b[0]);
    const told = ends.length
      ? `At step ${grouped(map.steps[step])} from ${this.write(ends[0][0])} (${plain(ends[0][1])}) to `
        + `${this.write(ends[ends.length - 1][0])} (${plain(ends[ends.length - 1][1])}).`
      : "No finite number.";
    return `Heat map, ${map.title}: ${count(map.places.length, "place")} over the run. ${told}`;
  }

  option(colours, width, paper) {
    return {
      animation: false,
      grid: { left: 0, right: 1, top: 0, bottom: FOOT },
      xAxis: runAxis(colours, width),
      yAxis: { type: "value", show: false, min: 0, max: 1 },
      series: [painted((pen, to) => this.paint(pen, to, colours, paper ? 0 : this.node.scrollTop))],
    };
  }

  paint(pen, to, colours, scrolled) {
    const { map } = this;
    const found = scaleOf(map, this.state.log[map.id], colours);
    const edges = columnEdges(map.steps).map((step) => to.x(onAxis(step)));
    const hatch = stripes(pen, colours);
    pen.fillStyle = colours.nothing;
    pen.fillRect(0, 0, to.width, to.height);
    this.rows.forEach(({ node, open }, i) => {
      const y = i * ROW - scrolled;
      // An open group leaves the colours to what is in it.
      if (open || y + ROW < 0 || y > to.height) return;
      const [low, high] = valuesOf(map, node);
      const brush = { pen, edges, scale: found, colours, hatch };
      const half = low === high ? ROW - 1 : (ROW - 1) / 2;
      paintRow(brush, high, y + 0.5, half);
      if (low !== high) paintRow(brush, low, y + 0.5 + half, half);
    });
    const at = to.x(onAxis(map.steps[chosenStep(map, this.state)]));
    pen.fillStyle = colours.ink;
    pen.fillRect(Math.min(Math.max(at, 1), to.width - 2) - 1, 0, 2, to.height);
  }

  /** Say what is under the pointer, and open its layer on a click. */
  follow() {
    const { node } = this.chart;
    const cell = (event) => {
      const box = node.getBoundingClientRect();
      const row = this.rows[Math.floor((event.clientY - box.top + this.node.scrollTop) / ROW)];
      if (!row || !this.chart.instance || event.clientY > box.bottom - FOOT) return null;
      const step = stepAt(this.chart.instance.convertFromPixel({ xAxisIndex: 0 }, event.clientX - box.left));
      const k = Math.max(0, bisect(this.map.steps, step + 0.5));
      return { row, k };
    };
    node.addEventListener("pointermove", (event) => {
      const found = cell(event);
      if (!found) return hideTip();
      const { node: layer } = found.row;
      const value = rangeWords(this.map, layer, found.k, this.write);
      showTip(event, [h("b", {}, plain(layer.path)), h("div", {}, `${this.map.title}: ${value}`),
        h("div", { class: "quiet" }, when(this.map.steps[found.k]))]);
    });
    node.addEventListener("pointerleave", hideTip);
    node.addEventListener("click", (event) => {
      const found = !this.chart.dragged && cell(event);
      if (found) this.open(found.row.node);
    });
  }
}

const badgeWithoutFocus = (finding) => {
  const node = badge(finding);
  node.tabIndex = -1;
  return node;
};

/** Return where the columns of a map begin, and where the last one ends. */
function columnEdges(steps) {
  const gap = steps.length > 1 ? steps[steps.length - 1] - steps[steps.length - 2] : 1;
  return [...steps, Math.max(lastStep, steps[steps.length - 1] + Math.min(gap, 1))];
}

/** Paint a row of cells; what is not finite is never covered by its neighbours. */
function paintRow({ pen, edges, scale, colours, hatch }, values, y, height) {
  const cell = (k, fill, least = 1) => {
    pen.fillStyle = fill;
    pen.fillRect(edges[k], y, Math.max(edges[k + 1] - edges[k] + 0.3, least), height);
  };
  values.forEach((value, k) => {
    if (value === null || !Number.isFinite(value)) return;
    if (scale.log && value <= 0) {
      cell(k, colours.panel);
      pen.fillStyle = colours.quiet;
      pen.fillRect(edges[k], y + height / 2 - 1, Math.max(edges[k + 1] - edges[k], 1), 2);
    } else cell(k, scale.colour(value));
  });
  values.forEach((value, k) => {
    if (value !== null && !Number.isFinite(value)) cell(k, hatch, 3);
  });
  pen.fillStyle = colours.rule;
  values.forEach((value, k) => {
    for (let x = edges[k] + 3; value === null && x < edges[k + 1]; x += 6) {
      pen.fillRect(x, y + height / 2 - 1, 1.5, 1.5);
    }
  });
}

const tip = h("div", { class: "floating tip", hidden: true });

function showTip(event, content) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const { offsetWidth: wide, offsetHeight: tall } = tip;
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - wide - 8))}px`;
  tip.style.top = `${event.clientY + 18 + tall > innerHeight ? event.clientY - tall - 10 : event.clientY + 18}px`;
}

function hideTip() {
  tip.hidden = true;
}
