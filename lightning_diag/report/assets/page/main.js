"use strict";

/** Puts the charts where the page has room for them, and takes care of colours, paper and links. */
const themeListeners = [];

run.maps = (run.maps ?? []).filter((map) => map.places.length && map.steps.length);
run.maps.forEach((map) => { map.values = map.values.map(numbers); });
(run.histograms ?? []).forEach((each) => { each.low = numbers(each.low); each.high = numbers(each.high); });

/** Go to a finding, and open what it is folded into. */
function openFinding(number) {
  dialog?.close();
  const node = document.getElementById(`finding-${number}`);
  if (!node) return;
  for (let at = node; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (location.hash !== `#finding-${number}`) location.hash = `finding-${number}`;
  node.scrollIntoView({ block: "start" });
}

function controls() {
  const bar = document.getElementById("controls");
  const axes = Object.entries(AXES).filter(([name]) => axisKnown(name));
  const button = (text, label, act, title = label) => h("button",
    { type: "button", "aria-label": label, title, on: { click: act } }, text);
  bar.append(
    h("span", { class: "quiet" }, "Across"),
    choice("Across", axes, across.name, switchAxis),
    button("+", "Zoom in", () => zoom(0.5)),
    button("−", "Zoom out", () => zoom(2)),
    button("All", null, () => show(null), "Show the whole run"),
    h("span", { class: "quiet hint" }, "drag across a chart to zoom"),
  );
  bar.hidden = !document.querySelector("main .chart");
}

function themeButton() {
  const place = document.getElementById("theme");
  const stored = (() => { try { return localStorage.getItem("lightning-diag-theme"); } catch { return null; } })();
  const set = (theme) => {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    // Pages from disk, or within frames, may have no storage.
    try { localStorage.setItem("lightning-diag-theme", theme); } catch { /* the choice lasts as long as the page */ }
    themeListeners.forEach((listen) => listen());
    drawAll();
  };
  place.append(choice("Colours", [["auto", "Auto"], ["light", "Light"], ["dark", "Dark"]],
    ["light", "dark"].includes(stored) ? stored : "auto", set));
  if (["light", "dark"].includes(stored)) document.documentElement.dataset.theme = stored;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    themeListeners.forEach((listen) => listen());
    drawAll();
  });
}

/** Give each piece of code in a remedy a button that copies it. */
function copyButtons() {
  document.querySelectorAll(".snippet").forEach((node) => {
    const code = node.querySelector("code").textContent;
    const button = h("button", { type: "button", class: "copy", "aria-label": `Copy ${code}`, on: { click: copy } }, "Copy");
    async function copy() {
      try {
        await navigator.clipboard.writeText(code);
      } catch {
        const range = document.createRange();
        range.selectNodeContents(node.querySelector("code"));
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    }
    node.append(button);
  });
}

/** On paper there are images of the charts, in light colours, and nothing is folded. */
function forPaper() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(.tables)")];
    opened.forEach((node) => { node.open = true; });
    charts.forEach((chart) => {
      if (chart.node.isConnected && chart.node.closest("main")) chart.node.after(chart.print());
    });
  });
  addEventListener("afterprint", () => {
    opened.forEach((node) => { node.open = false; });
    document.querySelectorAll("img.paper").forEach((image) => image.remove());
  });
}

/** Fill the sections that the page keeps for charts; one without data stays hidden. */
function fill(name, make) {
  const place = document.getElementById(`chart-${name}`);
  const section = place.closest("section");
  try {
    make(place);
  } catch (error) {
    // One section that fails leaves the others, and its own curve or tables, as they are.
    place.replaceChildren();
    console.error(name, error);
  }
  if (!place.childNodes.length) return;
  place.hidden = false;
  section.hidden = false;
  section.classList.add("drawn");
  section.querySelectorAll("details.tables").forEach((node) => { node.open = false; });
  document.querySelector(`nav a[href="#${name}"]`)?.removeAttribute("hidden");
}

document.body.append(tip);
themeButton();
copyButtons();
fill("loss", lossSection);
fill("layers", layersSection);
fill("distributions", histogramsSection);
fill("series", seriesSection);
fill("filters", filtersSection);
fill("examples", examplesSection);
controls();
across.listeners.push(drawAll);
forPaper();
addEventListener("hashchange", () => openFinding(location.hash.replace("#finding-", "")));
if (location.hash.startsWith("#finding-")) openFinding(location.hash.slice(9));
