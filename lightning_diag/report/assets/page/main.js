"use strict";

/** Fills the report: puts the charts where the page has room for them. */
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

document.body.append(tip);
themeButton();
copyButtons();
fill("loss", lossSection);
fill("layers", layersSection);
fill("distributions", histogramsSection);
fill("series", seriesSection);
fill("filters", filtersSection);
fill("examples", examplesSection);
controls(Object.entries(AXES).filter(([name]) => axisKnown(name)), switchAxis);
across.listeners.push(drawAll);
forPaper();
addEventListener("hashchange", () => openFinding(location.hash.replace("#finding-", "")));
if (location.hash.startsWith("#finding-")) openFinding(location.hash.slice(9));
