"use strict";

/** Pictures: what the first layer looks for, and the examples with the largest loss. */
const isImage = (source) => typeof source === "string" && /^data:image\/(png|jpeg|webp|gif);base64,/.test(source);

function filtersSection(section) {
  const all = (run.filters ?? []).filter((filter) => filter.images?.some(isImage));
  if (!all.length) return;
  section.append(
    h("p", { class: "quiet" }, "What the first layer looks for. Smooth and varied pictures have learnt; "
      + "noise has not yet, or the learning rate is too high or decay too low."),
    h("div", { class: "cards" }, all.map(filterCard)),
  );
}

/** Say how many filters there are, how large, and what grey means. */
function filterWords(filter) {
  const [shown] = filter.shape ?? [];
  const all = filter.filters ?? shown;
  const kernel = filter.kernel ? `, ${filter.kernel.join(" × ")}` : "";
  const number = all > shown ? `${shown} of ${count(all, "filter")}` : count(all ?? 0, "filter");
  const limits = numbers(filter.limit);
  const limit = limits[limits.length - 1];
  const grey = limit === 0 ? "; all weights are 0" : finite(limit) ? `; grey is 0, white ${write(limit)}` : "";
  return `${all ? number + kernel : ""}${grey}`;
}

function filterCard(filter) {
  const seen = filter.images.map((_, i) => i).filter((i) => isImage(filter.images[i]));
  const smooth = numbers(filter.smoothness);
  const picture = h("img", { class: "filters" });
  const told = h("output", {});
  const tell = (i) => {
    const words = finite(smooth[i]) ? `, smoothness ${write(smooth[i])}` : "";
    picture.src = filter.images[i];
    picture.alt = `Filters of ${plain(filter.place)} at step ${grouped(filter.step[i])}${words}`;
    told.textContent = `${when(filter.step[i])}${words}`;
    slider.setAttribute("aria-valuetext", told.textContent);
  };
  const slider = h("input", {
    type: "range", min: 0, max: seen.length - 1, value: seen.length - 1,
    "aria-label": `Step of the filters of ${plain(filter.place)}`,
    on: { input: () => tell(seen[Number(slider.value)]) },
  });
  tell(seen[seen.length - 1]);
  const chart = smooth.filter(finite).length > 1 ? lineChart({
    title: `Smoothness of ${plain(filter.place)}`, write, height: 110,
    lines: [{ name: "smoothness", steps: filter.step, values: smooth, shape: 0 }],
  }).node : null;
  return h("figure", { class: "card" },
    h("figcaption", {}, h("code", {}, plain(filter.place)), h("span", {}, filterWords(filter))),
    picture,
    seen.length > 1 ? h("label", { class: "slider" }, slider, told) : told,
    chart ? h("figcaption", {}, "Smoothness: 0 is noise, 1 smooth") : null,
    chart);
}

function examplesSection(section) {
  const all = run.examples ?? [];
  if (!all.length) return;
  section.append(h("p", { class: "quiet" },
    "Samples with the largest loss. Look for wrong labels, broken pictures and rare kinds."));
  const groups = new Map();
  for (const example of all) {
    const key = JSON.stringify([example.stage, example.place]);
    groups.set(key, [...groups.get(key) ?? [], example]);
  }
  for (const mine of groups.values()) {
    const { place, samples, stage } = mine[0];
    const among = samples ? `The worst of ${count(samples, "sample")} of ${stageName(stage)}` : "";
    const at = place ? `${among ? `${among}, by` : "By"} ` : among;
    section.append(
      at ? h("p", { class: "quiet" }, at, place ? h("code", {}, plain(place)) : "", ".") : "",
      h("ol", { class: "examples" }, mine.map(exampleCard)),
    );
  }
  for (const stage of run.unseen ?? []) {
    section.append(h("p", { class: "quiet" },
      `Not observed in ${stageName(stage)}: it called no loss function of torch that has a loss for each sample.`));
  }
}

const stageName = (stage) => (stage === "train" ? "training" : plain(stage));

function exampleCard(example) {
  const name = sampleName(example);
  const sure = finite(numeric(example.probability)) ? ` (${percent(example.probability)} sure)` : "";
  const right = finite(numeric(example.correct)) ? [["Right", percent(example.correct)]] : [];
  const numbersOrText = example.numbers?.length ? shortText(example.numbers) : example.text && shortText(example.text);
  return h("li", {},
    isImage(example.image)
      ? h("img", { src: example.image, alt: `Sample ${name}` })
      : h("div", { class: "no-image" }, numbersOrText || "no picture"),
    h("dl", {}, [
      ["Loss", write(numeric(example.loss))],
      ["Target", shortText(example.target)],
      ["Prediction", `${shortText(example.prediction)}${sure}`],
      ...right,
      ["Sample", name],
      ["Step", finite(example.step) ? grouped(example.step) : "–"],
    ].flatMap(([label, text]) => [h("dt", {}, label), h("dd", {}, text)])));
}

/** Name a sample by its index in the data, or by where in which batch it was. */
function sampleName({ index, batch, sample, rank, loader }) {
  const data = finite(loader) ? ` of data set ${loader}` : "";
  if (finite(index)) return `${grouped(index)}${data}`;
  if (!finite(batch)) return "–";
  return `${finite(sample) ? `${sample} of ` : ""}batch ${grouped(batch)}${data}${rank ? `, rank ${rank}` : ""}`;
}

/** Write what a sample's label or prediction is, whatever that is. */
function shortText(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : write(value);
  if (Array.isArray(value)) return value.map((each) => shortText(numeric(each))).join(", ");
  const text = plain(value);
  return text.length > 80 ? `${text.slice(0, 79)}…` : text;
}
