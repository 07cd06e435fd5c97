"use strict";

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
