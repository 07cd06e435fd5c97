"use strict";

/** Lines over the run: loss, series, and what a layer did. */
const SHAPES = ["circle", "triangle", "diamond", "rect", "emptyCircle", "emptyTriangle"];
const DASHES = ["solid", "dashed", "dotted", [8, 3, 2, 3], [2, 5], [12, 4]];

/**
 * Make a chart of lines.
 *
 * Each line has `name`, `steps`, `values`, and may have `colour` (a number), `shape` (a number, or
 * null for none), `dash` (a number), `right` (belongs to the axis on the right), `stairs`, `hidden`.
 *
 * @param {object} plot `title`, `lines`, `write`, and perhaps `log`, `band` ({steps, low, high}),
 *   `level` ([low, high] to shade), `findings`, `spans` ([[first, last, name]]), `unit` of the right
 *   axis as `writeRight`, `height`, `zero`.
 */
function lineChart(plot) {
  plot.lines.forEach((line) => { line.values = numbers(line.values); });
  return new Chart({
    height: plot.height ?? 180,
    zooms: true,
    label: () => `${plot.title}. ${plot.lines.filter((line) => !line.hidden).map(sentence(plot)).join(" ")}`,
    option: (colours, width) => lineOption(plot, colours, width),
    pick: (event) => {
      const number = event.componentType === "markLine" && event.data?.finding;
      if (number) openFinding(number);
    },
  });
}

/** Say where on the axis a point of a line is: of one run its step, of several what they share. */
const atStep = (value) => (run.runs ? moment(value) : `step ${grouped(value)}`);

/** Return what says a line in words. */
const sentence = (plot) => (line) => {
  const write = line.right ? plot.writeRight : plot.write;
  const seen = line.values.map((value, i) => [value, i]).filter(([value]) => value !== null);
  if (!seen.length) return `${plain(line.name)}: not observed.`;
  const [first, last] = [seen[0], seen[seen.length - 1]];
  const known = seen.filter(([value]) => finite(value));
  const told = [`${plain(line.name)}: ${write(first[0])} at ${atStep(line.steps[first[1]])}`];
  if (last !== first) told.push(`${write(last[0])} at ${atStep(line.steps[last[1]])}`);
  if (known.length > 2) {
    const [low, high] = known.reduce(([a, b], [v]) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    told.push(`from ${write(low)} to ${write(high)} in all`);
  }
  if (known.length < seen.length) told.push(`${count(seen.length - known.length, "value")} NaN or infinite`);
  return `${told.join(", ")}.`;
};

const bent = (log) => (value) => {
  if (!finite(value)) return null;
  if (!log) return value;
  return value > 0 ? Math.log10(value) : null;
};

/** Return the ends of an axis around what is shown of some lines. */
function around(plot, lines, log) {
  const [from, to] = shownSteps();
  const bend = bent(log);
  let [low, high] = [Infinity, -Infinity];
  const take = (steps, values) => steps.forEach((step, i) => {
    const value = bend(values[i]);
    if (value === null || step < from || step > to) return;
    low = Math.min(low, value);
    high = Math.max(high, value);
  });
  lines.forEach((line) => take(line.steps, line.values));
  if (plot.band && lines.some((line) => !line.right && !line.hidden)) {
    take(plot.band.steps, plot.band.high);
    take(plot.band.steps, plot.band.low);
  }
  if (low > high) [low, high] = log ? [-1, 0] : [0, 1];
  if (low === high && !log) [low, high] = [Math.min(0, 2 * low), Math.max(0, 2 * high) || 1];
  if (!log && low >= 0 && low < high * 0.5) low = 0;
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low === 0 && !log ? 0 : low - room, high + room];
}

/** Return what writes the ticks of an axis, with as many digits as tell them apart. */
function tickWriter(values, log, writeIt) {
  const real = (value, digits) => Number((log ? 10 ** value : value).toPrecision(digits));
  const short = (value) => writeIt(real(value, 3));
  if (new Set(values.map(short)).size === values.length) return short;
  return (value) => (writeIt === percent ? `${Number((100 * real(value, 6)).toPrecision(6))}%` : String(real(value, 6)));
}

function upAxis(plot, colours, lines, log, writeIt, more) {
  const ends = around(plot, lines, log);
  const height = plot.height ?? 180;
  const values = (log ? logTicks : ticks)(...ends, Math.max(2, Math.floor(height / 45)));
  return axis(colours, ends, values, tickWriter(values, log, writeIt), more);
}

function lineOption(plot, colours, width) {
  const shown = plot.lines.filter((line) => !line.hidden);
  const right = shown.filter((line) => line.right);
  const left = shown.filter((line) => !line.right);
  const up = [upAxis(plot, colours, left, plot.log, plot.write)];
  if (right.length) {
    up.push(upAxis(plot, colours, right, false, plot.writeRight, {
      position: "right",
      splitLine: { show: false },
    }));
  }
  return {
    animation: false,
    grid: { left: 54, right: right.length ? 58 : 16, top: plot.findings?.length ? 30 : 12, bottom: 26 },
    xAxis: runAxis(colours, width),
    yAxis: up,
    tooltip: tooltip(colours, (found) => lineWords(plot, found)),
    series: [
      ...(plot.band ? [bandSeries(plot, colours)] : []),
      ...shown.map((line) => lineSeries(plot, line, colours)),
      markSeries(plot, colours, width),
    ],
  };
}

