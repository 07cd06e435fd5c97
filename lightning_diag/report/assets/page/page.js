"use strict";

/** What every page has: colours, the bar above the charts, paper, and sections that wait for them. */
const themeListeners = [];

/** Fill the bar of what all charts show. */
function controls(axes, turn, ...more) {
  const bar = document.getElementById("controls");
  const button = (text, label, act, title = label) => h("button",
    { type: "button", "aria-label": label, title, on: { click: act } }, text);
  bar.append(
    h("span", { class: "quiet" }, "Across"),
    choice("Across", axes, across.name, turn),
    button("+", "Zoom in", () => zoom(0.5)),
    button("−", "Zoom out", () => zoom(2)),
    button("All", null, () => show(null), "Show the whole run"),
    h("span", { class: "quiet hint" }, "drag across a chart to zoom"),
    ...more,
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

/** What says something of watching itself, and nothing of the training. */
const OF_WATCHING = ["overhead/fraction", "overhead/interval_steps", "step_time/watched_seconds"];

/** Cards among which one searches by name. */
const MANY_CARDS = 6;
const LARGE = 340;

/** Return a button that gives a card the whole width, and its chart more height. */
function sizeButton(card) {
  const chart = chartOf(card.querySelector(".chart"));
  const small = chart.height;
  const name = card.querySelector("figcaption").textContent;
  return h("button", {
    type: "button", class: "size", "aria-label": `Larger: ${name}`, "aria-pressed": false, title: "Larger",
    on: {
      click: (event) => {
        const large = card.classList.toggle("large");
        event.currentTarget.setAttribute("aria-pressed", large);
        chart.setHeight(large ? LARGE : small);
        chart.draw();
      },
    },
  }, "⤢");
}

/** Return a field that leaves the cards with a text in their titles. */
function cardFilter(cards) {
  const field = h("input", {
    type: "search", placeholder: "Filter curves", "aria-label": "Filter curves by name",
    on: {
      input: () => cards.forEach((card) => {
        card.hidden = !card.querySelector("figcaption").textContent.toLowerCase().includes(field.value.trim().toLowerCase());
      }),
    },
  });
  return h("div", { class: "tools" }, field);
}

/** Lay out cards, each with the metric that it shows; what watching cost is folded. */
function cardsOf(cards) {
  const of = (watching) => cards.filter(([name]) => OF_WATCHING.includes(name) === watching).map(([, card]) => card);
  const [training, watching] = [of(false), of(true)];
  cards.forEach(([, card]) => card.querySelector("figcaption").append(sizeButton(card)));
  return [
    ...(cards.length > MANY_CARDS ? [cardFilter(cards.map(([, card]) => card))] : []),
    ...(training.length ? [h("div", { class: "cards" }, training)] : []),
    ...(watching.length ? [h("details", { open: !training.length }, h("summary", {}, "What watching cost"), h("div", { class: "cards" }, watching))] : []),
  ];
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
