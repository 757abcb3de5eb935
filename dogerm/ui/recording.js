// Recordings: every whole curve of this session is kept for a file, and a file is replayed
// without the model: λ moves along its curves, and the live playground is left as it was.
(() => {
  const { view, t } = window.dogerm;
  const byId = (id) => document.getElementById(id);
  const MOST = 200; // as in dogerm/recording.py
  // What a replay has no use for.
  const LIVE = ["method", "reset", "options", "weights", "examples", "instruction", "more", "fewer", "stop", "panels", "model", "api", "status", "strip-block"];
  const takes = new Map(); // by all that a curve depends on
  const make = (tag, text, own) => Object.assign(document.createElement(tag), { textContent: text, ...(own ? { translate: false } : {}) });

  const dated = ({ date, models, ...made }) => made;
  const key = (frame) => JSON.stringify([frame.prompt, frame.texts, frame.shares, frame.method, frame.options, dated(frame.made)]);

  function keep(frame) {
    const name = key(frame), known = takes.get(name);
    if (frame.done && view.curve) {
      takes.delete(name); // the newest is the last
      takes.set(name, {
        prompt: frame.prompt,
        responses: frame.texts,
        recipe: { lam: frame.lam, shares: frame.shares, method: frame.method, options: frame.options },
        curve: view.curve,
        measured: known ? known.measured : [],
        made: known ? known.made : frame.made,
      });
      if (takes.size > MOST) takes.delete(takes.keys().next().value);
    }
    const take = takes.get(name);
    if (!take) return;
    take.recipe.lam = frame.lam;
    const has = [...take.curve.lams, ...take.measured.map((one) => one.lam)].some((lam) => Math.abs(lam - frame.lam) < 1e-9);
    if (!has) take.measured.push({ lam: frame.lam, rewards: frame.merged });
  }

  // Models' hashes are asked for when a file is made; they belong to what is live then.
  function stamped(all, made) {
    const now = JSON.stringify(dated(made));
    return all.map((take) => (JSON.stringify(dated(take.made)) === now ? { ...take, made: { ...take.made, models: made.models } } : take));
  }

  const file = (all) => `${JSON.stringify({ dogerm: "recording", format: 1, takes: all }, null, 1)}\n`;

  function choose(index) {
    const frame = view.replay.frames[index];
    view.replay.index = index;
    view.lam = frame.lam;
    window.dogerm.put(document.querySelector('#lam input[type="range"]'), frame.lam);
    window.dogerm.show(frame);
    const texts = frame.texts.flatMap((text, i) => [make("dt", t("Response {0}", String.fromCharCode(65 + i))), make("dd", text, true)]);
    const list = document.createElement("dl");
    list.append(make("dt", "Instruction"), make("dd", frame.prompt, true), ...texts);
    byId("replay-texts").replaceChildren(list);
    banner();
  }

  function banner() {
    const { frames, index } = view.replay;
    const line = make("p", t("Recorded with {0}.", window.dogerm.where(frames[index].made))), back = make("button", "Back to live");
    const select = document.createElement("select");
    select.setAttribute("aria-label", "Recorded curve");
    frames.forEach((frame, i) => {
      const mix = Object.entries(frame.shares).map(([name, share]) => `${name} ${share.toFixed(2)}`).join(", ");
      const title = frame.prompt.replace(/\s+/g, " ").slice(0, 60);
      select.append(Object.assign(make("option", `${i + 1}/${frames.length} · ${title} · ${frame.method} · ${mix}`, true), { value: i, selected: i === index }));
    });
    select.addEventListener("change", () => choose(Number(select.value)));
    back.addEventListener("click", () => byId("score").click());
    line.className = "said";
    byId("replay").replaceChildren(line, ...(frames.length > 1 ? [select] : []), back);
  }

  const hide = (away) => {
    const boxes = [...LIVE.map(byId), ...document.querySelectorAll(".response")];
    for (const box of boxes) if (box) away ? box.style.setProperty("display", "none", "important") : box.style.removeProperty("display");
    byId("dogerm-results").closest("#results").classList.toggle("replaying", away);
  };

  function open(frames) {
    if (!frames || !frames.length) return;
    const { frame, curve, figures } = view;
    view.replay = { frames, index: 0, live: view.replay ? view.replay.live : { frame, curve, figures } };
    hide(true);
    choose(0);
    byId("replay").scrollIntoView({ block: "nearest" });
  }

  function leave() {
    if (!view.replay) return;
    Object.assign(view, view.replay.live, { replay: null, plotted: null });
    byId("replay").replaceChildren();
    byId("replay-texts").replaceChildren();
    hide(false);
    window.dogerm.draw();
  }

  document.addEventListener("dogerm:frame", ({ detail }) => {
    keep(detail);
    document.dispatchEvent(new CustomEvent("dogerm:recorded"));
  });
  document.addEventListener("dogerm:language", () => view.replay && choose(view.replay.index));
  // Letting go of λ is no business of the server's while a file is replayed.
  for (const event of ["pointerup", "keyup", "blur", "focusout"])
    window.addEventListener(event, (caught) => {
      if (view.replay && caught.target.closest && caught.target.closest("#lam")) caught.stopImmediatePropagation();
    }, true);
  // Score returns to the live model, before Gradio hears the click.
  window.addEventListener("click", ({ target }) => {
    if (target.closest && target.closest("#score")) leave();
  }, true);

  window.dogerm.recording = {
    open,
    all: (made) => file(stamped([...takes.values()], made)),
    // The curve that is shown, if it is whole.
    take: (made) => {
      const { frame } = view;
      const take = frame && frame.done && takes.get(key(frame));
      return take ? (made ? stamped([take], made)[0] : take) : null;
    },
    file,
    count: () => takes.size,
  };
})();
