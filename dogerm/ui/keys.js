// Keys, projector size and the theme: p, d, 1–9, ←/→ and ?, as the help says.
(() => {
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;
  const { t } = window.dogerm;
  const TEXT = "input:not([type=range], [type=radio], [type=checkbox], [type=button]), textarea, select, [contenteditable=''], [contenteditable=true]";
  // What has a use of its own for the arrows.
  const ARROWS = `${TEXT}, input, [role=tab], [role=listbox], [role=option], [role=slider], .js-plotly-plot`;
  const HELP = [
    ["← →", "Move λ by 0.01; hold to go on, let go to merge"],
    ["1 – 9", "Choose an example"],
    ["p", "Projector size, or back"],
    ["d", "Dark or light"],
    ["?", "This help"],
  ];
  let held = false; // an arrow that moves λ

  function kept(name, value) {
    try {
      if (value === undefined) return localStorage.getItem(name);
      localStorage.setItem(name, value);
    } catch {
      // No leave to store: it lasts as long as the page.
    }
    return null;
  }

  function project(on) {
    root.classList.toggle("projector", on);
    tell();
    // Gradio fits a box to its text when something is typed.
    for (const box of document.querySelectorAll("#inputs textarea")) box.dispatchEvent(new Event("input", { bubbles: true }));
  }
  function darken(on) {
    document.body.classList.toggle("dark", on);
    tell();
  }
  function tell() {
    byId("projector")?.setAttribute("aria-pressed", root.classList.contains("projector"));
    byId("dark")?.setAttribute("aria-pressed", document.body.classList.contains("dark"));
  }

  const acts = {
    p: () => {
      project(!root.classList.contains("projector"));
      kept("dogerm projector", root.classList.contains("projector") ? "on" : "off");
    },
    d: () => {
      darken(!document.body.classList.contains("dark"));
      kept("dogerm theme", document.body.classList.contains("dark") ? "dark" : "light");
    },
    "?": help,
  };

  function help() {
    let dialog = byId("keys-help");
    if (!dialog) {
      dialog = document.createElement("dialog");
      dialog.id = "keys-help";
      (document.querySelector(".gradio-container") || document.body).append(dialog);
      // A click beside it closes it too.
      dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    }
    if (dialog.open) return dialog.close();
    const head = document.createElement("h2"), list = document.createElement("dl"), close = document.createElement("button");
    head.textContent = t("Keys");
    for (const [key, meaning] of HELP) {
      const name = document.createElement("dt"), says = document.createElement("dd");
      name.append(Object.assign(document.createElement("kbd"), { textContent: key }));
      says.textContent = t(meaning);
      list.append(name, says);
    }
    Object.assign(close, { type: "button", textContent: t("Close") });
    close.addEventListener("click", () => dialog.close());
    dialog.setAttribute("aria-label", t("Keys"));
    dialog.replaceChildren(head, list, close);
    return dialog.showModal();
  }

  function moveLam(by) {
    const next = Math.min(1, Math.max(0, Math.round(100 * (window.dogerm.view.lam + by)) / 100));
    if (next === window.dogerm.view.lam) return;
    held = true;
    window.dogerm.move(next, false);
  }

  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !window.dogerm.view.frame) return;
    if (!(target instanceof Element) || target.matches(TEXT)) return;
    if (root.classList.contains("story-open")) return; // the story has keys of its own
    if (byId("keys-help")?.open && key !== "?") return;
    if (key === "?") acts["?"]();
    else if (event.shiftKey) return;
    else if (key === "ArrowLeft" || key === "ArrowRight") {
      if (target.closest(ARROWS)) return;
      moveLam(key === "ArrowLeft" ? -0.01 : 0.01);
    } else if (event.repeat) return;
    else if (acts[key.toLowerCase()]) acts[key.toLowerCase()]();
    else if (/^[1-9]$/.test(key)) {
      const choice = document.querySelectorAll("#examples input[type=radio]")[Number(key) - 1];
      if (!choice) return;
      choice.click();
    } else return;
    event.preventDefault();
  });
  const letGo = () => {
    if (!held) return;
    held = false;
    window.dogerm.move(window.dogerm.view.lam);
  };
  document.addEventListener("keyup", ({ key }) => (key === "ArrowLeft" || key === "ArrowRight") && letGo());
  window.addEventListener("blur", letGo); // the key comes up elsewhere

  document.addEventListener("click", ({ target }) => {
    const tool = target.closest?.("#projector, #dark, #keys");
    if (tool) acts[{ projector: "p", dark: "d", keys: "?" }[tool.id]]();
  });
  if (kept("dogerm projector") === "on") project(true);
  // Gradio sets the theme that the address or the system names; a choice by hand comes after.
  document.addEventListener("dogerm:frame", function once() {
    document.removeEventListener("dogerm:frame", once);
    const chosen = kept("dogerm theme");
    if (chosen && !new URLSearchParams(location.search).has("__theme")) darken(chosen === "dark");
    tell();
  });
})();
