// The Recipe panel: texts to copy, and a link with everything in it.
(() => {
  const { make } = window.dogerm;
  const byId = (id) => document.getElementById(id);

  function link() {
    const { frame, lam } = window.dogerm.view, pins = window.dogerm.pins();
    const state = { ...window.dogerm.setting(), lam, prompt: frame.prompt, responses: frame.texts, ...(pins.length && { pins }) };
    const bytes = new TextEncoder().encode(JSON.stringify(state));
    const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
    const space = byId("recipe").dataset.space;
    const page = space ? `https://huggingface.co/spaces/${space}` : location.origin + location.pathname;
    const address = `${page}?s=${text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
    // A server takes an address no longer than this; in front of a Space another one does.
    return address.length > (space ? 8000 : 32_000) ? "" : address;
  }

  async function copy(button, text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without https there is no clipboard: select, and let the browser copy.
      const area = make("textarea", "", text);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const said = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = said), 1500);
  }
  window.dogerm.copy = copy;

  let last = null;
  window.dogerm.recipe = (forms) => {
    last = forms;
    const place = byId("recipe-forms");
    if (!forms || !place || !window.dogerm.view.frame) return;
    const address = link(), all = { ...(address && { Link: address }), ...forms };
    const long = "The texts are too long for a link. Save a recording in the Export tab instead.";
    place.replaceChildren(...(address ? [] : [make("p", "long", long)]), ...Object.entries(all).map(([name, text]) => {
      const block = make("figure", name === "Link" ? "written link" : "written");
      const head = make("figcaption", "", name), button = make("button", "copy", name === "Link" ? "Copy link" : window.dogerm.t("Copy {0}", window.dogerm.t(name)));
      button.addEventListener("click", () => copy(button, text));
      head.append(button);
      block.append(head, Object.assign(make("pre", "", text.trimEnd()), { translate: false }));
      return block;
    }));
  };
  const again = () => {
    const panel = byId("recipe");
    if (!panel || !panel.offsetParent) return;
    window.dogerm.recipe(last); // the link at once; the rest when the server has written it
    byId("recipe-again").click();
  };
  document.addEventListener("dogerm:frame", again);
  document.addEventListener("dogerm:pins", again);
})();
