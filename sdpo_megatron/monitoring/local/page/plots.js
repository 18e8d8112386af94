/* What the pages of runs share: numbers for people, nodes, and the options of a plot. */

const COLOURS = {
  light: ["#2563eb", "#d9480f", "#0d9467", "#a21caf", "#b7791f", "#0e7490", "#dc2626", "#64748b"],
  dark: ["#7aa7ff", "#ff9d5c", "#4fd1a1", "#e48cf0", "#f0c862", "#5fd0e6", "#ff8a8a", "#a9b4c4"],
};

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

/* uPlot's options for a panel. Each line has a label, the index of a colour, raw(index of a step) for the legend
   (a stacked line is drawn as a sum) and perhaps a dash. steps() are those known now: a page may get more. */
function plotOptions(panel, width, lines, steps, dark) {
  const colours = COLOURS[dark ? "dark" : "light"];
  const style = getComputedStyle(document.documentElement);
  const faint = style.getPropertyValue("--faint").trim();
  const grid = { stroke: style.getPropertyValue("--line").trim(), width: 1 };
  const axis = { stroke: faint, font: "11px system-ui, sans-serif", grid, ticks: grid };
  const [low, high] = panel.bounds;
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
      { ...axis, size: 32, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
      {
        ...axis,
        size: 62,
        ...(panel.unit in INCREMENTS ? { incrs: INCREMENTS[panel.unit] } : {}),
        values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : shown(tick, panel.unit, 4))),
      },
    ],
    series: [
      { label: "step", value: (_, step) => String(step ?? steps().at(-1) ?? "–") },
      ...lines.map(({ label, colour, dash, raw }) => ({
        label,
        stroke: colours[colour % colours.length],
        dash,
        width: 1.75,
        fill: panel.stacked ? `${colours[colour % colours.length]}55` : undefined,
        points: { show: steps().length < 60, size: 4 },
        value: (_, __, ___, step) => shown(raw(step ?? steps().length - 1), panel.unit),
      })),
    ],
    bands: panel.stacked
      ? lines.slice(1).map((_, index) => ({ series: [index + 1, index + 2] }))
      : [],
  };
}
