// The story: six steps over the live page, told at the bottom of the screen in large type.
// Each step sets the playground, puts a light on what to look at, and says what is there.
(() => {
  const byId = (id) => document.getElementById(id);
  const { t, make, letter } = window.dogerm;
  const fixed = (value) => Math.abs(value).toFixed(2);
  let plan = null, at = -1, before = null, panel = null, light = null, opener = null;

  // What the cards say now: rewards of both models, and whether they are exact.
  function now() {
    const row = (kind) => [...document.querySelectorAll(`#cards .reward.${kind}`)].map((cell) => Number(cell.dataset.value));
    return { base: row("base"), merged: row("merged"), near: byId("dogerm-results").dataset.state !== "exact" };
  }
  const top = (row) => row.indexOf(Math.max(...row));
  const lead = (row) => Math.max(...row) - [...row].sort((a, b) => b - a)[1];
  const about = (text, near) => (near ? `≈ ${text}` : text);

  const steps = [
    {
      title: "A reward model gives every answer a number",
      set: () => ({ ...plan.chat, lam: 0 }),
      look: "#results .columns, #cards",
      say: ({ base }) => [
        t("Answer {0} gets {1} points more than answer {2}: the model prefers it.", letter(top(base)), fixed(lead(base)), letter(1 - top(base))),
        "Only the difference says something: a single reward has no zero and no unit.",
      ],
    },
    {
      title: "It errs where it has learned little",
      set: () => ({ ...plan.pair, lam: 0 }),
      look: "#results .columns, #cards",
      say: ({ base }) => [
        top(base) === plan.pair.right
          ? t("Answer {0} is right, and here the reward model sees it, by {1}.", letter(plan.pair.right), fixed(lead(base)))
          : t("Answer {0} is right, but the reward model puts {1} first, by {2}.", letter(plan.pair.right), letter(1 - plan.pair.right), fixed(lead(base))),
        t("Of {0} held-out pairs of this kind it gets {1} right; a coin would get half.", plan.counts.pairs, plan.counts.base),
      ],
    },
    {
      title: "A language model of the domain knows more",
      set: () => ({ ...plan.pair, lam: 1 }),
      look: "#results .columns, #cards",
      say: ({ merged }) => [
        "It was fine-tuned from the same base for the domain, without one preference pair.",
        top(merged) === plan.pair.right
          ? t("With all its weights (λ = 1) under the reward model's head, the right answer {0} leads by {1}.", letter(plan.pair.right), fixed(lead(merged)))
          : t("With all its weights (λ = 1) under the reward model's head, answer {0} leads by {1}.", letter(top(merged)), fixed(lead(merged))),
      ],
    },
    {
      title: "Merge the two: drag λ",
      set: () => ({ ...plan.pair, lam: 0 }),
      look: "#lambda-row",
      say: ({ merged, near }, lam) => [
        "λ is how far the weights move from the reward model towards the language model; the score head stays.",
        t("λ = {0}: DogeRM prefers {1}, by {2}.", lam.toFixed(2), letter(top(merged)), about(fixed(lead(merged)), near)),
      ],
    },
    {
      title: "The ranking flips",
      set: () => ({ ...plan.pair, lam: plan.lam }),
      look: "#verdict, #dogerm-results .under, .view, #plot",
      say: ({ merged }, lam, { curve, frame }) => {
        if (!curve || !frame.done) return ["Looking for flips…"];
        const last = t("At λ = {0} it leads with {1}, by {2}.", lam.toFixed(2), letter(top(merged)), fixed(lead(merged)));
        if (!curve.flips.length) return ["The top response is the same at every λ.", last];
        const where = curve.flips.map((flip) => `${flip.lam.toFixed(2)} (${letter(flip.before)} → ${letter(flip.after)})`).join(", ");
        return [t("One merge for every point of the curve: the order changes at λ ≈ {0}.", where), last];
      },
    },
    {
      title: "What it gives, and what it costs",
      set: () => ({ ...plan.pair, lam: plan.lam }),
      look: null,
      say: () => [
        t("Of the {0} pairs of step 2, {1} were right before and {2} are right at λ = {3}.", plan.counts.pairs, plan.counts.base, plan.counts.merged, plan.lam),
        t("No further preference data, no training: one merge, {0} ms on this machine.", plan.milliseconds < 10 ? plan.milliseconds.toFixed(1) : Math.round(plan.milliseconds)),
      ],
      more: table,
    },
  ];

  function table() {
    const { columns, rows, source, seeds } = plan.table, sheet = make("table"), head = make("tr");
    head.append(make("th"), ...columns.map((name) => Object.assign(make("th", "", name), { translate: false })));
    sheet.append(head);
    rows.forEach(({ name, values }, i) => {
      const line = make("tr", i ? "merged" : "base");
      line.append(Object.assign(make("td", "", name), { translate: false }), ...values.map((value, k) => {
        const cell = make("td", "", value.toFixed(1)), gain = value - rows[0].values[k];
        if (i) cell.append(make("small", "", ` ${gain < 0 ? "−" : "+"}${Math.abs(gain).toFixed(1)}`));
        return cell;
      }));
      sheet.append(line);
    });
    const words = source === "seeds" ? t("Accuracy in % on held-out pairs, mean of {0} seeds; stored measurements.", seeds) : "Accuracy in % on RewardBench, as published; not measured here.";
    return [sheet, make("p", "source", words)];
  }

  function build() {
    panel = make("section", "");
    Object.assign(panel, { id: "story", tabIndex: -1 });
    panel.setAttribute("role", "dialog");
    panel.setAttribute("aria-label", "Story");
    const bar = make("div", "bar"), steps = make("ol", "dots");
    steps.setAttribute("aria-hidden", "true");
    const button = (id, text, action) => {
      const one = make("button", "", text);
      Object.assign(one, { id, type: "button" });
      one.addEventListener("click", action);
      return one;
    };
    bar.append(steps, make("span", "count"), button("story-back", "← Back", () => go(at - 1)), button("story-next", "Next →", () => go(at + 1)), button("story-end", "End (Esc)", end));
    const words = make("div", "words");
    words.setAttribute("aria-live", "polite");
    const asked = Object.assign(make("p", "asked"), { translate: false }); // the instruction of this step
    panel.append(make("h2", ""), asked, words, make("div", "more"), bar);
    light = make("div", "");
    light.id = "story-light";
    document.querySelector(".gradio-container").append(light, panel);
  }

  // A light on what is looked at: one box around all of it.
  function shine() {
    if (!panel || at < 0) return; // not built, or still measuring
    const { look } = steps[at];
    const boxes = look ? [...document.querySelectorAll(look)].map((node) => node.getBoundingClientRect()).filter(({ width }) => width) : [];
    light.hidden = !boxes.length;
    if (!boxes.length) return;
    const edge = 8, left = Math.min(...boxes.map((b) => b.left)) - edge, over = Math.min(...boxes.map((b) => b.top)) - edge;
    Object.assign(light.style, {
      left: `${left}px`, top: `${over}px`,
      width: `${Math.max(...boxes.map((b) => b.right)) + edge - left}px`,
      height: `${Math.max(...boxes.map((b) => b.bottom)) + edge - over}px`,
    });
  }

  // What is looked at, between the top of the screen and the panel: with all that is above
  // it on the page where that has room.
  function bring() {
    const { look } = steps[at], nodes = look ? [...document.querySelectorAll(look)].filter((node) => node.offsetParent) : [];
    if (!nodes.length) return;
    const boxes = nodes.map((node) => node.getBoundingClientRect());
    const over = scrollY + Math.min(...boxes.map((box) => box.top)), under = scrollY + Math.max(...boxes.map((box) => box.bottom));
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const sticky = innerWidth <= 860 && look !== "#lambda-row" ? byId("lambda-row").offsetHeight : 0;
    const fits = under + 12 <= innerHeight - panel.offsetHeight;
    scrollTo({ top: fits ? 0 : over - 24 - sticky, behavior: still ? "instant" : "smooth" });
  }

  function arrived() {
    const { frame } = window.dogerm.view, wanted = steps[at].set();
    return frame && frame.prompt === wanted.prompt && JSON.stringify(frame.texts) === JSON.stringify(wanted.responses)
      && (steps[at].look === "#lambda-row" || frame.lam === wanted.lam);
  }

  function tell() {
    if (at < 0) return;
    const step = steps[at], { view } = window.dogerm;
    panel.querySelector("h2").textContent = t(step.title);
    const lines = arrived() && document.querySelector("#cards .reward") ? step.say(now(), view.lam, view) : ["Merging…"];
    panel.querySelector(".words").replaceChildren(...lines.map((line) => make("p", "", t(line))));
    panel.querySelector(".asked").textContent = step.more ? "" : `“${step.set().prompt}”`;
    panel.querySelector(".more").replaceChildren(...(step.more ? step.more() : []));
    panel.querySelector(".count").textContent = `${at + 1} / ${steps.length}`;
    panel.querySelector(".dots").replaceChildren(...steps.map((_, i) => make("li", i === at ? "here" : "")));
    byId("story-back").disabled = at === 0;
    byId("story-next").disabled = at === steps.length - 1;
    document.documentElement.style.setProperty("--story", `${panel.offsetHeight}px`);
    shine();
  }

  function go(step) {
    if (step < 0 || step >= steps.length || !plan) return;
    at = step;
    const { prompt, responses, lam } = steps[at].set();
    window.dogerm.restore({ prompt, responses, lam, shares: plan.shares, method: "linear", options: {} });
    tell();
    bring();
  }

  // The page as it stands: the boxes' own text, which may not have been scored yet.
  function standing() {
    const text = (block) => block.querySelector("textarea").value;
    const shown = [...document.querySelectorAll(".response")].filter((block) => block.offsetParent);
    const { frame, lam } = window.dogerm.view, sliders = window.dogerm.shares();
    const shares = Object.values(sliders).some(Boolean) ? sliders : frame.shares;
    return { lam, shares, method: frame.method, options: frame.options, prompt: text(byId("instruction")), responses: shown.map(text), scroll: scrollY };
  }

  function begin(from) {
    if (panel || !window.dogerm.view.frame) return;
    opener = from;
    before = standing();
    build();
    document.documentElement.classList.add("story-open");
    panel.querySelector("h2").textContent = "Measuring what the story tells…";
    panel.focus({ preventScroll: true });
    byId("story-begin").click();
  }

  function end() {
    if (!panel) return;
    const { scroll, ...setting } = before;
    panel.remove();
    light.remove();
    panel = light = plan = null;
    at = -1;
    document.documentElement.classList.remove("story-open");
    window.dogerm.restore(setting);
    scrollTo({ top: scroll, behavior: "instant" });
    opener?.focus({ preventScroll: true });
    document.dispatchEvent(new CustomEvent("dogerm:story-end"));
  }

  window.dogerm.story = (found) => {
    if (!found || !panel || plan) return;
    plan = found;
    go(0);
  };

  // Before all other shortcuts: a presenter's remote sends PageUp and PageDown.
  addEventListener("keydown", (event) => {
    if (!panel || event.ctrlKey || event.metaKey || event.altKey) return;
    const { target, key } = event;
    const own = target.matches?.("input, textarea, select") && !["PageUp", "PageDown", "Escape"].includes(key);
    const step = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 }[key];
    if (own || (step === undefined && key !== "Escape")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (key === "Escape") end();
    else go(at + step);
  }, true);
  document.addEventListener("dogerm:frame", tell);
  document.addEventListener("input", ({ target }) => { if (panel && target.closest("#lam")) requestAnimationFrame(tell); });
  document.addEventListener("dogerm:language", tell);
  document.addEventListener("click", ({ target }) => {
    const from = target.closest && target.closest(".story-open-button");
    if (from) begin(from);
  });
  for (const event of ["scroll", "resize"]) addEventListener(event, () => panel && requestAnimationFrame(() => panel && shine()), true);
})();
