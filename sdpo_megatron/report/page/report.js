/* Starts the page. */

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
}

function redraw() {
  for (const [place, { plot }] of plots) if (plot) drawPlot(place);
}

function describe() {
  document.title = `${head.names.join(", ")}: SDPO report`;
  byId("name").textContent = head.names.join(" · ");
  const [run] = content.runs;
  const done = run.steps.at(-1) ?? 0;
  const facts = content.runs.length > 1 ? [`${content.runs.length} runs side by side`] : [run.model, run.task, run.target === "null" ? `${done} steps` : `step ${done} of ${run.target}`];
  byId("facts").replaceChildren();
  appendVisible(byId("facts"), facts.filter(Boolean).join(" · "));
  byId("written").textContent = `Written ${content.written}. Nothing on this page is loaded from anywhere. Plots: drag to zoom, double-click to zoom out.`;
}

async function start() {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  matchMedia("(prefers-color-scheme: dark)").onchange = ({ matches }) => { setTheme(matches ? "dark" : "light"); redraw(); };
  byId("theme").onclick = () => { setTheme(theme() === "dark" ? "light" : "dark"); redraw(); };
  try {
    content = await unpacked("content");
    describe();
    overview();
    health();
    times();
    validation();
    settings();
    await startList();
    if (location.hash) document.querySelector(`[id="${CSS.escape(location.hash.slice(1))}"]`)?.scrollIntoView();
  } catch (error) {
    byId("trouble").hidden = false;
    byId("trouble").textContent = `This page could not be opened (${error}). It needs a browser of 2023 or later; sdpo report writes it anew.`;
    throw error;
  }
  let settled;
  addEventListener("resize", () => {
    placeCard();
    clearTimeout(settled);
    settled = setTimeout(() => {
      for (const [place, { plot }] of plots) plot?.setSize({ width: place.clientWidth, height: 190 });
      paint();
    }, 100);
  });
  addEventListener("scroll", placeCard, { passive: true, capture: true }); // of boxes, too
  addEventListener("beforeprint", () => { for (const place of plots.keys()) if (!plots.get(place).plot) drawPlot(place); });
  document.documentElement.dataset.ready = "true";
}

start();
