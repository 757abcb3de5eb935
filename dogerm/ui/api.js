// The API fold: the page's own address in its lines, and their Copy buttons.
window.dogerm.api = () => {
  const fold = document.getElementById("api-calls");
  if (!fold) return void requestAnimationFrame(window.dogerm.api); // it is being opened
  if (fold.dataset.ready) return;
  fold.dataset.ready = "yes";
  const page = location.origin + location.pathname.replace(/\/$/, "");
  const client = fold.dataset.space || page; // gradio_client knows a Space by its name
  for (const block of fold.querySelectorAll(".written")) {
    const code = block.querySelector("pre"), button = block.querySelector(".copy");
    const address = code.textContent.includes("mcp") ? page : client;
    code.textContent = code.textContent.replace("ADDRESS", address);
    button.addEventListener("click", () => window.dogerm.copy(button, code.textContent));
  }
};
