"use strict";
/* Draws the panels of one dashboard at a time with uPlot, and asks for new steps while it is served. */

const content = JSON.parse(document.getElementById("content").textContent);
const REFRESH_MS = 5000;
const TILES = [
  ["step", "steps", "items"],
  ["rollout/success_rate", "success", "ratio"],
  ["rollout/reward_mean", "reward", "reward"],
  ["train/loss", "loss", "1"],
  ["student/entropy", "entropy", "nats/token"],
  ["rollout/response_tokens_mean", "tokens a response", "tokens"],
  ["time/step_s", "a step", "s"],
  ["memory/all_bytes", "memory", "bytes"],
];
let data = content.data;
let chosen = 0;
let charts = [];

const byId = (id) => document.getElementById(id);
const theme = () => document.documentElement.dataset.theme;

/* The columns of a panel: steps, then each curve; stacked ones are sums from the last one up. */
function columns(panel) {
  const found = panel.curves.map(
    (curve) => data.values[curve.key] ?? data.steps.map(() => null),
  );
  if (!panel.stacked) return [data.steps, ...found];
  const sums = data.steps.map(() => 0);
  const stacked = found.slice().reverse().map((values) => values.map((value, step) => {
    sums[step] += value ?? 0;
    return sums[step];
  }));
  return [data.steps, ...stacked.reverse()];
}

function options(panel, width) {
  const lines = panel.curves.map((curve, index) => ({
    label: curve.legend,
    colour: index,
    raw: (step) => data.values[curve.key]?.[step],
  }));
  return plotOptions(panel, width, lines, () => data.steps, theme() === "dark");
}

function draw() {
  charts.forEach(({ chart }) => chart.destroy());
  charts = [];
  const main = byId("panels");
  main.replaceChildren();
  for (const row of content.dashboards[chosen].rows) {
    const cards = node("div", { className: "row" });
    main.append(node("h2", { textContent: row.title }), cards);
    for (const panel of row.panels) {
      const place = node("div", {});
      cards.append(node("article", { className: "panel" },
        node("h3", { textContent: panel.title }), node("p", { textContent: panel.help }), place));
      const measured = panel.curves.some((curve) => data.values[curve.key]);
      if (!measured) {
        place.append(node("div", { className: "none", textContent: "not measured in this run" }));
        continue;
      }
      const chart = new uPlot(options(panel, place.clientWidth), columns(panel), place);
      charts.push({ chart, panel, place });
    }
  }
}

function describe() {
  document.title = `${data.run}: SDPO`;
  byId("run").textContent = data.run;
  const last = data.steps.length - 1;
  byId("tiles").replaceChildren(...TILES.map(([key, name, unit]) => {
    const value = key === "step" ? data.steps[last] : data.values[key]?.[last];
    const target = key === "step" && data.target !== null ? ` of ${data.target}` : "";
    return node("div", { className: "tile" },
      node("b", { textContent: shown(value ?? null, unit) + target }), node("span", { textContent: name }));
  }));
}

/* Whether there will be more of it. */
function life() {
  if (!data.steps.length) return data.running === false ? "ended before its first step" : "no step yet";
  if (data.running !== false) return "live";
  return data.steps.at(-1) >= data.target ? "finished" : "not running; sdpo train --resume goes on";
}

function state(text) {
  byId("state").textContent = text;
}

function menu() {
  byId("pages").replaceChildren(...content.dashboards.map((page, index) => {
    const button = node("button", { type: "button", textContent: page.title });
    if (index === chosen) button.setAttribute("aria-current", "page");
    button.onclick = () => { chosen = index; menu(); draw(); };
    return button;
  }));
}

async function refresh() {
  try {
    const answer = await fetch("data.json");
    if (!answer.ok) throw new Error(await answer.text());
    const found = await answer.json();
    const before = JSON.stringify(data);
    if (JSON.stringify(found) !== before) {
      const measured = Object.keys(found.values).length === Object.keys(data.values).length;
      data = found;
      describe();
      if (measured) charts.forEach(({ chart, panel }) => chart.setData(columns(panel)));
      else draw();
    }
    state(life());
  } catch (error) {
    state("the server is gone; these are the last steps it told");
  }
  setTimeout(refresh, REFRESH_MS);
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
}

setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
byId("theme").onclick = () => { setTheme(theme() === "dark" ? "light" : "dark"); draw(); };
let settled;
addEventListener("resize", () => {
  clearTimeout(settled);
  settled = setTimeout(() => charts.forEach(({ chart, place }) => chart.setSize({ width: place.clientWidth, height: 190 })), 100);
});
menu();
describe();
draw();
/* A page that was saved stays as it is. */
if (location.protocol.startsWith("http")) refresh();
else state(life() === "live" ? "saved" : life());