/** The band around a line, painted as one shape: stacked areas would not bend on a log axis. */
function bandSeries(plot, colours) {
  const bend = bent(plot.log);
  const { steps, low, high } = plot.band;
  const floor = around(plot, plot.lines.filter((line) => !line.right), plot.log)[0];
  return {
    z: 1,
    ...painted((pen, to) => {
      pen.fillStyle = colours.band;
      pen.strokeStyle = colours.band;
      runs(steps.map((_, i) => bend(high[i]) !== null)).forEach(([first, last]) => {
        pen.beginPath();
        for (let i = first; i <= last; i++) pen.lineTo(to.x(onAxis(steps[i])), to.y(bend(high[i])));
        for (let i = last; i >= first; i--) {
          pen.lineTo(to.x(onAxis(steps[i])), to.y(bend(low[i]) ?? floor));
        }
        pen.closePath();
        pen.fill();
        pen.stroke();
      });
    }),
  };
}

/** Return first and last index of each run of true values. */
function runs(flags) {
  const found = [];
  flags.forEach((flag, i) => {
    if (!flag) return;
    if (i && flags[i - 1]) found[found.length - 1][1] = i;
    else found.push([i, i]);
  });
  return found;
}

function lineSeries(plot, line, colours) {
  const bend = bent(plot.log && !line.right);
  const colour = line.colour === undefined ? colours.line : colours.lines[line.colour % 6];
  const sparse = line.values.length < 60;
  return {
    type: "line",
    name: plain(line.name),
    id: `line-${plot.lines.indexOf(line)}`,
    yAxisIndex: line.right ? 1 : 0,
    data: line.steps.map((step, i) => [onAxis(step), bend(line.values[i])]),
    step: line.stairs ? "end" : false,
    symbol: SHAPES[(line.shape ?? 0) % SHAPES.length],
    showSymbol: line.points || (line.shape !== null && line.shape !== undefined && sparse)
      || line.values.length === 1,
    symbolSize: line.points ? 9 : 6,
    lineStyle: { color: colour, width: line.points ? 0 : line.right ? 1.2 : 1.8, type: DASHES[(line.dash ?? 0) % 6] },
    itemStyle: { color: colour },
    emphasis: { disabled: true },
    z: 3,
  };
}

/** Marks of findings, spans without a finite value, and a level that is usual. */
function markSeries(plot, colours, width) {
  const [from, to] = shownSteps();
  const [left, right] = shownEnds();
  let free = -Infinity;
  const shown = (plot.findings ?? []).filter((f) => f.steps[0] >= from && f.steps[0] <= to);
  const marks = [...shown].sort((a, b) => a.steps[0] - b.steps[0]).map((f) => {
    // Labels of marks that are close stand side by side.
    const x = ((onAxis(f.steps[0]) - left) / (right - left)) * (width - 112);
    const shift = Math.max(0, free - x);
    free = x + shift + 22;
    return {
      xAxis: onAxis(f.steps[0]),
      finding: f.number,
      lineStyle: { color: colours[f.severity], type: [4, 3], width: 1.5 },
      label: {
        formatter: String(f.number),
        color: colours.paper,
        backgroundColor: colours[f.severity],
        fontWeight: 700,
        fontSize: 11,
        fontFamily: FONT,
        rotate: 0,
        height: 17,
        lineHeight: 17,
        padding: [0, 6],
        borderRadius: 9,
        offset: [shift, 0],
      },
    };
  });
  const bend = bent(plot.log);
  const areas = (plot.spans ?? []).map(([first, last, name]) => [
    { xAxis: onAxis(first), name, itemStyle: { color: colours["stripe-a"], opacity: 0.25 } },
    { xAxis: onAxis(last) },
  ]);
  if (plot.level) {
    const level = { color: colours.quiet, opacity: 0.16 };
    areas.push([{ yAxis: bend(plot.level[0]), itemStyle: level }, { yAxis: bend(plot.level[1]) }]);
  }
  return {
    type: "line",
    data: [],
    markLine: { symbol: "none", animation: false, data: marks, emphasis: { disabled: true } },
    markArea: { silent: true, data: areas, label: { color: colours.ink, fontSize: 11, fontFamily: FONT } },
  };
}

/** Return the words of a tooltip: the moment, and each line's number then or just about then. */
function lineWords(plot, found) {
  const points = found.filter((point) => point.seriesId?.startsWith("line-"));
  if (!points.length) return "";
  const step = plot.lines[Number(points[0].seriesId.slice(5))].steps[points[0].dataIndex];
  const row = (name, words) => h("tr", {}, h("th", {}, name), h("td", {}, words));
  const rows = plot.lines.filter((line) => !line.hidden && line.steps.length).map((line) => {
    const i = nearest(line.steps, step);
    const at = line.steps[i] === step ? "" : ` (${atStep(line.steps[i])})`;
    if (line.points && at) return null;
    return row(plain(line.name), (line.right ? plot.writeRight : plot.write)(line.values[i]) + at);
  });
  if (plot.band) {
    const i = nearest(plot.band.steps, step);
    const [low, high] = [plot.band.low[i], plot.band.high[i]].map(plot.write);
    rows.push(row("loss then", low === high ? low : `${low} to ${high}`));
  }
  return h("div", { class: "tip" }, h("b", {}, when(step)), h("table", {}, rows));
}

/** Return buttons that hide and show lines, drawn as the lines are. */
function lineLegend(plot, chart) {
  return h("div", { class: "legend", role: "group", "aria-label": "Lines" }, plot.lines.map((line, i) => {
    const dash = `dash-${line.points ? "point" : (line.dash ?? 0) % 6}`;
    const colour = line.colour === undefined ? "line" : `c${line.colour % 6}`;
    return toggle([h("i", { class: `stroke ${dash} tint-${colour}` }), ` ${plain(line.name)}`], !line.hidden,
      (on) => {
        plot.lines[i].hidden = !on;
        chart.draw();
      });
  }));
}
