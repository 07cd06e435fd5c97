"use strict";

/** One chart on the page: drawn when it is first seen, and again when size, colours or view change. */
const charts = new Set();

class Chart {
  /**
   * @param {object} parts `height` in pixels; `label()`, the chart in a sentence;
   *   `option(colours, width, paper)`, what ECharts draws; `pick(event)`, what a click does;
   *   `zooms`, whether dragging across it chooses a part of the run, or `choose(ends)` and
   *   `all()`, what it does instead with both values across, and what a double click does.
   */
  constructor(parts) {
    this.parts = parts;
    this.canvas = h("div", { class: "canvas" });
    this.node = h("div", { class: "chart", role: "img" }, this.canvas);
    this.setHeight(parts.height);
    this.node.setAttribute("aria-label", parts.label());
    if (parts.zooms) zoomByDragging(this, parts.zooms === true ? zoomsRun : parts.zooms);
    charts.add(this);
    whenSeen.observe(this.node);
    whenSized.observe(this.node);
  }

  setHeight(height) {
    this.height = height;
    this.node.style.height = `${height}px`;
  }

  get width() {
    return this.node.clientWidth;
  }

  /** Draw, if there is room for it and it was ever seen. */
  draw() {
    if (!this.seen || !this.width) return;
    this.node.setAttribute("aria-label", this.parts.label());
    if (!this.instance) {
      this.instance = echarts.init(this.canvas, null, { renderer: "canvas" });
      if (this.parts.pick) this.instance.on("click", (event) => this.parts.pick(event));
    }
    this.instance.resize({ width: this.width, height: this.height });
    this.instance.setOption(this.parts.option(palette(), this.width, false), true);
    this.node.dataset.drawn = "";
  }

  /** Return the chart as an image for paper. */
  print() {
    const width = this.node.closest(".card") ? 330 : this.parts.printWidth ?? 680;
    const height = this.parts.printHeight?.() ?? this.height;
    const copy = echarts.init(h("div"), null, { width, height, devicePixelRatio: 2 });
    copy.setOption(this.parts.option(palette(true), width, true), true);
    const source = copy.getDataURL({ pixelRatio: 2, backgroundColor: "#ffffff" });
    copy.dispose();
    const image = h("img", { class: "paper", src: source, alt: this.parts.label() });
    // Beside a tree the rows must stay as high as those of the tree.
    if (this.parts.printHeight) image.style.height = `${height}px`;
    return image;
  }

  forget() {
    charts.delete(this);
    whenSeen.unobserve(this.node);
    whenSized.unobserve(this.node);
    this.instance?.dispose();
  }
}

const chartOf = (node) => [...charts].find((chart) => chart.node === node);

const whenSeen = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    const chart = chartOf(entry.target);
    if (chart && !chart.seen) {
      chart.seen = true;
      chart.draw();
    }
  }
}, { rootMargin: "400px" });

const whenSized = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const chart = chartOf(entry.target);
    if (chart?.instance && chart.instance.getWidth() !== chart.width) chart.draw();
  }
});

const drawAll = () => charts.forEach((chart) => chart.draw());

/** What dragging across a chart of the run does to all of them. */
const zoomsRun = { choose: (ends) => show(ends.map(stepAt)), all: () => show(null) };

/** Let a pointer choose a part by dragging across it; a double click shows all again. */
function zoomByDragging(chart, { choose, all }) {
  const { node } = chart;
  const shade = h("div", { class: "selection", hidden: true });
  node.append(shade);
  let from = null;
  const position = (event) => event.clientX - node.getBoundingClientRect().left;
  node.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0 && chart.instance) from = position(event);
  });
  node.addEventListener("pointermove", (event) => {
    const to = position(event);
    if (from === null || Math.abs(to - from) < 6) return;
    shade.hidden = false;
    shade.style.left = `${Math.min(from, to)}px`;
    shade.style.width = `${Math.abs(to - from)}px`;
  });
  addEventListener("pointerup", (event) => {
    if (from === null) return;
    const ends = [from, position(event)].sort((a, b) => a - b);
    from = null;
    if (shade.hidden) return;
    shade.hidden = true;
    chart.dragged = true;
    setTimeout(() => { chart.dragged = false; });
    choose(ends.map((x) => chart.instance.convertFromPixel({ xAxisIndex: 0 }, x)));
  });
  node.addEventListener("dblclick", all);
}

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';

