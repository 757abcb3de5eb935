// The Export panel: files made in the browser of what it shows, and what the server made.
(() => {
  const { view, t, escaped, letter } = window.dogerm;
  const byId = (id) => document.getElementById(id);
  const NONE = "There is no whole curve yet. Press Score and wait for it.";
  const brief = (text, most) => { const line = text.replace(/\s+/g, " ").trim(); return line.length > most ? `${line.slice(0, most - 1)}…` : line; };
  const say = (sentence) => { const line = byId("export-state"); if (line) line.textContent = sentence; };

  function download(data, name, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(data instanceof Blob ? data : new Blob([data], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    say(t("Saved {0}.", name));
  }

  const named = (values) => Object.entries(values).map(([name, value]) => `${name} ${value}`).join("; ");

  // A row per λ and response, each with all that its number depends on.
  function csv(take) {
    // A cell that a spreadsheet would take for a formula is made text.
    const cell = (value) => (typeof value === "number" ? String(value) : `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`);
    const { recipe, made } = take, points = new Map(take.curve.lams.map((lam, i) => [lam, take.curve.rewards[i]]));
    for (const one of take.measured) points.set(one.lam, one.rewards);
    const files = Object.entries(made.models || {}).map(([name, model]) => `${name} ${model.source}${model.revision ? `@${model.revision}` : ""} (${named(model.files)})`).join("; ");
    const rest = [recipe.method, named(recipe.shares), named(recipe.options || {}), made.family, made.device, made.dtype, made.date, named(made.versions), files, take.prompt];
    const head = ["lam", "response", "reward", "reward_minus_mean", "method", "shares", "options", "family", "device", "dtype", "date", "versions", "models", "prompt", "text"];
    const lines = [...points].sort(([a], [b]) => a - b).flatMap(([lam, row]) => {
      const mean = row.reduce((a, b) => a + b, 0) / row.length;
      return row.map((reward, i) => [lam, letter(i), reward, reward - mean, ...rest, take.responses[i]].map(cell).join(","));
    });
    return `${[head.join(","), ...lines].join("\r\n")}\r\n`;
  }

  function save(kind, made) {
    const { recording } = window.dogerm;
    if (kind === "recording") {
      if (!recording.count()) return say(NONE);
      return download(recording.all(made), `dogerm-recording-${made.date.slice(0, 10)}.json`, "application/json");
    }
    const take = recording.take(made);
    if (!take) return say(NONE);
    return kind === "json" ? download(recording.file([take]), "dogerm-curve.json", "application/json") : download(csv(take), "dogerm-curve.csv", "text/csv");
  }

  // The chart as a figure that says on white paper what it is of.
  function figure(take) {
    const { data, layout } = window.dogerm.figure(view.figures[view.kind]);
    const { recipe, made } = take, lam = view.lam;
    const terms = [["RM", 1 - lam], ...Object.entries(recipe.shares).map(([name, share]) => [name, lam * share])];
    const sum = terms.map(([name, value]) => `${value.toFixed(2)} ${name}`).join(" + ");
    const settings = Object.entries(recipe.options || {}).map(([name, value]) => `${name} = ${value}`).join(", ");
    const formula = recipe.method === "linear" ? sum : `${recipe.method}(${sum})${settings ? `, ${settings}` : ""}`;
    const under = [
      ...take.responses.map((text, i) => `<b style="color:${view.figures.raw.data[i].line.color}">${letter(i)}</b>  ${escaped(brief(text, 120))}`),
      escaped(`${made.family} · ${made.device} · ${made.dtype} · ${made.date.slice(0, 10)} · DogeRM Studio`),
    ];
    const ink = "#1f2126", quiet = "#6d6a63", line = 20;
    const notes = under.map((text, i) => ({
      text, xref: "paper", yref: "paper", x: 0, y: 0, xanchor: "left", yanchor: "top", align: "left", yshift: -58 - i * line, showarrow: false,
      font: { size: i === under.length - 1 ? 12 : 13, color: i === under.length - 1 ? quiet : ink },
    }));
    const height = 520 + under.length * line;
    Object.assign(layout, {
      width: 1000, height, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff",
      font: { ...layout.font, color: ink, size: 14 },
      title: {
        text: `<b>${escaped(brief(take.prompt, 95))}</b><br><span style="font-size:14px">DogeRM = ${escaped(formula)}</span>`,
        x: 0, xref: "paper", xanchor: "left", y: 1, yref: "container", yanchor: "top", pad: { t: 28 }, font: { size: 18, color: ink },
      },
      margin: { l: 74, r: 48, t: 112, b: 78 + under.length * line },
      annotations: [...(layout.annotations || []), ...notes],
    });
    const [cursor, ...flips] = layout.shapes || [];
    if (cursor) layout.shapes = [{ ...cursor, x0: lam, x1: lam, visible: true }, ...flips];
    return { data, layout };
  }

  async function picture(format) {
    const take = window.dogerm.recording.take();
    if (!take || !window.Plotly) return say(NONE);
    const drawn = figure(take), { width, height } = drawn.layout;
    const address = await window.Plotly.toImage(drawn, { format, width, height, scale: format === "png" ? 2 : 1 });
    download(await (await fetch(address)).blob(), `dogerm-curve.${format}`);
  }

  // The curve as the server reads it to make a page of it.
  function shown(made) {
    const one = window.dogerm.recording.take(made);
    return one ? window.dogerm.recording.file([one]) : "";
  }

  async function page(packed) {
    if (!packed || !packed.gzip) return;
    const bytes = Uint8Array.from(atob(packed.gzip), (one) => one.charCodeAt(0));
    const html = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).blob();
    download(html, "dogerm-curve.html", "text/html");
  }

  function told(found) {
    if (!found) return;
    if (found.stopped) return say("Stopped. Nothing was written.");
    if (found.packed) return say("The checkpoint is packed.");
    if (found.done) return say(found.done === found.total ? t("Written {0}; reading the sources once more, to record their hashes…", found.total) : t("Writing: {0} of {1}…", found.done, found.total));
    const tokens = found.appended.length ? brief(found.appended.join(", "), 120) : "none";
    const kept = t("{0} parameters merged; kept from the reward model: {1}; tokens appended: {2}.", found.merged, found.kept.join(", "), tokens);
    const lost = found.tokens_added ? "" : ` ${t("The tokenizer does not know the appended tokens.")}`;
    return say(`${t("Wrote {0}: {1} in {2} files.", found.folder, found.size, found.files)} ${kept}${lost}`);
  }

  function take(file) {
    const found = Array.isArray(file) ? file[0] : file;
    if (!found || !found.url) return;
    const link = Object.assign(document.createElement("a"), { href: found.url, download: "merged.zip" });
    link.click();
    say(t("Saved {0}.", "merged.zip"));
  }

  function count() {
    const place = byId("recorded-count"), curves = window.dogerm.recording.count();
    if (place) place.textContent = !curves ? "" : curves === 1 ? t("1 curve so far.") : t("{0} curves so far.", curves);
  }
  document.addEventListener("dogerm:recorded", count);
  document.addEventListener("click", ({ target }) => {
    if (target.closest && target.closest('[role="tab"]')) setTimeout(count, 80); // the tab's own words are there then
  });

  window.dogerm.exports = { save, picture, page, shown, told, take };
})();
