// The Layers panel: the margin with one window of layers merged at a time.
(() => {
  const byId = (id) => document.getElementById(id);
  const { t } = window.dogerm;
  let scan = null, pair = null, stale = false;
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;

  function say() {
    const { spot, base, margin, flips } = scan.profiles[pair];
    const sentence = flips
      ? "Merged alone, {0} moves the margin of {1} over {2} most: from {3} to {4}, which flips it."
      : "Merged alone, {0} moves the margin of {1} over {2} most: from {3} to {4}. It flips nothing.";
    byId("layers-state").textContent = stale
      ? "This scan is of other texts or another merge. Scan anew."
      : t(sentence, name(spot), pair[0], pair[1], signed(base), signed(margin));
  }

  // A spot's name: the embeddings, "layer 3", "layers 3–5".
  function name(spot) {
    const [what, which] = spot.split(" ");
    return which ? t(`${what} {0}`, which) : t("the table of embeddings");
  }

  function draw() {
    const place = byId("layers-plot");
    if (!scan || !place || !window.Plotly || !place.offsetParent) return;
    const figure = structuredClone(scan.profiles[pair].figure);
    figure.layout.height = Math.min(420, Math.max(300, innerHeight * 0.5));
    window.dogerm.plot(place, figure);
  }

  function choices() {
    const names = Object.keys(scan.profiles);
    byId("layers-pairs").replaceChildren(...(names.length < 2 ? [] : names.map((one) => {
      const label = document.createElement("label"), input = document.createElement("input");
      Object.assign(input, { type: "radio", name: "dogerm-layers-pair", value: one, checked: one === pair });
      label.append(input, t(" {0} over {1}", one[0], one[1]));
      return label;
    })));
  }

  function showAll() {
    if (!scan) return;
    say();
    choices();
    draw();
  }

  window.dogerm.layers = (found) => {
    const state = byId("layers-state");
    if (!found || !state) return;
    if (found.stopped) {
      if (scan) say();
      else state.textContent = "Stopped.";
    } else if (!found.profiles) state.textContent = t("Merging: {0} of {1} places…", found.done + 1, found.total);
    else {
      scan = found;
      stale = false;
      pair = Object.keys(scan.profiles)[0];
      byId("layers-plot").classList.remove("stale");
      showAll();
    }
  };
  document.addEventListener("change", ({ target }) => {
    if (target.name !== "dogerm-layers-pair") return;
    pair = target.value;
    say();
    draw();
  });
  const key = ({ texts, prompt }, { lam, shares, method, options }) =>
    JSON.stringify([texts, prompt, lam, shares, method, options]);
  document.addEventListener("dogerm:frame", ({ detail }) => {
    if (!scan) return;
    stale = key(scan, scan.recipe) !== key(detail, detail);
    byId("layers-plot").classList.toggle("stale", stale);
    say();
  });
  document.addEventListener("dogerm:language", showAll);
  document.addEventListener("click", ({ target }) => {
    if (target.closest && target.closest('[role="tab"]')) setTimeout(draw, 80);
  });
})();