/** Return an axis with ticks of our own. */
function axis(colours, ends, values, label, more = {}) {
  return {
    type: "value",
    min: ends[0],
    max: ends[1],
    axisLine: { show: false },
    axisTick: { show: false, customValues: values },
    axisLabel: {
      customValues: values,
      formatter: label,
      color: colours.quiet,
      fontFamily: FONT,
      fontSize: 11,
      hideOverlap: true,
    },
    splitLine: { lineStyle: { color: colours.rule } },
    ...more,
  };
}

/** Return the axis of the run. */
function runAxis(colours, width) {
  const ends = shownEnds();
  const values = ticks(...ends, Math.max(2, Math.floor(width / 110)), across.name);
  return axis(colours, ends, values, tickLabel, {
    axisLine: { show: true, onZero: false, lineStyle: { color: colours.quiet } },
    splitLine: { show: false },
  });
}

/** Return a tooltip whose content is made of elements, so that names in it stay text. */
function tooltip(colours, content, trigger = "axis") {
  return {
    trigger,
    confine: true,
    transitionDuration: 0,
    backgroundColor: colours.paper,
    borderColor: colours.quiet,
    padding: [6, 10],
    textStyle: { color: colours.ink, fontFamily: FONT, fontSize: 12 },
    axisPointer: { lineStyle: { color: colours.quiet }, animation: false },
    formatter: (found) => content(found),
  };
}

/** Return a series that is painted by hand: what has a hundred thousand cells is one picture. */
function painted(paint) {
  return {
    type: "custom",
    data: [[0, 0]],
    silent: true,
    renderItem(params, api) {
      const { x, y, width, height } = params.coordSys;
      const ratio = Math.min(3, Math.max(1, devicePixelRatio));
      const sheet = h("canvas", { width: Math.ceil(width * ratio), height: Math.ceil(height * ratio) });
      if (!sheet.width || !sheet.height) return null;
      const pen = sheet.getContext("2d");
      pen.scale(ratio, ratio);
      const to = { x: (v) => api.coord([v, 0])[0] - x, y: (v) => api.coord([0, v])[1] - y };
      paint(pen, { width, height, ...to });
      return { type: "image", silent: true, style: { image: sheet, x, y, width, height } };
    },
  };
}

/** Return a group of buttons of which one is chosen. */
function choice(label, options, chosen, choose) {
  const buttons = options.map(([value, text]) => h("button", {
    type: "button",
    role: "radio",
    "aria-checked": value === chosen,
    tabindex: value === chosen ? 0 : -1,
    on: { click: () => pick(value) },
  }, text));
  const pick = (value) => {
    options.forEach(([each], i) => {
      buttons[i].setAttribute("aria-checked", each === value);
      buttons[i].tabIndex = each === value ? 0 : -1;
    });
    choose(value);
  };
  rove(buttons);
  return h("div", { class: "choice", role: "radiogroup", "aria-label": label }, buttons);
}

/** Move focus among buttons by arrow keys, and press the one that gets it. */
function rove(buttons) {
  const ways = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  buttons.forEach((button, i) => button.addEventListener("keydown", (event) => {
    const last = buttons.length - 1;
    let to = { Home: 0, End: last }[event.key];
    if (event.key in ways) to = (i + ways[event.key] + buttons.length) % buttons.length;
    if (to === undefined) return;
    event.preventDefault();
    buttons[to].focus();
    buttons[to].click();
  }));
}

/** Return a button that is on or off. */
function toggle(text, on, act) {
  const button = h("button", {
    type: "button",
    class: "toggle",
    "aria-pressed": on,
    on: {
      click: () => {
        const now = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", now);
        act(now);
      },
    },
  }, text);
  return button;
}
