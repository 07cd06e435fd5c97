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

/** What each list of samples is called, and what it is good for; in this order. */
const LISTS = {
  suspicious: ["Suspicious labels", "The network was sure of another class, look after look. Check these labels."],
  never_learnt: ["Never learnt", "Answered wrongly at every look, though without being sure. Look for broken samples and rare kinds."],
  forgotten: ["Forgotten", "Answered right and then wrong again; those it befell most often come first."],
  mistakes: ["Confident mistakes", "Answered wrongly; the surest answers come first."],
  worst: ["Largest loss", "Look for wrong labels, broken samples and rare kinds."],
  by_class: ["Largest loss of each class", "Class by class."],
};

function examplesSection(section) {
  const all = run.examples ?? [];
  if (!all.length) return;
  const groups = new Map();
  for (const example of all) {
    const key = JSON.stringify([example.kind ?? "worst", example.stage, example.place]);
    groups.set(key, [...groups.get(key) ?? [], example]);
  }
  const several = [...groups.values()].some(([first]) => (first.kind ?? "worst") !== "worst");
  if (!several) {
    section.append(h("p", { class: "quiet" },
      "Samples with the largest loss. Look for wrong labels, broken pictures and rare kinds."));
  }
  [...groups.values()].forEach((mine, i) => section.append(several ? namedList(mine, i === 0) : plainList(mine)));
  for (const stage of run.unseen ?? []) {
    section.append(h("p", { class: "quiet" },
      `Not observed in ${stageName(stage)}: it called no loss function of torch that has a loss for each sample.`));
  }
}

/** Show one list under its name, to be opened; the first one is. */
function namedList(mine, open) {
  const { kind, place, samples, found, stage, threshold } = mine[0];
  const [title, words] = LISTS[kind] ?? [plain(kind), ""];
  const isRanking = kind === "worst" || kind === "by_class";
  const some = finite(found) && found > mine.length && !isRanking ? `${mine.length} of ${grouped(found)}` : grouped(mine.length);
  const among = `Among ${finite(samples) ? count(samples, "sample") : "samples"} of ${stageName(stage)}`;
  const limit = finite(threshold) ? `, margin below ${write(threshold)}` : "";
  const all = kind === "suspicious" && found > mine.length
    ? h("p", { class: "quiet" }, "All of them, with their indices: ", h("code", {}, "WorstExamples.suspicious"), ".") : "";
  return h("details", { class: "list", open },
    h("summary", {}, h("strong", {}, `${title} in ${stageName(stage)}`), ` ${some}`),
    h("p", { class: "quiet" }, `${words} ${among}${limit}`,
      place ? ", by " : "", place ? h("code", {}, plain(place)) : "", "."),
    all,
    h("ol", { class: "examples" }, mine.map(exampleCard)));
}

function plainList(mine) {
  const { place, samples, stage } = mine[0];
  const among = samples ? `The worst of ${count(samples, "sample")} of ${stageName(stage)}` : "";
  const at = place ? `${among ? `${among}, by` : "By"} ` : among;
  return h("div", {},
    at ? h("p", { class: "quiet" }, at, place ? h("code", {}, plain(place)) : "", ".") : "",
    h("ol", { class: "examples" }, mine.map(exampleCard)));
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
      [example.kind === "suspicious" ? "Label" : "Target", shortText(example.target)],
      ["Prediction", `${shortText(example.prediction)}${sure}`],
      ...right,
      ["Sample", name],
      ...(example.name ? [["File", shortText(example.name)]] : []),
      ...(finite(example.margin) ? [["Margin", write(example.margin)]] : []),
      ...(finite(example.looks) ? [] : [["Step", finite(example.step) ? grouped(example.step) : "–"]]),
    ].flatMap(([label, text]) => [h("dt", {}, label), h("dd", {}, text)])),
    example.why ? h("p", { class: "why" }, plain(example.why)) : null);
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
