// Presets, pins and history: settings to go to, to compare with, and to come back to.
// All of it lives in this browser tab; the server scores a pin on the texts of the moment.
(() => {
  const MOST_TRIED = 40;
  const { t, overlays, make, own, write, letter, fixed, best, percent, preference } = window.dogerm;
  const byId = (id) => document.getElementById(id);
  const textsOf = (frame) => JSON.stringify([frame.prompt, frame.texts]);
  const same = (a, b) => Math.abs(a.lam - b.lam) < 1e-9 && window.dogerm.sameWay(a, b);
  let pins = [], tried = [], active = null; // active: the pin that cards and chart show
  let asked = "", ready = false;

  const strip = () => byId("strip");
  const most = () => Number(strip().dataset.most);
  const key = () => `dogerm ${strip().dataset.model}`;

  function keep() {
    try {
      sessionStorage.setItem(key(), JSON.stringify({ pins, tried, active }));
    } catch {
      // No room or no leave to store: they last as long as the page.
    }
  }

  function recall() {
    if (ready || !strip()) return;
    ready = true;
    try {
      const kept = JSON.parse(sessionStorage.getItem(key()) || "{}");
      if (!pins.length) [pins, active] = [kept.pins || [], kept.active ?? null];
      tried = kept.tried || [];
    } catch {
      // What is there is not ours.
    }
  }

  const second = (row, first) => Math.max(...row.filter((_, i) => i !== first));
  const lead = (row) => row[best(row)[0]] - second(row, best(row)[0]);

  function mixed({ shares, method }) {
    const total = Object.values(shares).reduce((sum, s) => sum + s, 0);
    const parts = Object.entries(shares).filter(([, s]) => s);
    const mix = parts.length === 1 ? parts[0][0] : parts.map(([name, s]) => `${(s / total).toFixed(2)} ${name}`).join(" + ");
    return method === "linear" ? mix : `${mix}, ${method}`;
  }
  const titled = (pin) => `λ ${pin.lam.toFixed(2)} · ${pin.lam ? mixed(pin) : t("base RM")}`;
  const rewardsOf = (pin, frame) => (pin.texts === textsOf(frame) ? pin.rewards : null);
  const compared = () => (active === null ? null : pins[active] || null);

  // Buttons keep their focus: a list is only made anew when what it says has changed.
  function fill(place, parts, says) {
    if (!place || (place.dataset.says === says && place.firstChild)) return;
    place.dataset.says = says;
    place.replaceChildren(...parts());
  }

  function button(className, text, title, act) {
    const made = make("button", className, text);
    made.type = "button";
    if (title) made.title = title;
    made.addEventListener("click", act);
    return made;
  }

  function press(chip, on) {
    if (chip.getAttribute("aria-pressed") !== String(on)) chip.setAttribute("aria-pressed", on);
  }

  function presets() {
    const found = JSON.parse(strip().dataset.presets);
    const place = byId("presets"), { lam, frame } = window.dogerm.view;
    const now = { ...window.dogerm.setting(), lam };
    fill(place, () => [
      make("span", "label", t("Presets")),
      ...found.map((preset) => {
        const alone = preset.name.match(/^(.+) alone$/);
        const name = alone ? t("{0} alone", alone[1]) : t(preset.name);
        return button("chip preset", name, `λ ${preset.lam.toFixed(2)}, ${mixed({ ...preset, method: "linear" })}`, () =>
          window.dogerm.restore(preset.lam ? { lam: preset.lam, shares: preset.shares } : { lam: 0 }));
      }),
    ], JSON.stringify([found, window.dogerm.language()]));
    [...place.querySelectorAll(".preset")].forEach((chip, i) => {
      const at = { ...found[i], method: frame.method, options: frame.options };
      press(chip, found[i].lam ? same(at, now) : now.lam === 0);
    });
  }

  function pinned(state) {
    const place = byId("pins");
    fill(place, () => [
      ...pins.map((pin, i) => {
        const chip = own("span", "pin chip");
        chip.append(
          button("compare", `${i + 1} · ${titled(pin)}`, t("Show this pin beside the present setting"), () => compare(active === i ? null : i)),
          button("drop", "×", "", () => drop(i)),
        );
        chip.lastChild.setAttribute("aria-label", t("Unpin {0}", i + 1));
        return chip;
      }),
      button("chip", t("Pin"), t("Keep this setting, to compare others with it"), pin),
    ], JSON.stringify([pins.map(titled), window.dogerm.language()]));
    place.querySelectorAll(".compare").forEach((chip, i) => press(chip, i === active));
    const add = place.lastChild;
    add.id = "pin";
    add.disabled = state !== "exact" || pins.length >= most() || pins.some((p) => same(p, window.dogerm.setting()));
  }

  function pin() {
    const { frame } = window.dogerm.view;
    pins.push({ ...window.dogerm.setting(), texts: textsOf(frame), rewards: frame.merged });
    compare(pins.length - 1);
  }

  function drop(i) {
    pins.splice(i, 1);
    compare(active === i || active === null ? null : active - (active > i ? 1 : 0));
  }

  function compare(i) {
    active = i;
    changed();
  }

  function changed() {
    keep();
    window.dogerm.redraw();
    tables();
    document.dispatchEvent(new Event("dogerm:pins"));
  }

  // Its bars are on the cards' one scale.
  window.dogerm.view.beside = () => {
    const chosen = compared(), row = chosen && rewardsOf(chosen, window.dogerm.view.frame);
    return row ? [row] : [];
  };

  // The pin's own column in every card, and what it prefers.
  function cards({ exact, merged, stale }) {
    const { frame } = window.dogerm.view, chosen = compared(), results = byId("dogerm-results");
    const row = chosen && rewardsOf(chosen, frame);
    results.classList.toggle("with-pin", Boolean(chosen));
    const head = results.querySelector(".columns");
    if (!head.querySelector(".pinned")) head.querySelector(".merged").before(make("span", "pinned"));
    head.querySelector(".pinned").hidden = !chosen;
    write(head.querySelector(".pinned"), chosen ? t("pin {0}", active + 1) : "");
    const size = window.dogerm.scale({ base: frame.base, merged });
    window.dogerm.cards().forEach((parts, i) => {
      if (!chosen) {
        parts.pinned?.cell.remove();
        parts.pinned = null;
        return;
      }
      if (!parts.pinned) {
        parts.pinned = window.dogerm.rewardCell("pinned");
        parts.base.cell.after(parts.pinned.cell);
      }
      parts.pinned.cell.classList.toggle("awaited", !row);
      if (row) parts.pinned.show(row, i, size, true);
      else parts.pinned.cell.querySelector(".number").textContent = "…";
    });
    const said = byId("pin-verdict");
    said.hidden = !chosen;
    if (!chosen) return;
    const names = (rewards) => best(rewards).map(letter).join(" = ");
    write(said, row
      ? t("Pin {0} ({1}) prefers {2} by {3}; here DogeRM prefers {4} by {5}.", active + 1, titled(chosen),
        names(row), fixed(lead(row)), names(merged), `${exact && !stale ? "" : "≈ "}${fixed(lead(merged))}`)
      : t("Pin {0} ({1}) is being scored on this text…", active + 1, titled(chosen)));
  }

  // On the chart: a dashed cursor at the pin's λ, and its own rewards as hollow marks. Of another
  // mix or method they lie beside the lines.
  overlays.push((kind) => {
    const { frame, figures } = window.dogerm.view, chosen = compared();
    if (!chosen) return { data: [], shapes: [] };
    const style = getComputedStyle(byId("results"));
    const shapes = [{
      type: "line", yref: "paper", x0: chosen.lam, x1: chosen.lam, y0: 0, y1: 1,
      line: { color: style.color, width: 1.6, dash: "dash" },
    }];
    const row = rewardsOf(chosen, frame);
    if (!row) return { data: [], shapes };
    const middle = kind === "centred" ? row.reduce((a, b) => a + b, 0) / row.length : 0;
    let marks = row.map((reward, i) => {
      const { line, marker } = figures.raw.data[i];
      return { name: letter(i), y: reward - middle, says: `<b>${letter(i)}</b> ${reward.toFixed(4)}`, color: line.color, symbol: `${marker.symbol}-open` };
    });
    if (kind === "margin") {
      const { ours, over } = led(frame, row);
      const margin = row[ours] - row[over], leader = margin > 0 ? ours : over;
      marks = [{ ...marks[leader], y: margin, says: `<b>${letter(ours)} − ${letter(over)}</b> ${margin.toFixed(4)}` }];
    }
    const data = marks.map(({ name, y, says, color, symbol }) => ({
      type: "scatter", mode: "markers", name: `pin ${name}`, x: [chosen.lam], y: [y],
      marker: { symbol, size: 13, color, line: { width: 2.4, color } },
      hovertemplate: `pin ${active + 1}: ${says}<extra></extra>`,
    }));
    return { data, shapes };
  });

  // Whose margin the chart draws (charts.margin_curve), and over which other here.
  function led(frame, row) {
    const ours = row.length === 2 ? 0 : best(window.dogerm.view.curve.rewards[0])[0];
    const over = row.reduce((found, r, i) => (i !== ours && (found < 0 || r > row[found]) ? i : found), -1);
    return { ours, over };
  }

  function remember(frame) {
    const setting = window.dogerm.setting();
    const winners = best(frame.merged);
    const entry = { ...setting, prompt: frame.prompt, responses: frame.texts, winners: winners.map(letter), margin: lead(frame.merged) };
    const known = (old) => old.prompt === entry.prompt && JSON.stringify(old.responses) === JSON.stringify(entry.responses) && same(old, entry);
    tried = [entry, ...tried.filter((old) => !known(old))].slice(0, MOST_TRIED);
  }

  const cell = (text, className) => make("td", className, text);
  function table(heads, rows) {
    const made = make("table"), head = make("thead"), line = make("tr"), body = make("tbody");
    for (const [text, className] of heads) {
      const th = make("th", className, text);
      th.scope = "col";
      line.append(th);
    }
    head.append(line);
    body.append(...rows);
    made.append(head, body);
    return made;
  }

  function settingRow(name, setting, row, className, act) {
    const line = make("tr", className), head = make("th", "", name);
    head.scope = "row";
    const mix = own("td", "", setting.lam ? mixed(setting) : "–");
    line.append(head, cell(setting.lam.toFixed(2), "figure"), mix);
    if (row) {
      const [first] = best(row), others = row.flatMap((_, i) => (i === first ? [] : [i]));
      const next = others.reduce((a, i) => (row[i] > row[a] ? i : a));
      line.append(
        cell(best(row).map(letter).join(" = "), "letter"),
        cell(fixed(row[first] - row[next]), "figure"),
        cell(t("{0} over {1}", percent(preference(row, first, next)), letter(next)), "figure"),
        ...row.map((reward, i) => {
          const place = 1 + row.filter((r) => r > reward).length;
          const made = cell(fixed(reward), place === 1 ? "figure first" : "figure");
          made.append(make("span", "place", place === 1 ? " ★" : ` ${place}`));
          return made;
        }),
      );
    }
    const last = make("td", "act");
    if (act) last.append(...act);
    line.append(last);
    return line;
  }

  function tables() {
    const { frame } = window.dogerm.view, place = byId("compare-table");
    if (!frame || !place) return;
    const heads = [
      [t("setting")], ["λ", "figure"], [t("mix")], [t("prefers")], [t("margin"), "figure"], [t("preferred with"), "figure"],
      ...frame.texts.map((_, i) => [letter(i), "figure"]), [""],
    ];
    const back = (setting) => button("link", t("Return"), "", () => window.dogerm.restore(setting));
    const plain = ({ lam, shares, method, options }) => ({ lam, shares, method, options });
    place.replaceChildren(table(heads, [
      settingRow(t("base RM"), { ...window.dogerm.setting(), lam: 0 }, frame.base, "base"),
      ...pins.map((pin, i) => settingRow(t("pin {0}", i + 1), pin, rewardsOf(pin, frame), i === active ? "pinned active" : "pinned", [
        back(plain(pin)), button("link", t("Unpin"), "", () => drop(i)),
      ])),
      settingRow(t("now"), frame, frame.merged, "merged"),
    ]));
    const lines = tried.map((entry) => {
      const line = make("tr"), text = own("td", "text", entry.prompt.slice(0, 90));
      const mix = own("td", "", entry.lam ? mixed(entry) : "–");
      const last = make("td", "act");
      const { prompt, responses } = entry;
      last.append(back({ ...plain(entry), prompt, responses }));
      line.append(cell(entry.lam.toFixed(2), "figure"), mix, cell(entry.winners.join(" = "), "letter"), cell(fixed(entry.margin), "figure"), text, last);
      return line;
    });
    byId("history").replaceChildren(table(
      [["λ", "figure"], [t("mix")], [t("prefers")], [t("margin"), "figure"], [t("text")], [""]], lines));
  }

  // What the server is asked: every pin, once per text.
  window.dogerm.pinsToScore = () => pins.map(({ lam, shares, method, options }) => ({ lam, shares, method, options }));
  window.dogerm.pinsScored = (found) => {
    if (!found) return;
    found.pins.forEach((setting, n) => {
      for (const pin of pins) if (same(pin, setting)) Object.assign(pin, { texts: textsOf(found), rewards: found.rewards[n] });
    });
    changed();
  };
  window.dogerm.pins = () => window.dogerm.pinsToScore();
  window.dogerm.takePins = (given) => {
    if (!given || !given.length) return;
    pins = given.slice(0, most());
    active = 0;
    ask();
    if (window.dogerm.view.frame) changed();
  };

  function ask() {
    const { frame } = window.dogerm.view;
    if (!frame || !frame.done || frame.recorded || pins.every((pin) => rewardsOf(pin, frame))) return;
    const wanted = JSON.stringify([textsOf(frame), window.dogerm.pinsToScore()]);
    if (wanted === asked) return;
    asked = wanted;
    byId("pins-score").click();
  }

  document.addEventListener("dogerm:drawn", ({ detail }) => {
    recall();
    if (!strip() || !window.dogerm.view.frame) return;
    presets();
    pinned(byId("dogerm-results").dataset.state);
    cards(detail);
  });
  document.addEventListener("dogerm:language", tables);
  // Gradio makes a tab's inside when it is first opened.
  document.addEventListener("click", ({ target }) => {
    if (!target.closest?.('[role="tab"]')) return;
    let tries = 20;
    const fill = () => (byId("compare-table") ? tables() : tries-- && setTimeout(fill, 50));
    setTimeout(fill, 50);
  });
  document.addEventListener("dogerm:frame", ({ detail }) => {
    recall();
    if (!detail.recorded) remember(detail); // what comes from a file was not tried here
    keep();
    tables();
    ask();
  });
})();
