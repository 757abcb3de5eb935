// The Domain map panel: draws the map, and sets the sliders to a point that is clicked.
(() => {
  const byId = (id) => document.getElementById(id);
  let map = null, pair = null;

  function draw() {
    const place = byId("map-plot");
    if (!map || !place || !window.Plotly || !place.offsetParent) return;
    const figure = structuredClone(map.figures[pair]);
    Object.assign(figure.layout, { height: Math.min(460, Math.max(320, innerHeight * 0.55)) });
    if (map.domains.length === 2) {
      const shares = window.dogerm.shares(), second = map.domains[1];
      const total = map.domains.reduce((sum, name) => sum + (shares[name] || 0), 0);
      if (total) Object.assign(figure.data[2], { x: [window.dogerm.view.lam], y: [(shares[second] || 0) / total] });
    }
    window.dogerm.plot(place, figure, "Domain map");
    place.removeAllListeners("plotly_click");
    place.on("plotly_click", ({ points: [point] }) => choose(point));
  }

  function choose(point) {
    if (map.domains.length === 2)
      window.dogerm.set(point.x, { [map.domains[0]]: 1 - point.y, [map.domains[1]]: point.y });
    else window.dogerm.set(map.points[point.pointIndex ?? point.pointNumber].lam, map.points[point.pointIndex ?? point.pointNumber].shares);
  }

  function choices() {
    const names = Object.keys(map.figures);
    byId("map-pairs").replaceChildren(...(names.length < 2 ? [] : names.map((name) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      Object.assign(input, { type: "radio", name: "dogerm-map-pair", value: name, checked: name === pair });
      label.append(input, window.dogerm.t("{0} or {1}", name[0], name[1]));
      return label;
    })));
  }

  window.dogerm.map = (found) => {
    const state = byId("map-state");
    if (!found || !state) return;
    if (found.stopped) state.textContent = map ? "" : "Stopped.";
    else if (!found.points) state.textContent = window.dogerm.t("Merging: {0} of {1} points…", found.done, found.total);
    else {
      map = found;
      pair = map.figures[pair] ? pair : Object.keys(map.figures)[0];
      state.textContent = "";
      choices();
      draw();
    }
  };
  document.addEventListener("change", ({ target }) => {
    if (target.name !== "dogerm-map-pair") return;
    pair = target.value;
    draw();
  });
  document.addEventListener("dogerm:frame", ({ detail }) => {
    if (!map) return;
    const same = JSON.stringify([map.prompt, map.texts]) === JSON.stringify([detail.prompt, detail.texts]);
    byId("map-state").textContent = same ? "" : "This map is of other texts. Draw it anew.";
    byId("map-plot").classList.toggle("stale", !same);
    draw();
  });
  document.addEventListener("dogerm:language", draw);
  document.addEventListener("click", ({ target }) => {
    if (target.closest && target.closest('[role="tab"]')) setTimeout(draw, 80);
  });
})();
