// The Tokens panel: texts coloured by what DogeRM makes of each token against the base RM.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const { t, make, letter } = window.dogerm;
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
  const steps = (row) => row.map((value, i) => (i ? value - row[i - 1] : 0));
  const rise = (row) => row.map((value) => value - row[0]);

  // What each token adds to DogeRM's reward beyond what it adds to the base RM's.
  const extra = (reading) => {
    const [base, merged] = [steps(reading.base), steps(reading.merged)];
    return merged.map((value, i) => value - base[i]);
  };

  function text(reading, strongest, mark) {
    const line = Object.assign(make("p", "text"), { translate: false });
    const added = extra(reading);
    reading.pieces.forEach((piece, i) => {
      const token = make("span", added[i] < 0 ? "token less" : "token more", piece);
      // The square root shows the many small changes beside the few large ones.
      token.style.setProperty("--part", Math.sqrt(Math.abs(added[i]) / strongest).toFixed(3));
      token.title = t("base RM {0} ({1}), DogeRM {2} ({3})", reading.base[i].toFixed(4), signed(steps(reading.base)[i]),
        reading.merged[i].toFixed(4), signed(steps(reading.merged)[i]));
      if (i === mark) token.classList.add("mark");
      line.append(token);
    });
    return line;
  }

  function lines(reading, low, high, mark) {
    const width = 300, height = 44, count = reading.pieces.length;
    const x = (i) => (count > 1 ? (i / (count - 1)) * width : width);
    const y = (value) => height - ((value - low) / (high - low || 1)) * height;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 -2 ${width} ${height + 4}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const add = (tag, settings) => {
      const node = document.createElementNS(SVG, tag);
      for (const [name, value] of Object.entries(settings)) node.setAttribute(name, value);
      svg.append(node);
    };
    add("line", { class: "zero", x1: 0, x2: width, y1: y(0), y2: y(0) });
    if (mark !== null && mark < count) add("line", { class: "mark", x1: x(mark), x2: x(mark), y1: -2, y2: height + 2 });
    for (const kind of ["base", "merged"])
      add("polyline", { class: kind, points: rise(reading[kind]).map((value, i) => `${x(i)},${y(value)}`).join(" ") });
    return svg;
  }

  function draw(found) {
    const place = document.getElementById("readings");
    if (!found || !place) return;
    const all = found.responses;
    const strongest = Math.max(1e-9, ...all.flatMap(extra).map(Math.abs));
    const values = all.flatMap((reading) => [...rise(reading.base), ...rise(reading.merged)]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    place.replaceChildren(...all.map((reading, i) => {
      const row = make("article", "reading");
      row.append(make("span", "letter", letter(i)), text(reading, strongest, found.parting), lines(reading, low, high, found.parting));
      return row;
    }));
    const said = document.getElementById("parting");
    if (found.recipe.lam === 0) said.textContent = "At λ = 0 both are the same model.";
    else if (found.parting === null) said.textContent = "In the end both models put the same response first.";
    else {
      const [ours, theirs] = found.leaders.map(letter);
      said.textContent = t("From token {0} on (▲) they part: the base RM leads with {1}, DogeRM with {2}.", found.parting + 1, ours, theirs);
    }
  }

  let frame = null, read = null, drawn = null;
  const key = (texts, prompt, lam, shares, method) => JSON.stringify([texts, prompt, lam, shares, method]);
  window.dogerm.tokens = (found) => {
    read = frame && key(frame.texts, frame.prompt, frame.lam, frame.shares, frame.method);
    draw((drawn = found));
  };
  document.addEventListener("dogerm:language", () => draw(drawn));
  document.addEventListener("dogerm:frame", ({ detail }) => {
    frame = detail;
    const panel = document.getElementById("tokens");
    const now = key(frame.texts, frame.prompt, frame.lam, frame.shares, frame.method);
    if (panel && panel.offsetParent && now !== read) {
      read = now;
      document.getElementById("tokens-again").click();
    }
  });
})();
