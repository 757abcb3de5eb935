// The page's own part: draws frames that the server sends, and answers a drag at once.
// A frame holds exact numbers; between two frames values are read off the curve by
// linear interpolation and marked "≈". Text of visitors is only ever set as textContent.
Object.assign(window.dogerm, (() => {
  const view = { lam: 0, frame: null, curve: null, figures: null, stopped: false, kind: "centred", plotted: null, beside: () => [] };
  const byId = (id) => document.getElementById(id);
  const letter = (i) => String.fromCharCode(65 + i);
  const best = (row) => row.flatMap((r, i) => (r === Math.max(...row) ? [i] : []));
  const fixed = (value) => value.toFixed(3).replace("-", "−");
  const { t, make, own } = window.dogerm;
  const names = (indices) => indices.map(letter).reduce((all, one) => t("{0} and {1}", all, one));
  // What panels lay over the chart, by its kind: traces and shapes.
  const overlays = [];

  // Rewards at any λ, from the curve's two neighbouring points.
  function interpolated(curve, lam) {
    const { lams, rewards } = curve;
    let i = lams.findIndex((x) => x >= lam);
    if (i < 0) i = lams.length - 1;
    if (i === 0 || lams[i] === lam) return rewards[i];
    const t = (lam - lams[i - 1]) / (lams[i] - lams[i - 1]);
    return rewards[i].map((r, k) => rewards[i - 1][k] + t * (r - rewards[i - 1][k]));
  }

  // What to show now: exact where the frame is, "≈" elsewhere, null when there is no curve yet.
  function current() {
    const { frame, curve, lam } = view;
    if (!frame) return null;
    if (frame.recorded) {
      const at = frame.points.lams.findIndex((x) => Math.abs(x - lam) < 1e-9);
      return { base: frame.base, merged: at < 0 ? interpolated(frame.points, lam) : frame.points.rewards[at], exact: at >= 0 };
    }
    if (Math.abs(frame.lam - lam) < 1e-9) return { base: frame.base, merged: frame.merged, exact: true };
    if (!curve || curve.lams[curve.lams.length - 1] < lam) return null;
    return { base: frame.base, merged: interpolated(curve, lam), exact: false };
  }

  function verdict(base, merged) {
    const ours = best(base), theirs = best(merged);
    const does = (top) => (top.length > 1 ? "ties" : "prefers");
    if (view.lam === 0) return t(`At λ = 0 DogeRM is the base RM: it ${does(ours)} {0}.`, names(ours));
    if (names(ours) === names(theirs)) return t(ours.length > 1 ? "Both tie {0}." : "Both prefer {0}.", names(ours));
    return t(`Base RM ${does(ours)} {0}, DogeRM ${does(theirs)} {1}.`, names(ours), names(theirs));
  }

  function flips() {
    if (!view.curve || !view.frame.done) return t("Looking for flips…");
    const found = view.curve.flips;
    if (!found.length) return t("The top response is the same at every λ.");
    const each = found.map((f) => `λ ≈ ${f.lam.toFixed(2)} (${letter(f.before)} → ${letter(f.after)})`);
    return t("The ranking flips at {0}.", each.join(", "));
  }

  // Bradley-Terry, under which reward models are trained: P(i over j) = σ(reward of i − reward of j).
  const preference = (row, i, j) => 1 / (1 + Math.exp(row[j] - row[i]));
  const percent = (p) => (p > 0.9995 ? ">99.9%" : p < 0.0005 ? "<0.1%" : `${(100 * p).toFixed(1)}%`);

  // The two responses worth comparing: of two, A with B; of more, DogeRM's best with the base RM's,
  // or with the runner-up where both have the same.
  function rivals(base, merged) {
    if (merged.length === 2) return [0, 1];
    const ours = best(merged)[0], theirs = best(base)[0];
    const others = merged.flatMap((r, i) => (i === ours ? [] : [i]));
    return [ours, ours !== theirs ? theirs : others.reduce((a, i) => (merged[i] > merged[a] ? i : a))];
  }

  function drawPreference({ base, merged, exact }) {
    const line = byId("preference"), [i, j] = rivals(base, merged);
    const [ours, theirs] = [preference(merged, i, j), preference(base, i, j)];
    Object.assign(line.dataset, { over: letter(i), under: letter(j), merged: ours, base: theirs });
    write(line, t("{0} is preferred to {1} with probability {2} by DogeRM, {3} by the base RM.",
      letter(i), letter(j), `${exact ? "" : "≈ "}${percent(ours)}`, percent(theirs)));
    line.title = t("Bradley–Terry: σ of the difference of the two rewards, the model that reward models are trained under");
  }

  // A reward with its rank, and a bar from the middle: how far above or below the mean of the
  // responses. Made once, then set again and again while λ is dragged.
  function rewardCell(kind) {
    const cell = make("div", `reward ${kind}`), line = make("span", "line");
    const number = make("span", "number"), rank = make("span", "rank");
    const track = make("span", "track"), fill = make("span", `fill ${kind}`);
    line.append(number, rank);
    track.append(fill);
    track.setAttribute("aria-hidden", "true");
    number.dataset.name = kind === "base" ? t("base") : kind === "merged" ? "DogeRM" : t("pin"); // seen where no head stands above
    cell.setAttribute("role", "group");
    cell.setAttribute("aria-label", kind === "base" ? t("base RM") : kind === "merged" ? "DogeRM" : t("pin"));
    cell.append(line, track);
    function show(row, i, size, exact) {
      const first = best(row).includes(i), place = 1 + row.filter((r) => r > row[i]).length;
      const offset = row[i] - mean(row), width = Math.min(50, (Math.abs(offset) / size) * 50);
      cell.dataset.value = row[i];
      cell.classList.toggle("first", first);
      write(number, `${exact ? "" : "≈ "}${fixed(row[i])}`);
      write(rank, t(first ? "★ rank {0}" : "rank {0}", place));
      fill.style.left = `${offset < 0 ? 50 - width : 50}%`;
      fill.style.width = `${width}%`;
    }
    return { cell, show };
  }

  const mean = (row) => row.reduce((a, b) => a + b, 0) / row.length;

  // One scale for both models and for every λ, so that bars can be compared while dragging.
  function scale(now) {
    const rows = [now.base, now.merged, ...view.beside(), ...(view.curve ? view.curve.rewards : [])];
    return Math.max(1e-9, ...rows.map((row) => Math.max(...row.map((r) => Math.abs(r - mean(row))))));
  }

  let cards = { texts: null, rows: [] };
  function makeCards(texts) {
    const rows = texts.map((text, i) => {
      const card = make("article", "card"), name = make("div", "name");
      const mark = make("span", "letter", letter(i)), change = make("div", "delta");
      card.dataset.response = letter(i);
      card.setAttribute("aria-label", t("Response {0}", letter(i)));
      name.append(mark, own("span", "snippet", text.slice(0, 160)));
      change.title = "DogeRM minus base RM; all rewards drift together with λ";
      const [base, merged] = [rewardCell("base"), rewardCell("merged")];
      card.append(name, base.cell, merged.cell, change);
      return { card, mark, base, merged, change };
    });
    cards = { texts, rows };
    byId("cards").replaceChildren(...rows.map((row) => row.card));
    byId("results").style.setProperty("--cards", rows.length); // the chart has the room they leave
  }

  function drawCards(now) {
    const size = scale(now), { texts } = view.frame;
    if (!cards.texts || cards.texts.join("\0") !== texts.join("\0") || !byId("cards").firstChild) makeCards(texts);
    cards.rows.forEach(({ mark, base, merged, change }, i) => {
      if (view.figures) mark.style.color = view.figures.raw.data[i].line.color;
      base.show(now.base, i, size, true);
      merged.show(now.merged, i, size, now.exact);
      const delta = now.merged[i] - now.base[i];
      write(change, `${delta < 0 ? "" : "+"}${fixed(delta)}`);
    });
  }

  function drawFormula() {
    const shares = view.frame?.recorded ? Object.entries(view.frame.shares).map(([name, value]) => ({ name, value })) : readShares();
    const total = shares.reduce((sum, s) => sum + s.value, 0);
    const terms = [["RM", 1 - view.lam], ...shares.map((s) => [s.name, total ? (view.lam * s.value) / total : 0])];
    const line = byId("formula");
    if (!line) return;
    const method = view.frame ? view.frame.method : "linear";
    const [open, close] = method === "linear" ? ["DogeRM = ", ""] : [`DogeRM = ${method}(`, ")"];
    line.replaceChildren(open, ...terms.flatMap(([name, value], i) => {
      const term = make("span", i ? "term merged" : "term base", `${value.toFixed(2)} `);
      return [i ? " + " : "", term, own("span", "of", name)];
    }), close);
  }

  function readShares() {
    const shown = [...document.querySelectorAll(".share")].filter((block) => block.querySelector("label"));
    return shown.map((block) => ({
      name: block.querySelector("label").textContent.trim(),
      value: Number(block.querySelector('input[type="range"]').value) || 0,
    }));
  }

  // The chosen method's options, as they are set now.
  function readOptions() {
    const shown = [...document.querySelectorAll(".option")].filter((block) => block.offsetParent);
    return shown.map((block) => [block.id.replace("option-", ""), block.querySelector('input[type="number"]').value]);
  }

  // What the boxes hold: the instruction, then the responses.
  function written() {
    const shown = [...document.querySelectorAll(".response")].filter((block) => block.offsetParent);
    return [byId("instruction"), ...shown].map((block) => block.querySelector("textarea").value);
  }

  // Whether the sliders stand for the frame's mix.
  function sameMix(shares) {
    const total = shares.reduce((sum, s) => sum + s.value, 0);
    return shares.every((s) => Math.abs(s.value / total - (view.frame.shares[s.name] || 0)) <= 1e-6);
  }

  // The setting that the frame answers; the weights as the sliders have them, to be set again.
  function setting() {
    const { lam, method, options, shares } = view.frame, sliders = readShares();
    const raw = Object.fromEntries(sliders.filter((s) => s.value).map((s) => [s.name, s.value]));
    return { lam, shares: sameMix(sliders) ? raw : shares, method, options };
  }

  // Why the frame no longer answers what the widgets say, or nothing when it does.
  function staleness() {
    const { frame } = view;
    if (frame.recorded) return "";
    if (written().join("\0") !== [frame.prompt, ...frame.texts].join("\0")) return "The text has changed. Press Score.";
    if (!sameMix(readShares())) return "The weights have changed.";
    const known = ([name]) => name in frame.options; // while a new method's frame is under way, it is not
    if (readOptions().filter(known).some(([name, value]) => value !== "" && Number(value) !== frame.options[name]))
      return "The options have changed. Press Score.";
    return view.stopped ? "Stopped before the curve was whole. Press Score to go on." : "";
  }

  // Lines, marks and margins keep step with the type.
  function grow(data, layout, factor) {
    for (const trace of data) {
      if (trace.line?.width) trace.line.width *= factor;
      if (typeof trace.marker?.size === "number") trace.marker.size *= factor;
    }
    for (const shape of layout.shapes || []) if (shape.line) shape.line.width *= factor;
    for (const note of layout.annotations || []) if (note.font) note.font.size *= factor;
    for (const side of "lrtb") if (layout.margin?.[side]) layout.margin[side] *= factor;
  }

  function drawPlot() {
    const plot = document.querySelector("#plot .js-plotly-plot");
    if (!window.Plotly || !plot) {
      setTimeout(drawPlot, 60);
      return;
    }
    const figure = view.figures && view.figures[view.kind];
    if (!figure) return;
    if (view.plotted !== figure) {
      view.plotted = figure;
      const data = [...figure.data], layout = structuredClone(figure.layout);
      for (const overlay of overlays) {
        const laid = overlay(view.kind);
        data.push(...laid.data);
        layout.shapes.push(...laid.shapes);
      }
      Object.assign(layout, { height: plot.clientHeight }, mark(layout));
      drawFigure(plot, { data, layout }, "Reward against λ");
    }
    moveCursor(plot);
  }

  // Under the hand the cursor's line is shifted; Plotly draws it anew once λ rests.
  function moveCursor(plot) {
    const { xaxis, shapes } = plot._fullLayout, line = plot.querySelector('.shapelayer path[data-index="0"]');
    if (!xaxis || !shapes?.length) return;
    const at = xaxis.l2p(view.lam);
    if (line && view.frame.lam !== view.lam && at >= 0 && at <= xaxis._length)
      line.setAttribute("transform", `translate(${at - xaxis.l2p(shapes[0].x0)},0)`);
    else if (!line || shapes[0].x0 !== view.lam || line.hasAttribute("transform"))
      Plotly.relayout(plot, { "shapes[0].x0": view.lam, "shapes[0].x1": view.lam, "shapes[0].visible": true });
  }

  // Text for a chart, where Plotly reads tags.
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // What a recording was made on, for people.
  const where = (made) => t("{0} on {1}, {2}, {3}", t(made.family), made.device, made.dtype, made.date.slice(0, 10));

  // What a chart bears as long as its numbers come from a file.
  function mark({ annotations = [] }) {
    if (!view.frame.recorded) return {};
    const { device, dtype, date } = view.frame.made;
    const text = escaped(t("recorded on {0}, {1}, {2}", device, dtype, date.slice(0, 10)));
    const place = { xref: "paper", yref: "paper", x: 1, y: 0, xanchor: "right", yanchor: "top", yshift: -24, showarrow: false };
    return { annotations: [...annotations, { ...place, text, font: { size: 11, color: "#b37208" } }] };
  }

  // Draws a figure, as the server made it, in the page's language, ink and type size; `label`
  // names it to a screen reader. The figure is left as it is.
  function drawFigure(place, figure, label) {
    const { data, layout } = window.dogerm.figure(figure);
    place.setAttribute("role", "figure");
    place.setAttribute("aria-label", t(label ?? "Chart"));
    const style = getComputedStyle(place), ink = style.getPropertyValue("--ink").trim();
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    layout.font = { ...layout.font, color: ink, size: 0.81 * rem };
    layout.hoverlabel = { ...layout.hoverlabel, bgcolor: style.getPropertyValue("--paper").trim(), font: { ...layout.hoverlabel?.font, color: ink } };
    grow(data, layout, rem / 16);
    const dark = { "#4f6d9a": style.getPropertyValue("--base").trim() }; // the base RM's blue, where it stands on the ground
    for (const { line } of layout.shapes || []) if (line) line.color = dark[line.color] || line.color;
    for (const { font } of layout.annotations || []) if (font) font.color = dark[font.color] || font.color;
    return Plotly.react(place, data, layout, { responsive: true, displaylogo: false, displayModeBar: "hover", ...window.dogerm.locale() });
  }

  // A text that is as it was is not written, and not heard, again.
  function write(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function draw() {
    const results = byId("dogerm-results");
    if (!results) {
      setTimeout(draw, 60);
      return;
    }
    const stale = view.frame ? staleness() : ""; // reads the layout, so before anything is written
    drawFormula();
    const now = current();
    results.dataset.state = view.frame?.recorded ? "recorded" : stale ? "stale" : now ? (now.exact ? "exact" : "near") : "waiting";
    // What is heard: the answer, once it is exact, and not each value of a drag.
    byId("said").setAttribute("aria-live", now && !now.exact ? "off" : "polite");
    write(byId("stale"), t(stale));
    const recorded = view.frame?.recorded && where(view.frame.made);
    write(byId("recorded"), !recorded ? "" : view.replay ? t("Recorded with {0}.", recorded) : t("Recorded with {0}; live numbers follow.", recorded));
    if (!now) return;
    write(byId("verdict"), t(now.exact ? "{0}" : "≈ {0}", verdict(now.base, now.merged)));
    write(byId("flips"), stale ? "" : flips());
    drawPreference(now);
    drawCards(now);
    document.dispatchEvent(new CustomEvent("dogerm:drawn", { detail: { ...now, stale } }));
    drawPlot();
  }

  // The first event in an animation frame is answered at once, the others together in the next.
  let drawing = false, again = false;
  function soon() {
    if (drawing) {
      again = true;
      return;
    }
    drawing = true;
    draw();
    requestAnimationFrame(() => {
      drawing = false;
      if (again) soon();
      again = false;
    });
  }

  function redraw() {
    view.plotted = null;
    if (view.frame) draw();
  }

  // The same texts and the same mix: the curve that is drawn still holds.
  const sameCurve = (a, b) =>
    a && b && JSON.stringify([a.texts, a.prompt, a.shares, a.method, a.options]) === JSON.stringify([b.texts, b.prompt, b.shares, b.method, b.options]);

  function show(frame) {
    if (!frame || !frame.texts) return;
    if (view.replay && !frame.recorded) return; // Score ends the replay before it asks
    if (frame.curve) {
      view.curve = frame.curve;
      view.figures = frame.figures;
    } else if (!sameCurve(frame, view.frame) || view.frame.recorded) {
      view.curve = view.figures = null;
      if (frame.alone) byId("score").click(); // λ was let go after the text had changed
    } else {
      frame.done = view.frame.done;
    }
    view.frame = frame;
    view.stopped = false;
    const lam = sliderValue();
    view.lam = lam === null || lam === undefined ? frame.lam : lam;
    draw();
    if (frame.recorded) return; // panels ask the live model
    document.dispatchEvent(new CustomEvent("dogerm:frame", { detail: frame })); // for the panels
  }

  function sliderValue() {
    const input = document.querySelector('#lam input[type="range"]');
    return input ? Number(input.value) : null;
  }

  // What came with the page: the first example, recorded, until the live model has answered.
  function first() {
    const results = byId("dogerm-results");
    if (view.frame) return;
    if (!results) return void requestAnimationFrame(first);
    if (results.dataset.recorded && !new URLSearchParams(location.search).has("s")) show(JSON.parse(results.dataset.recorded));
  }
  first();

  function put(input, value) {
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, String(value));
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }

  // Set λ and the domains' weights as a hand would, and score.
  function set(lam, shares) {
    put(document.querySelector('#lam input[type="range"]'), lam);
    for (const block of document.querySelectorAll(".share")) {
      const label = block.querySelector("label");
      if (label) put(block.querySelector('input[type="range"]'), shares[label.textContent.trim()] || 0);
    }
    setTimeout(() => byId("score").click(), 50); // once Gradio has taken the values up
  }

  const letGo = (range) => range.dispatchEvent(new Event("pointerup", { bubbles: true }));

  // λ alone, as a hand would move it; without `merge` the hand has not let go yet.
  function move(lam, merge = true) {
    const range = document.querySelector('#lam input[type="range"]');
    put(range, lam);
    if (merge) setTimeout(letGo, 20, range); // once Gradio has taken the value up
  }

  const normalised = (shares) => {
    const total = Object.values(shares).reduce((sum, s) => sum + s, 0);
    const shown = Object.entries(shares).filter(([, s]) => s).sort(([a], [b]) => (a < b ? -1 : 1));
    return JSON.stringify(shown.map(([name, s]) => [name, (s / total).toFixed(6)]));
  };
  // Two settings ask for the same weights, λ aside.
  const sameWay = (a, b) =>
    a.method === b.method && normalised(a.shares) === normalised(b.shares) && JSON.stringify(a.options) === JSON.stringify(b.options);

  // A whole setting, with the texts if it names them. Only what differs is set.
  function restore(wanted) {
    const [prompt, ...responses] = written(), now = { ...setting(), prompt, responses };
    const all = { ...now, ...wanted };
    const texts = JSON.stringify([all.prompt, all.responses]) === JSON.stringify([prompt, responses]);
    if (texts && sameWay(all, now) && !staleness() && !view.frame.recorded) move(all.lam);
    else {
      window.dogerm.wanted = all;
      byId("back").click();
    }
  }

  function stop() {
    view.stopped = Boolean(view.frame) && !view.frame.done;
    draw();
  }

  // What a visitor moves or types is answered here at once; the server hears of it on release.
  document.addEventListener("input", ({ target }) => {
    if (target.closest("#lam")) {
      view.lam = Math.min(1, Math.max(0, Number(target.value)));
      soon();
    } else if (target.closest(".share, .option, #instruction, .response")) soon();
  });
  // A number typed beside a slider: Gradio sends it as it stands and only then brings it into
  // the range. Here it is in the range first, and an emptied box is what it was.
  const typed = new WeakMap();
  const isTyped = (node) => node.type === "number" && node.closest(".head")?.nextElementSibling?.querySelector('input[type="range"]');
  const within = ({ value, min, max }) => Math.min(max, Math.max(min, value));
  const mend = ({ target }) => {
    if (!isTyped(target)) return;
    const meant = target.value === "" ? typed.get(target) : within(target);
    if (Number(target.value) !== Number(meant) || target.value === "") put(target, meant);
  };
  // While it is typed already: what is sent when the box is left is what Gradio heard of last,
  // which may be what was there before it was mended.
  document.addEventListener("input", (event) => {
    const { target } = event;
    if (!isTyped(target)) return;
    if (target.value === "") event.stopImmediatePropagation();
    else if (within(target) !== Number(target.value)) target.value = within(target);
  }, true);
  document.addEventListener("focusin", ({ target }) => {
    if (isTyped(target)) typed.set(target, target.value);
  });
  document.addEventListener("blur", mend, true); // both before Gradio's own
  document.addEventListener("pointerup", mend, true);
  document.addEventListener("click", ({ target }) => {
    if (target.closest("#more, #fewer")) setTimeout(draw, 400); // once the server has shown the box
  });
  // Arrow keys move a slider without letting it go: let it go when the key is up.
  document.addEventListener("keyup", (event) => {
    const keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];
    if (event.target.type === "range" && keys.includes(event.key))
      letGo(event.target);
  });
  document.addEventListener("change", (event) => {
    if (event.target.name !== "dogerm-view") return;
    view.kind = event.target.value;
    const [drift, lead] = document.querySelectorAll(".view .hint");
    [drift.hidden, lead.hidden] = [view.kind === "margin", view.kind !== "margin"];
    draw();
  });
  // Another theme or size. Gradio sets its theme on the body, which is not there yet.
  const watch = (node) => new MutationObserver(redraw).observe(node, { attributes: true, attributeFilter: ["class"] });
  watch(document.documentElement);
  if (document.body) watch(document.body);
  else document.addEventListener("DOMContentLoaded", () => watch(document.body));
  document.addEventListener("dogerm:language", () => {
    cards.texts = null; // their labels are in the other language
    redraw();
  });

  return { show, draw, stop, set, put, move, restore, setting, sameWay, redraw, overlays, cards: () => cards.rows, rewardCell, best, mean, scale, preference, percent, fixed, write, letter, view, escaped, where, plot: drawFigure, shares: () => Object.fromEntries(readShares().map((s) => [s.name, s.value])) };
})());
