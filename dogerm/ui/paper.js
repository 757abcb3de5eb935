// The Paper panel: the paper's tables beside what was measured here, gains, and a live figure.
(() => {
  const byId = (id) => document.getElementById(id);
  const { t, make, own } = window.dogerm;
  const percent = (share) => (100 * share).toFixed(1);
  const signed = (points) => `${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(1)}`;
  let found = null, now = null, stopped = false;

  function sheet(head, rows, className = "") {
    const wrap = Object.assign(make("div", `sheet ${className}`), { tabIndex: 0 }), table = make("table"), top = make("thead"), body = make("tbody");
    top.append(...head);
    body.append(...rows);
    table.append(top, body);
    wrap.append(table);
    return wrap;
  }

  function row(cells, className) {
    const line = make("tr", className);
    line.append(...cells);
    return line;
  }

  function number(value, gain) {
    const cell = make("td", "number");
    if (value === null) cell.textContent = "–";
    else {
      cell.append(make("span", "", value.toFixed(1)));
      if (gain !== null && gain !== undefined) cell.append(make("small", gain > 0 ? "up" : "", signed(gain)));
    }
    return cell;
  }

  function measured(one) {
    const cell = make("td", one ? "number here" : "number quiet", one ? undefined : "–");
    if (!one) return cell;
    cell.append(make("span", "", percent(one.accuracy)), make("small", "", `${percent(one.low)}–${percent(one.high)}`));
    cell.title = one.rule === "validation" ? t("λ = {0}, chosen on validation rows; n = {1}; report {2}", one.lam, one.n, one.stored)
      : t("λ = {0}, the best on these rows (oracle); n = {1}; report {2}", one.lam, one.n, one.stored);
    return cell;
  }

  function published() {
    const tables = [];
    for (const { table } of found.columns) tables.at(-1)?.table === table ? (tables.at(-1).span += 1) : tables.push({ table, span: 1 });
    const over = [make("th", ""), ...tables.map(({ table, span }) => Object.assign(own("th", "group", table), { colSpan: span }))];
    const heads = [make("th", ""), ...found.columns.map(({ heading }) => own("th", "number", heading))];
    const rows = found.models.flatMap((model) => {
      const first = row([own("td", "model", model.name), ...model.published.map((value, i) => number(value, model.gains[i]))], model.mergeable ? "above" : "");
      if (!model.mergeable) return [first];
      const none = Object.assign(make("td", "quiet none", "not measured here"), { colSpan: found.columns.length });
      const any = model.here.some(Boolean);
      return [first, row([make("td", "quiet", "here"), ...(any ? model.here.map(measured) : [none])], "here")];
    });
    return sheet([row(over), row(heads)], rows, "wide");
  }

  function nano() {
    const { columns, lines, seeds, gains } = found.nano;
    const heads = ["", "λ by seed", ...columns].map((text, i) => (i < 2 ? make("th", "", text) : own("th", "number", text)));
    const rows = lines.map(({ name, lams, cells }) => row([
      make("td", "model", name), own("td", "quiet", lams.join(", ")),
      ...cells.map(({ mean, spread, gain }) => {
        const cell = number(mean, gain);
        if (spread !== null) cell.firstChild.append(make("small", "spread", ` ± ${spread.toFixed(1)}`));
        return cell;
      }),
    ]));
    const chart = make("div", "chart");
    byId("paper-nano").replaceChildren(
      make("h3", "", t("The embedded family, over {0} seeds", seeds)),
      make("p", "lead", "Held-out pairs and best of 16, accuracy in %, mean ± standard deviation; beneath, the gain over the base RM. λ was chosen on validation pairs."),
      sheet([row(heads)], rows, "wide"), chart);
    window.dogerm.chart(chart, gains);
  }

  function show() {
    if (!found || !byId("paper-table")) return;
    byId("paper-table").replaceChildren(published());
    window.dogerm.chart(byId("paper-gains"), found.gains);
    if (found.nano) nano();
  }

  function showNow() {
    if (!now || !byId("paper-live")) return;
    const chart = make("div", "chart"), words = make("p", "lead");
    words.textContent = t("Measured by {0} on {1} pairs.", now.family, now.rows.toLocaleString("en"));
    byId("paper-live").replaceChildren(chart, words);
    window.dogerm.chart(chart, now.figures[0].figure);
  }

  window.dogerm.paper = (tables) => {
    if (!tables) return;
    found = tables;
    show();
  };
  window.dogerm.paperNow = (frame) => {
    const state = byId("paper-state");
    if (!frame || !state) return;
    if (frame.doing) return stopped || window.dogerm.progress(frame, state, byId("paper-progress"));
    stopped = Boolean(frame.stopped);
    byId("paper-progress").hidden = true;
    state.textContent = frame.stopped ? "Stopped." : "";
    if (!frame.report) return;
    now = frame;
    showNow();
  };
  document.addEventListener("click", ({ target }) => { if (target.closest?.("#paper-run")) stopped = false; });
  document.addEventListener("dogerm:language", () => { show(); showNow(); });
})();
