"use strict";
/* Draws the panels of one dashboard at a time with uPlot, and asks for new steps while it is served. */

const content = JSON.parse(document.getElementById("content").textContent);
const REFRESH_MS = 5000;
const COLOURS = {
  light: ["#2563eb", "#d9480f", "#0d9467", "#a21caf", "#b7791f", "#0e7490", "#dc2626", "#64748b"],
  dark: ["#7aa7ff", "#ff9d5c", "#4fd1a1", "#e48cf0", "#f0c862", "#5fd0e6", "#ff8a8a", "#a9b4c4"],
};
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

/* A value for people, with its unit. */
function shown(value, unit, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const scaled = (steps) => {
    const base = steps.find(([size]) => size === 1);
    const [size, name] = value === 0 ? base : steps.find(([least]) => Math.abs(value) >= least) ?? steps.at(-1);
    return `${brief(value / size, digits)} ${name}`.trim();
  };
  switch (unit) {
    case "ratio": return `${brief(100 * value, digits)} %`;
    case "s": return scaled([[3600, "h"], [60, "min"], [1, "s"], [0.001, "ms"]]);
    case "bytes": return scaled([[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [1, "B"]]);
    case "FLOP/s": return scaled([[1e15, "P"], [1e12, "T"], [1e9, "G"], [1, ""]]);
    case "tokens/s": return `${brief(value, digits)} /s`;
    default: return brief(value, digits);
  }
}

function brief(value, digits) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

function node(tag, attributes, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

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

/* The vertical range: as the panel says, else as the data are, with some air. */
function bounded(least, most, low, high) {
  if (least === null) return [low ?? 0, high ?? 1];
  const from = low === null ? least : Math.min(low, least);
  const to = high === null ? most : Math.max(high, most);
  if (from === to) return from === 0 ? [0, 1] : [from - Math.abs(from) / 2, from + Math.abs(from) / 2];
  const air = 0.06 * (to - from);
  return [from === low ? from : from - air, to === high ? to : to + air];
}

/* Distances of the vertical axis's marks; none between whole numbers where there are none. */
const WHOLE = Array.from({ length: 40 }, (_, index) => [1, 2, 5][index % 3] * 10 ** Math.floor(index / 3));
const INCREMENTS = {
  bytes: Array.from({ length: 50 }, (_, power) => 2 ** power),
  items: WHOLE, version: WHOLE, tokens: WHOLE,
};

function options(panel, width) {
  const colours = COLOURS[theme()];
  const style = getComputedStyle(document.documentElement);
  const faint = style.getPropertyValue("--faint").trim();
  const line = style.getPropertyValue("--line").trim();
  const font = "11px system-ui, sans-serif";
  const [low, high] = panel.bounds;
  const axis = { stroke: faint, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
  const raw = (key, step) => data.values[key]?.[step];
  return {
    width,
    height: 190,
    cursor: { sync: { key: "step" }, points: { size: 7 } },
    scales: {
      x: { time: false, range: (_, from, to) => (from === to ? [from - 1, to + 1] : [from, to]) },
      y: panel.logarithmic
        ? { distr: 3 }
        : { range: (_, least, most) => bounded(least, most, low, high) },
    },
    axes: [
      { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
      {
        ...axis,
        size: 62,
        ...(panel.unit in INCREMENTS ? { incrs: INCREMENTS[panel.unit] } : {}),
        values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : shown(tick, panel.unit, 4))),
      },
    ],
    series: [
      { label: "step", value: (_, step) => String(step ?? data.steps.at(-1) ?? "–") },
      ...panel.curves.map((curve, index) => ({
        label: curve.legend,
        stroke: colours[index % colours.length],
        width: 1.75,
        fill: panel.stacked ? `${colours[index % colours.length]}55` : undefined,
        points: { show: data.steps.length < 60, size: 4 },
        value: (_, __, ___, step) => shown(raw(curve.key, step ?? data.steps.length - 1), panel.unit),
      })),
    ],
    bands: panel.stacked
      ? panel.curves.slice(1).map((_, index) => ({ series: [index + 1, index + 2] }))
      : [],
  };
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
