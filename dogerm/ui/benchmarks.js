// The Benchmarks panel: the list of reports, the one that is open, and how far a run is.
(() => {
  const byId = (id) => document.getElementById(id);
  const { t, make, own } = window.dogerm;
  const percent = (share) => (100 * share).toFixed(1);
  const session = new Map(); // this visitor's own reports, by name
  let shelf = { reports: [], faults: [] }, frame = null, stopped = false;

  // Figures in places that may be hidden: drawn when they come into sight, and anew when
  // the ground or the language changes.
  const drawn = new Map();
  function draw(place) {
    const figure = drawn.get(place);
    if (!figure || !place.isConnected || !place.offsetParent || !window.Plotly) return;
    const copy = structuredClone(figure), narrow = place.clientWidth < 620;
    copy.layout.height = narrow ? 400 : 330;
    if (narrow) Object.assign(copy.layout, { legend: { orientation: "h", y: -0.24, yanchor: "top" }, margin: { ...copy.layout.margin, b: 120 } });
    if (narrow && copy.layout.xaxis.ticktext && copy.layout.xaxis.type !== "log") { // names of columns run into each other
      Object.assign(copy.layout.xaxis, { tickangle: -90, ticktext: copy.layout.xaxis.ticktext.map((text) => text.replace("<br>", ", ")) });
      Object.assign(copy.layout, { height: 560, legend: { ...copy.layout.legend, y: -0.68 }, margin: { ...copy.layout.margin, b: 300 } });
    }
    window.dogerm.plot(place, copy);
  }
  const drawAll = () => {
    for (const place of drawn.keys()) place.isConnected ? draw(place) : drawn.delete(place);
  };
  window.dogerm.chart = (place, figure) => {
    drawn.set(place, figure);
    draw(place);
  };

  const bestOf = ({ top, group }) => (top ? t("{0} {1}% at λ = {2}", group, percent(top.accuracy), top.lam) : "–");

  function table(className, heads, rows) {
    const wrap = Object.assign(make("div", `sheet ${className}`), { tabIndex: 0 }), sheet = make("table"), top = make("thead"), body = make("tbody");
    const line = make("tr");
    line.append(...heads);
    top.append(line);
    body.append(...rows);
    sheet.append(top, body);
    wrap.append(sheet);
    return wrap;
  }

  function list() {
    const place = byId("bench-shelf");
    if (!place) return;
    const mine = [...session.values()].filter(({ name }) => !shelf.reports.some((one) => one.name === name)).reverse();
    const all = [...mine, ...shelf.reports];
    const rows = all.map((one) => {
      const row = make("tr", frame && frame.name === one.name ? "open" : "");
      const name = make("td"), button = own("button", "link", one.name);
      button.dataset.name = one.name;
      name.append(button);
      row.append(name, own("td", "quiet", one.benchmark), make("td", "number", one.rows.toLocaleString("en")), make("td", "number", String(one.recipes)), own("td", "", bestOf(one)));
      return row;
    });
    const heads = ["report", "benchmark", "rows", "recipes", "best"].map((text, i) => make("th", i === 2 || i === 3 ? "number" : "", text));
    place.replaceChildren(table("shelf", heads, rows), ...shelf.faults.map((text) => make("p", "fault", text)));
  }

  // A cell of the table: percent, its interval small beneath.
  function cell(metric, best) {
    const node = make("td", best ? "number best" : "number");
    if (!metric || metric.accuracy === null) {
      node.textContent = "–";
      node.title = t("not measured");
      return node;
    }
    node.append(make("span", "", percent(metric.accuracy)), make("small", "", `${percent(metric.low)}–${percent(metric.high)}`));
    if (metric.ties) node.title = t("{0} tied", metric.ties);
    return node;
  }

  function how({ rule, chosen_on }) {
    return rule === "validation" ? t("chosen on {0} validation rows", chosen_on) : t("oracle: chosen on the very rows it is reported on");
  }

  function choices() {
    const rows = frame.groups.filter((group) => frame.best[group]).map((group) => {
      const best = frame.best[group], row = make("tr");
      const gain = best.against && best.against.difference !== null
        ? t("{0} points, p = {1}", `${best.against.difference < 0 ? "−" : "+"}${percent(Math.abs(best.against.difference))}`, best.against.p.toPrecision(2)) : "–";
      row.append(own("td", "", group), make("td", "number", String(best.lam)), cell(best, true), make("td", "", gain), make("td", "quiet", how(best)));
      return row;
    });
    const heads = ["", "best λ", "accuracy, %", "against the first recipe", ""].map((text, i) => make("th", i === 1 || i === 2 ? "number" : "", text));
    return table("choices", heads, rows);
  }

  function measured() {
    const points = frame.report.recipes, several = new Set(frame.mixes).size > 1;
    const highest = Object.fromEntries(frame.groups.map((group) => {
      const found = points.map(({ metrics }) => metrics[group]?.accuracy ?? -1), top = Math.max(...found);
      return [group, top > Math.min(...found) ? top : null]; // where all are equal none is best
    }));
    const rows = points.map((point, i) => {
      const row = make("tr");
      row.append(make("td", "number", point.lam ? String(point.lam) : "0"));
      if (several) row.append(own("td", "quiet", frame.mixes[i]));
      row.append(...frame.groups.map((group) => cell(point.metrics[group], point.metrics[group]?.accuracy === highest[group])));
      return row;
    });
    const heads = [make("th", "number", "λ"), ...(several ? [make("th", "", "mix")] : [])];
    for (const group of frame.groups) {
      const head = own("th", "number", group);
      head.append(make("small", "", `n = ${points[0].metrics[group]?.n ?? 0}`));
      heads.push(head);
    }
    return table("measured", heads, rows);
  }

  function show() {
    const place = byId("bench-report");
    if (!frame || !place) return;
    const title = make("h3", ""), about = frame.report.settings;
    title.append(own("span", "", frame.name));
    const facts = own("p", "quiet", [frame.benchmark, frame.family, about.dtype, about.device, about.too_long && `too long: ${about.too_long}`, about.skipped ? `${about.skipped} skipped` : ""].filter(Boolean).join(" · "));
    const figures = frame.figures.map(({ title: said, figure }) => {
      const block = make("figure"), chart = make("div", "chart");
      block.append(make("figcaption", "", said), chart);
      return { block, chart, figure };
    });
    const grid = make("div", "figures");
    grid.append(...figures.map(({ block }) => block));
    const save = make("button", "link save", "Download report (JSON)");
    const details = make("details"), summary = make("summary", "", "What the numbers depend on");
    details.append(summary, Object.assign(own("pre", "", JSON.stringify({ family: frame.report.family, settings: about }, null, 1)), { tabIndex: 0 }));
    place.replaceChildren(title, facts, grid, make("h4", "", "Best λ by group"), choices(), make("h4", "", "Accuracy in %, with 95% intervals"), measured(), save, details);
    figures.forEach(({ chart, figure }) => window.dogerm.chart(chart, figure));
  }

  function minutes(seconds) {
    const whole = Math.max(1, Math.round(seconds));
    return whole < 90 ? t("{0} s left", whole) : t("{0} min left", Math.round(whole / 60));
  }

  // How far a run is, in words and as a bar; the Paper panel's run says it in its own place.
  window.dogerm.progress = (found, state, bar) => {
    const many = (count) => count.toLocaleString("en");
    const words = found.doing === "Scoring" ? t("Scoring: {0} of {1} rows, each once for every λ", many(found.done), many(found.total))
      : t("Sampling candidates: {0} of {1} problems", many(found.done), many(found.total));
    state.textContent = found.left ? `${words} · ${minutes(found.left)}` : words;
    bar.hidden = false;
    bar.firstElementChild.style.width = `${(100 * found.done) / found.total}%`;
  };

  window.dogerm.bench = (found) => {
    const state = byId("bench-state");
    if (!found || !state) return;
    if (found.doing) return stopped || window.dogerm.progress(found, state, byId("bench-progress"));
    stopped = Boolean(found.stopped); // what was under way then comes too late
    byId("bench-progress").hidden = true;
    state.textContent = found.stopped ? "Stopped." : "";
    if (!found.report) return;
    frame = found;
    if (found.fresh) session.set(found.name, found);
    list();
    show();
  };
  window.dogerm.shelf = (found) => {
    if (!found) return;
    shelf = found;
    list();
  };
  document.addEventListener("dogerm:language", () => { list(); show(); drawAll(); });
  document.addEventListener("click", ({ target }) => {
    if (!target.closest) return;
    if (target.closest('[role="tab"]')) setTimeout(drawAll, 80);
    if (target.closest("#bench-run")) stopped = false;
    const button = target.closest("#bench-shelf button");
    if (button && session.has(button.dataset.name)) window.dogerm.bench(session.get(button.dataset.name));
    else if (button) {
      const input = document.querySelector("#bench-name input, #bench-name textarea");
      Object.getOwnPropertyDescriptor(Object.getPrototypeOf(input), "value").set.call(input, button.dataset.name);
      input.dispatchEvent(new Event("input", { bubbles: true }));
      setTimeout(() => byId("bench-open").click(), 50);
    }
    if (target.closest("#bench-report .save")) {
      const link = make("a");
      link.href = URL.createObjectURL(new Blob([JSON.stringify(frame.report, null, 1)], { type: "application/json" }));
      link.download = "report.json";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }
  });
  new MutationObserver(drawAll).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
  addEventListener("resize", () => setTimeout(drawAll, 120));
})();
