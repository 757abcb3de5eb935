// The page's own part: draws frames that the server sends, and answers a drag at once.
// A frame holds exact numbers; between two frames values are read off the curve by
// linear interpolation and marked "≈". Text of visitors is only ever set as textContent.
Object.assign(window.dogerm, (() => {
  const view = { lam: 0, frame: null, curve: null, figures: null, stopped: false, centred: true, plotted: null };
  const byId = (id) => document.getElementById(id);
  const letter = (i) => String.fromCharCode(65 + i);
  const best = (row) => row.flatMap((r, i) => (r === Math.max(...row) ? [i] : []));
  const fixed = (value) => value.toFixed(3).replace("-", "−");
  const { t } = window.dogerm;
  const names = (indices) => indices.map(letter).reduce((all, one) => t("{0} and {1}", all, one));

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

  const element = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // The same, of a visitor's own text or a name: it has no other language.
  const own = (tag, className, text) => Object.assign(element(tag, className, text), { translate: false });

  // A bar from the middle: how far above or below the mean of the responses.
  function bar(kind, offset, scale) {
    const track = element("span", "track");
    const fill = element("span", `fill ${kind}`);
    const width = Math.min(50, (Math.abs(offset) / scale) * 50);
    fill.style.left = `${offset < 0 ? 50 - width : 50}%`;
    fill.style.width = `${width}%`;
    track.append(fill);
    track.setAttribute("aria-hidden", "true");
    return track;
  }

  function reward(kind, value, mean, scale, rank, first, exact) {
    const cell = element("div", `reward ${kind}${first ? " first" : ""}`);
    cell.dataset.value = value;
    const line = element("span", "line"), number = element("span", "number", `${exact ? "" : "≈ "}${fixed(value)}`);
    number.dataset.name = kind === "base" ? t("base") : "DogeRM"; // seen where no head stands above
    cell.setAttribute("role", "group");
    cell.setAttribute("aria-label", kind === "base" ? t("base RM") : "DogeRM");
    line.append(number);
    line.append(element("span", "rank", t(first ? "★ rank {0}" : "rank {0}", rank)));
    cell.append(line, bar(kind, value - mean, scale));
    return cell;
  }

  const mean = (row) => row.reduce((a, b) => a + b, 0) / row.length;
  const rank = (row, i) => 1 + row.filter((r) => r > row[i]).length;

  // One scale for both models and for every λ, so that bars can be compared while dragging.
  function scale(now) {
    const rows = [now.base, now.merged, ...(view.curve ? view.curve.rewards : [])];
    return Math.max(1e-9, ...rows.map((row) => Math.max(...row.map((r) => Math.abs(r - mean(row))))));
  }

  function drawCards(now) {
    const size = scale(now), [ours, theirs] = [mean(now.base), mean(now.merged)];
    const cards = view.frame.texts.map((text, i) => {
      const card = element("article", "card");
      card.dataset.response = letter(i);
      card.setAttribute("aria-label", t("Response {0}", letter(i)));
      const name = element("div", "name");
      name.append(element("span", "letter", letter(i)), own("span", "snippet", text.slice(0, 160)));
      if (view.figures) name.firstChild.style.color = view.figures.raw.data[i].line.color;
      const delta = now.merged[i] - now.base[i];
      const change = element("div", "delta", `${delta < 0 ? "" : "+"}${fixed(delta)}`);
      change.title = "DogeRM minus base RM; all rewards drift together with λ";
      card.append(
        name,
        reward("base", now.base[i], ours, size, rank(now.base, i), best(now.base).includes(i), true),
        reward("merged", now.merged[i], theirs, size, rank(now.merged, i), best(now.merged).includes(i), now.exact),
        change,
      );
      return card;
    });
    byId("cards").replaceChildren(...cards);
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
      const term = element("span", i ? "term merged" : "term base", `${value.toFixed(2)} `);
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

  // Why the frame no longer answers what the widgets say, or nothing when it does.
  function staleness() {
    const { frame } = view;
    if (frame.recorded) return "";
    const value = (block) => block.querySelector("textarea").value;
    const shown = [...document.querySelectorAll(".response")].filter((block) => block.offsetParent);
    const texts = [value(byId("instruction")), ...shown.map(value)];
    if (texts.join("\0") !== [frame.prompt, ...frame.texts].join("\0")) return "The text has changed. Press Score.";
    const shares = readShares(), total = shares.reduce((sum, s) => sum + s.value, 0);
    if (shares.some((s) => Math.abs(s.value / total - (frame.shares[s.name] || 0)) > 1e-6)) return "The weights have changed.";
    const known = ([name]) => name in frame.options; // while a new method's frame is under way, it is not
    if (readOptions().filter(known).some(([name, value]) => value !== "" && Number(value) !== frame.options[name]))
      return "The options have changed. Press Score.";
    return view.stopped ? "Stopped before the curve was whole. Press Score to go on." : "";
  }

  function drawPlot() {
    const plot = document.querySelector("#plot .js-plotly-plot");
    if (!window.Plotly || !plot) {
      setTimeout(drawPlot, 60);
      return;
    }
    const figure = view.figures && view.figures[view.centred ? "centred" : "raw"];
    if (!figure) return;
    if (view.plotted !== figure) {
      view.plotted = figure;
      drawFigure(plot, { ...figure, layout: { ...figure.layout, height: plot.clientHeight, ...mark(figure.layout) } }, "Reward against λ");
    }
    Plotly.relayout(plot, { "shapes[0].x0": view.lam, "shapes[0].x1": view.lam, "shapes[0].visible": true });
  }

  // Text for a chart, where Plotly reads tags.
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // What a recording was made on, for people.
  const where = (made) => t("{0} on {1}, {2}, {3}", made.family, made.device, made.dtype, made.date.slice(0, 10));

  // What a chart bears as long as its numbers come from a file.
  function mark({ annotations = [] }) {
    if (!view.frame.recorded) return {};
    const text = t("recorded with {0}", escaped(where(view.frame.made)));
    const place = { xref: "paper", yref: "paper", x: 0, y: 0, xanchor: "left", yanchor: "bottom", xshift: 6, yshift: 4, showarrow: false };
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
    drawFormula();
    const now = current();
    const stale = view.frame ? staleness() : "";
    results.dataset.state = view.frame?.recorded ? "recorded" : stale ? "stale" : now ? (now.exact ? "exact" : "near") : "waiting";
    // What is heard: the answer, once it is exact, and not each value of a drag.
    byId("said").setAttribute("aria-live", now && !now.exact ? "off" : "polite");
    write(byId("stale"), t(stale));
    const recorded = view.frame?.recorded && where(view.frame.made);
    write(byId("recorded"), !recorded ? "" : view.replay ? t("Recorded with {0}.", recorded) : t("Recorded with {0}; live numbers follow.", recorded));
    if (!now) return;
    write(byId("verdict"), t(now.exact ? "{0}" : "≈ {0}", verdict(now.base, now.merged)));
    write(byId("flips"), stale ? "" : flips());
    drawCards(now);
    drawPlot();
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

  function stop() {
    view.stopped = Boolean(view.frame) && !view.frame.done;
    draw();
  }

  // What a visitor moves or types is answered here at once; the server hears of it on release.
  document.addEventListener("input", ({ target }) => {
    if (target.closest("#lam")) {
      view.lam = Math.min(1, Math.max(0, Number(target.value)));
      draw();
    } else if (target.closest(".share, .option, #instruction, .response")) draw();
  });
  document.addEventListener("click", ({ target }) => {
    if (target.closest("#more, #fewer")) setTimeout(draw, 400); // once the server has shown the box
  });
  // Arrow keys move a slider without letting it go: let it go when the key is up.
  document.addEventListener("keyup", (event) => {
    const keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];
    if (event.target.type === "range" && keys.includes(event.key))
      event.target.dispatchEvent(new Event("pointerup", { bubbles: true }));
  });
  document.addEventListener("change", (event) => {
    if (event.target.name !== "dogerm-view") return;
    view.centred = event.target.value === "centred";
    draw();
  });
  // Other colours, another language.
  function again() {
    view.plotted = null;
    if (view.frame) draw();
  }
  new MutationObserver(again).observe(document.documentElement, { attributes: true, attributeFilter: ["class"], subtree: false });
  document.addEventListener("dogerm:language", again);

  return { show, draw, stop, set, put, view, escaped, where, plot: drawFigure, shares: () => Object.fromEntries(readShares().map((s) => [s.name, s.value])) };
})());
