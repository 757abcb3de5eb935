// The Pairs panel: accuracy against λ, and a table of pairs by how much merging moves them.
(() => {
  const byId = (id) => document.getElementById(id);
  const PAGE = 50;
  let frame = null, filter = "all", most = PAGE;
  const { t, make, own } = window.dogerm;
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;

  // The measured λ nearest to the slider: the table says which it is.
  const column = () => frame.lams.reduce((best, lam, i) =>
    (Math.abs(lam - window.dogerm.view.lam) < Math.abs(frame.lams[best] - window.dogerm.view.lam) ? i : best), 0);

  function rows() {
    const at = column();
    return frame.rows
      .map((row) => ({ ...row, base: row.margins[0], merged: row.margins[at] }))
      .filter(({ base, merged }) => filter === "all" || (filter === "right" ? base <= 0 && merged > 0 : base > 0 && merged <= 0))
      .sort((a, b) => Math.abs(b.merged - b.base) - Math.abs(a.merged - a.base));
  }

  function mark(margin) {
    const cell = make("td", "margin");
    cell.append(make("span", margin > 0 ? "right" : "wrong", margin > 0 ? "✓" : "✗"), ` ${signed(margin)}`);
    return cell;
  }

  function table() {
    const place = byId("pairs-table");
    if (!frame || !place) return;
    const found = rows(), lam = frame.lams[column()];
    const bar = make("div", "bar");
    const turned = (wanted) => { const kept = filter; filter = wanted; const count = rows().length; filter = kept; return count; };
    for (const [value, label] of [["all", t("all {0}", frame.rows.length.toLocaleString("en"))], ["right", t("turned right {0}", turned("right"))], ["wrong", t("turned wrong {0}", turned("wrong"))]]) {
      const item = make("label"), input = document.createElement("input");
      Object.assign(input, { type: "radio", name: "dogerm-pairs-filter", value, checked: value === filter });
      item.append(input, label);
      bar.append(item);
    }
    for (const [kind, label] of [["csv", "Download margins (CSV)"], ["json", "Download report (JSON)"]]) {
      const button = make("button", "save", label);
      button.dataset.kind = kind;
      bar.append(button);
    }
    const head = make("tr");
    for (const text of ["pair", "instruction", "base RM", t("DogeRM at λ = {0}", lam), "change"]) head.append(make("th", "", text));
    const sheet = make("table"), top = make("thead"), body = make("tbody");
    top.append(head);
    for (const row of found.slice(0, most)) {
      const line = make("tr");
      const [, kind, number] = row.where.match(/^(line|row) (\d+)/);
      const where = kind === "line" ? t("line {0}", number) : t("row {0}", number);
      const link = make("button", "open", row.domain ? t("{0} · {1}", where, row.domain) : where);
      link.dataset.place = row.place;
      link.title = "Open this pair above";
      const first = make("td");
      first.append(link);
      line.append(first, own("td", "prompt", row.prompt), mark(row.base), mark(row.merged), make("td", "margin", signed(row.merged - row.base)));
      body.append(line);
    }
    sheet.append(top, body);
    const wrap = make("div", "sheet");
    wrap.append(sheet);
    const rest = found.length - most;
    place.replaceChildren(bar, wrap, ...(rest > 0 ? [make("button", "rest", t("Show more ({0} left)", rest.toLocaleString("en")))] : []));
  }

  function plot() {
    const place = byId("pairs-plot");
    if (!frame || !place || !place.offsetParent || !window.Plotly) return;
    const figure = structuredClone(frame.figure);
    const narrow = place.clientWidth < 560; // the legend needs lines of its own
    figure.layout.height = narrow ? 400 : 320;
    if (narrow) Object.assign(figure.layout, { legend: { orientation: "h", y: -0.22, yanchor: "top" }, margin: { ...figure.layout.margin, b: 120 } });
    window.dogerm.plot(place, figure, "Accuracy against λ");
  }

  function save(kind) {
    const quoted = (text) => `"${String(text).replaceAll('"', '""').replace(/^([=+@-])/, "'$1")}"`;
    const text = kind === "json" ? JSON.stringify(frame.report, null, 1) : [
      ["pair", "domain", ...frame.lams.map((lam) => `margin at ${lam}`)].map(quoted).join(","),
      ...frame.rows.map((row) => [quoted(row.where), quoted(row.domain), ...row.margins].join(",")),
    ].join("\n");
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind === "json" ? "application/json" : "text/csv" }));
    link.download = kind === "json" ? "report.json" : "margins.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  window.dogerm.pairs = (found) => {
    const state = byId("pairs-state");
    if (!found || !state) return;
    if (found.stopped) state.textContent = "Stopped.";
    else if (!found.rows) state.textContent = t("Scoring: {0} of {1} rewards…", found.done.toLocaleString("en"), found.total.toLocaleString("en"));
    else {
      frame = found;
      most = PAGE;
      const lost = found.skipped.length;
      state.textContent = !lost ? "" : lost === 1 ? t("1 pair left out: {0}", found.skipped[0]) : t("{0} pairs left out: {1}, and others like it.", lost, found.skipped[0]);
      plot();
      table();
    }
  };
  window.dogerm.score = () => setTimeout(() => { byId("score").click(); byId("lam").scrollIntoView({ block: "start" }); }, 60);
  document.addEventListener("change", ({ target }) => {
    if (target.name === "dogerm-pairs-filter") { filter = target.value; most = PAGE; table(); }
    else if (target.closest && target.closest("#lam")) table();
  });
  document.addEventListener("dogerm:frame", table);
  document.addEventListener("dogerm:language", () => { plot(); table(); });
  document.addEventListener("click", ({ target }) => {
    if (!target.closest) return;
    if (target.closest('[role="tab"]')) setTimeout(plot, 80);
    if (!target.closest("#pairs-table")) return;
    if (target.matches(".rest")) { most += 4 * PAGE; table(); }
    if (target.matches(".save")) save(target.dataset.kind);
    if (target.matches(".open")) {
      const input = document.querySelector("#pairs-chosen input");
      Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, target.dataset.place);
      input.dispatchEvent(new Event("input", { bubbles: true }));
      setTimeout(() => byId("pairs-open").click(), 50);
    }
  });
})();
