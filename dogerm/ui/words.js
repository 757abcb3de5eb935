// The page's words. English sentences are the keys, as in gettext; the dictionary gives
// each its form in the other language, {0}, {1} … standing for values and for elements.
// Text under translate="no" (visitors' text, code, names) is never touched.
window.dogerm = (() => {
  const OTHER = "zh-Hant", STORE = "dogerm-language", MOST = 4000;
  const ATTRIBUTES = ["aria-label", "title", "placeholder", "alt", "aria-description"];
  const CLOSED = 'script, style, textarea, code, pre, svg, [translate="no"], .notranslate, .js-plotly-plot';
  const SAID = ["text", "name", "hovertemplate", "texttemplate", "ticktext", "customdata"]; // of a figure
  const LATIN = /[A-Za-z]{2}/;
  const words = new Map(), patterns = [];
  const back = new Map(); // for Gradio's own words: a Chinese browser makes it speak Chinese itself
  const composed = new Map(); // what `t` made, in the other language → in English
  const known = new Map(); // English → in the other language, or null
  const texts = new WeakMap(), attributes = new WeakMap(), sentences = new WeakMap();
  let language = "en";

  const fill = (template, values) => template.replace(/\{(\d+)\}/g, (_, i) => values[i]);
  const remember = (map, key, value) => {
    if (map.size >= MOST) map.delete(map.keys().next().value);
    map.set(key, value);
    return value;
  };

  function read() {
    const entries = Object.entries(JSON.parse(document.getElementById("dogerm-words").textContent));
    for (const [english, other] of entries) {
      words.set(english, other);
      if (!/\{\d+\}/.test(english)) {
        if (!back.has(other)) back.set(other, english);
        continue;
      }
      const parts = english.split(/\{(\d+)\}/); // text, number, text, number … text
      const source = parts.map((part, i) => (i % 2 ? "(.+?)" : part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")));
      const numbers = parts.filter((_, i) => i % 2).map(Number);
      const length = parts.reduce((sum, part, i) => sum + (i % 2 ? 0 : part.length), 0);
      // What begins with a value and says little beside it would match too much.
      const alone = Boolean(parts[0].trim()) || length >= 12;
      patterns.push({ english: new RegExp(`^${source.join("")}$`, "s"), other, numbers, length, alone });
    }
    patterns.sort((a, b) => b.length - a.length); // the one that says most
  }

  // A whole text in the other language, or null when the dictionary lacks it. `ours`: it is
  // part of a sentence or figure of the program's, where "A and B" can be read so.
  function found(english, ours = false) {
    const asked = `${ours}${english}`;
    if (known.has(asked)) return known.get(asked);
    const lower = english.charAt(0).toLowerCase() + english.slice(1); // an error begins a sentence
    let other = words.get(english) ?? words.get(lower) ?? bySentence(english);
    const pattern = other === null && LATIN.test(english) &&
      patterns.find((one) => (ours || one.alone) && (one.english.test(english) || one.english.test(lower)));
    if (pattern) {
      const values = [], text = pattern.english.test(english) ? english : lower;
      text.match(pattern.english).slice(1).forEach((value, i) => (values[pattern.numbers[i]] = found(value, true) ?? value));
      other = fill(pattern.other, values);
    }
    return remember(known, asked, other);
  }

  // Of several sentences each; null when one is not known.
  function bySentence(english) {
    const parts = english.split(/(?<=[.?!…])\s+(?=\p{Lu}|\W)/u);
    const others = parts.length > 1 ? parts.map((part) => found(part)) : [null];
    return others.includes(null) ? null : others.join("");
  }

  // A sentence with its values, in the page's language.
  function t(template, ...values) {
    if (language === "en") return fill(template, values);
    const other = fill(words.get(template) ?? template, values);
    const english = fill(template, values.map((value) => composed.get(String(value)) ?? value));
    if (other !== english) remember(composed, other, english);
    return other;
  }

  // A figure with its words in the page's language; the figure itself is left as it is.
  function figure(original) {
    // Plotly reads text as HTML: a model's "&" comes as "&amp;".
    const plain = (part) => found(part.replaceAll("&amp;", "&"), true)?.replaceAll("&", "&amp;");
    const word = (text) => (LATIN.test(text) ? text.split(/(<[^>]*>)/).map((part) => (part.startsWith("<") ? part : plain(part) ?? part)).join("") : text);
    const told = (value, key) => {
      if (typeof value === "string") return SAID.includes(key) ? word(value) : value;
      if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map((one) => told(one, key));
      if (value === null || typeof value !== "object") return value;
      return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, told(one, name)]));
    };
    const copy = structuredClone({ data: original.data, layout: original.layout });
    return language === "en" ? copy : told(copy);
  }

  // What Plotly's own buttons say, as settings for it.
  const locale = () => (language === "en" ? {} : { locale: OTHER, locales: { [OTHER]: { dictionary: Object.fromEntries(words), format: {} } } });

  const whole = (text) => text.replace(/\s+/g, " ").trim();

  // Text as the page's language has it, and what it is in English. `record` is what was
  // last made of the same place.
  function made(now, record) {
    const told = record && record.shown === now;
    const english = told ? record.english : composed.get(now) ?? back.get(whole(now)) ?? now;
    if (language === "en") return { english, shown: english };
    if (!told && english !== now) return { english, shown: now };
    const other = found(whole(english));
    if (other === null) return { english, shown: english };
    const [before, after] = [english.match(/^\s*/)[0], english.match(/\s*$/)[0]];
    return { english, shown: before + other + after };
  }

  function putText(node) {
    const record = texts.get(node);
    if (!record && !LATIN.test(node.data) && !composed.has(node.data) && !back.has(whole(node.data))) return;
    const next = made(node.data, record);
    texts.set(node, next);
    if (node.data !== next.shown) node.data = next.shown;
  }

  function putAttributes(element) {
    for (const name of ATTRIBUTES) {
      const now = element.getAttribute(name);
      if (!now) continue;
      const records = attributes.get(element) ?? {};
      const next = made(now, records[name]);
      attributes.set(element, { ...records, [name]: next });
      if (now !== next.shown) element.setAttribute(name, next.shown);
    }
  }

  // A sentence with elements in it: the other language may want them in another order.
  function putSentence(element) {
    const record = sentences.get(element);
    const nodes = [...element.childNodes];
    const same = record && record.made.length === nodes.length && record.made.every((node, i) => node === nodes[i]);
    if (same) {
      if (language !== "en") return;
      sentences.delete(element);
      element.replaceChildren(...record.nodes);
      return;
    }
    const inner = nodes.filter((node) => node.nodeType === Node.ELEMENT_NODE);
    if (language === "en" || !inner.length || nodes.length > 24 || nodes.length === inner.length) return;
    const english = nodes.map((node) => (node.nodeType === Node.TEXT_NODE ? node.data : inner.includes(node) ? `{${inner.indexOf(node)}}` : "")).join("");
    const other = words.get(whole(english));
    if (other === undefined) return;
    const parts = other.split(/\{(\d+)\}/).map((part, i) => (i % 2 ? inner[part] : document.createTextNode(part)));
    parts.filter((node) => node.nodeType === Node.TEXT_NODE).forEach((node) => texts.set(node, { english: node.data, shown: node.data }));
    sentences.set(element, { nodes, made: parts });
    element.replaceChildren(...parts);
  }

  function walk(root) {
    if (root.nodeType === Node.TEXT_NODE) putText(root);
    if (root.nodeType !== Node.ELEMENT_NODE) return;
    putAttributes(root);
    if (root.matches(CLOSED)) return;
    putSentence(root);
    for (const node of [...root.childNodes]) walk(node);
  }

  const open = (node) => {
    const element = node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement;
    return element && element.isConnected && !element.closest(CLOSED);
  };
  const observer = new MutationObserver((changes) => {
    for (const { type, target, addedNodes } of changes) {
      if (type === "attributes") putAttributes(target);
      else if (!open(target)) continue;
      else if (type === "characterData") putText(target);
      else {
        putSentence(target);
        addedNodes.forEach((node) => node.isConnected && walk(node));
      }
    }
    mark();
    observer.takeRecords(); // our own changes
  });

  // The control says which language is chosen; Gradio may have drawn it anew.
  function mark() {
    for (const button of document.querySelectorAll("[data-language]")) {
      const pressed = String(button.dataset.language === language);
      if (button.getAttribute("aria-pressed") !== pressed) button.setAttribute("aria-pressed", pressed);
    }
  }

  function speak(chosen) {
    const chinese = chosen === OTHER || isChinese(navigator.language);
    if (chinese && !words.size) read();
    observer.disconnect();
    language = chosen;
    document.documentElement.lang = chosen;
    walk(document.body);
    mark();
    if (chinese)
      observer.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES });
    document.dispatchEvent(new CustomEvent("dogerm:language", { detail: chosen }));
  }

  const isChinese = (name) => /^zh/i.test(name);

  function stored(chosen) {
    try {
      if (chosen) localStorage.setItem(STORE, chosen);
      return localStorage.getItem(STORE);
    } catch {
      return null; // a frame of another site may keep nothing
    }
  }

  function first() {
    const asked = new URLSearchParams(location.search).get("lang") || stored() || navigator.language || "en";
    return isChinese(asked) ? OTHER : "en";
  }

  document.addEventListener("click", ({ target }) => {
    const button = target.closest && target.closest("[data-language]");
    if (!button) return;
    const address = new URL(location);
    address.searchParams.delete("lang"); // the choice outlives a reload
    history.replaceState(history.state, "", address);
    stored(button.dataset.language);
    speak(button.dataset.language);
  });
  // Gradio writes the browser's language here once its own words are loaded.
  new MutationObserver(() => {
    if (document.documentElement.lang !== language) document.documentElement.lang = language;
  }).observe(document.documentElement, { attributes: true, attributeFilter: ["lang"] });
  speak(first());

  // An element, its text as text: the page and its panels make all of theirs so.
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  // The same, of a visitor's own text or a name: it has no other language.
  const own = (...parts) => Object.assign(make(...parts), { translate: false });

  return { t, make, own, figure, locale, language: () => language };
})();
