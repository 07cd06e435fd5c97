"use strict";

/** What charts have across: steps, epochs or time, all of them the same and the same part of it. */
const across = { name: "step", view: null, listeners: [] };

const AXES = { step: "Step", epoch: "Epoch", seconds: "Time" };

/** Return steps of a run and their values on an axis, both strictly rising. */
function knots(axis, name) {
  const steps = axis.step;
  const values = numbers(axis[name]);
  const found = [];
  steps.forEach((step, i) => {
    const last = found[found.length - 1];
    if (finite(values[i]) && (!last || (step > last[0] && values[i] > last[1]))) {
      found.push([step, values[i]]);
    }
  });
  return found;
}

const KNOTS = { epoch: knots(run.axis, "epoch"), seconds: knots(run.axis, "seconds") };

const axisKnown = (name) => name === "step" || KNOTS[name].length > 1;

/** Return where a step is on an axis: between its neighbours, or on the line that they make. */
function onAxis(step, name = across.name) {
  return name === "step" || !axisKnown(name) ? step : along(KNOTS[name], step);
}

/** Return where a step is on the line through some knots. */
function along(known, step) {
  const i = bisect(known.map((knot) => knot[0]), step);
  const [a, b] = i < 0 ? known : i + 1 < known.length
    ? [known[i], known[i + 1]]
    : [known[Math.max(0, i - Math.ceil(known.length / 2))], known[i]];
  return a[1] + ((step - a[0]) * (b[1] - a[1])) / (b[0] - a[0]);
}

/** Say which moment a value of the axis is that all lines have. */
const moment = (value) => (across.name === "step" ? `step ${grouped(value)}`
  : across.name === "epoch" ? `epoch ${Number(value.toFixed(2))}` : duration(value));

/** Say when a step was, on all axes that are known. */
function when(step) {
  if (run.runs) return moment(step);
  const parts = [`step ${grouped(step)}`];
  if (axisKnown("epoch")) parts.push(`epoch ${Number(onAxis(step, "epoch").toFixed(2))}`);
  if (axisKnown("seconds")) parts.push(duration(Math.max(0, Math.round(onAxis(step, "seconds")))));
  return parts.join(" · ");
}

const ROUND_TIMES = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800];

/** Return a round distance of about a length. */
function roundTo(length, name) {
  if (name === "seconds" && length > 1) {
    const round = ROUND_TIMES.find((time) => time >= length);
    if (round) return round;
  }
  const power = 10 ** Math.floor(Math.log10(length));
  const factor = [1, 2, 5, 10].find((each) => each * power >= length * 0.999);
  const found = factor * power;
  return name === "step" ? Math.max(1, Math.round(found)) : found;
}

/** Return round values between two ends, at most about as many as asked for. */
function ticks(low, high, most, name) {
  if (!(high > low)) return [low];
  let found = [];
  // One tick tells no distance: where the round one is too long, a shorter one is taken.
  for (let more = Math.max(1, most); found.length < 2 && more < 8 * most; more *= 2) {
    const distance = roundTo((high - low) / more, name);
    found = [];
    for (let i = Math.ceil(low / distance - 1e-9); i * distance <= high * (1 + 1e-12) + 1e-300; i++) {
      found.push(Number((i * distance).toPrecision(12)));
    }
  }
  return found;
}

function tickLabel(value) {
  if (across.name === "seconds") return duration(value);
  return across.name === "step" ? grouped(value) : String(Number(value.toPrecision(4)));
}

/** Return powers of ten, or parts of each where there are few, as logarithms. */
function logTicks(low, high, most) {
  if (high - low > 3) return ticks(low, high, most).filter(Number.isInteger);
  const powers = Array.from({ length: Math.ceil(high) - Math.floor(low) + 1 }, (_, i) => Math.floor(low) + i);
  const of = (factors) => powers.flatMap((power) => factors.map((factor) => power + Math.log10(factor)))
    .filter((value) => value >= low && value <= high);
  const found = [[1], [1, 3], [1, 2, 5]].map(of).find((each) => each.length >= Math.min(3, most));
  if (found) return found;
  // Within less than a decade round numbers lie close enough to each other on either scale.
  return ticks(10 ** low, 10 ** high, most).filter((value) => value > 0).map(Math.log10);
}

/** The first and last step that anything was seen at; of several runs, of what they have across. */
let [firstStep, lastStep] = (() => {
  const all = [run.axis.step, run.loss?.train?.step, run.loss?.validation?.step];
  const ends = all.filter((list) => list?.length).flatMap((list) => [list[0], list[list.length - 1]]);
  return ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
})();

/** Return the steps that are shown. */
const shownSteps = () => across.view ?? [firstStep, lastStep > firstStep ? lastStep : firstStep + 1];
const shownEnds = () => shownSteps().map((step) => onAxis(step));

/** Return the step at a value of the axis, by halving. */
function stepAt(value) {
  let [low, high] = [firstStep - 1, lastStep + 1];
  for (let i = 0; i < 50; i++) {
    const middle = (low + high) / 2;
    if (onAxis(middle) < value) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** Show a part of the run on all charts; null for all of it. */
function show(view) {
  const whole = across.name === "step" || !run.runs;
  const least = whole ? Math.min(4, lastStep - firstStep || 1) : (lastStep - firstStep) / 500;
  if (view) {
    const low = Math.max(firstStep, whole ? Math.floor(view[0]) : view[0]);
    const high = Math.min(lastStep, whole ? Math.ceil(view[1]) : view[1]);
    view = high - low < least || (low === firstStep && high === lastStep) ? across.view : [low, high];
    if (low === firstStep && high === lastStep) view = null;
  }
  across.view = view;
  across.listeners.forEach((listen) => listen());
}

/** Zoom in or out around the middle. */
function zoom(factor) {
  const [low, high] = shownSteps();
  const half = ((high - low) * factor) / 2;
  show([(low + high) / 2 - half, (low + high) / 2 + half]);
}

function switchAxis(name) {
  across.name = name;
  across.listeners.forEach((listen) => listen());
}
