/* Everything but the attempts: tiles or a table of runs, plots, health, times, validation, settings. */

const theme = () => document.documentElement.dataset.theme;
const DASHES = [undefined, [7, 4], [2, 3], [9, 3, 2, 3]]; // of a panel's curves, where colours are runs
const KEY_CURVES = ["rollout/success_rate", "train/loss", "student/entropy", "rollout/response_tokens_mean", "train/grad_norm", "teacher/gain_failed"];
const LABELS = {
  "rollout/success_rate": "success", "rollout/reward_mean": "reward", "train/loss": "loss", "teacher/kl_mean": "divergence",
  "student/entropy": "entropy", "rollout/response_tokens_mean": "tokens a response", "train/grad_norm": "gradient norm", "time/step_s": "a step",
};
const plots = new Map(); // place of a plot -> what draws it, and the plot once it was in sight

function table(caption, heads, rows, leftColumns = 1) {
  const cell = (tag, text, place) => {
    const made = visible(tag, place < leftColumns ? "" : "number", String(text));
    if (tag === "th") made.scope = "col";
    return made;
  };
  return node("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: caption }, node("table", {},
    node("caption", { textContent: caption }),
    node("thead", {}, node("tr", {}, ...heads.map((text, place) => cell("th", text, place)))),
    node("tbody", {}, ...rows.map((row) => node("tr", {}, ...row.map((text, place) => cell("td", text, place)))))));
}

/* --- plots ------------------------------------------------------------------------------------ */

function linesOf(panel) {
  const many = content.runs.length > 1;
  return content.runs.flatMap((run, number) => panel.curves.map((curve, index) => ({
    label: many ? `${run.name}: ${curve.legend}` : curve.legend,
    colour: many ? number : index,
    dash: many ? DASHES[index % DASHES.length] : undefined,
    values: run.values[curve.key] ?? [],
    run,
  })).filter(({ values }) => values.some((value) => value !== null)));
}

function drawPlot(place) {
  const entry = plots.get(place);
  entry.plot?.destroy();
  const lines = linesOf(entry.panel);
  const tables = lines.map(({ run, values }) => [run.steps, values]);
  const raw = tables.length === 1 ? tables[0] : uPlot.join(tables);
  const panel = content.runs.length > 1 ? { ...entry.panel, stacked: false } : entry.panel;
  const columns = panel.stacked ? [raw[0], ...stacked(raw.slice(1))] : raw;
  lines.forEach((line, index) => { line.raw = (step) => raw[index + 1][step]; });
  entry.plot = new uPlot(plotOptions(panel, place.clientWidth, lines, () => raw[0], theme() === "dark"), columns, place);
}

/* Each column plus those after it. */
function stacked(columns) {
  const sums = columns[0].map(() => 0);
  return columns.slice().reverse().map((values) => values.map((value, step) => {
    sums[step] += value ?? 0;
    return sums[step];
  })).reverse();
}

/* A plot is drawn when it comes into sight, and all of them before printing. */
const inSight = new IntersectionObserver((seen) => seen.forEach(({ isIntersecting, target }) => {
  if (isIntersecting && !plots.get(target).plot) drawPlot(target);
}), { rootMargin: "300px" });

function panelView(panel) {
  const place = node("div", { className: "plot" });
  const card = node("article", { className: "panel" }, node("h3", { textContent: panel.title }), node("p", { textContent: panel.help }), place);
  const ends = linesOf(panel).map(({ label, values }) => {
    const known = values.filter((value) => value !== null);
    return `${label} from ${shown(known[0], panel.unit)} to ${shown(known.at(-1), panel.unit)}`;
  });
  place.setAttribute("role", "group");
  place.setAttribute("aria-label", `Plot by step: ${ends.join("; ")}`);
  plots.set(place, { panel });
  inSight.observe(place);
  return card;
}

const isMeasured = (panel) => panel.curves.some((curve) => content.runs.some((run) => run.values[curve.key]));

function panelRows(parent, rows, left) {
  rows.forEach(({ title, panels }) => {
    const shownPanels = panels.filter((panel) => isMeasured(panel) && !left.has(panel));
    if (!shownPanels.length) return;
    parent.append(node("h3", { className: "question", textContent: title }), node("div", { className: "row" }, ...shownPanels.map(panelView)));
  });
}

/* --- sections --------------------------------------------------------------------------------- */

function tile({ key, help, unit, first, late }) {
  return node("div", { className: "tile", title: help }, node("span", { textContent: LABELS[key] }),
    node("b", { textContent: shown(late, unit) }), node("small", { textContent: `from ${shown(first, unit)}` }));
}

function overview() {
  const single = content.runs.length === 1;
  if (single) byId("tiles").append(...content.runs[0].summary.map(tile));
  else {
    const keys = Object.keys(LABELS).filter((key) => content.runs.some((run) => run.summary.some((row) => row.key === key)));
    const cell = (run, key) => {
      const row = run.summary.find((found) => found.key === key);
      return row ? `${shown(row.first, row.unit)} → ${shown(row.late, row.unit)}` : "–";
    };
    byId("tiles").className = "wide";
    byId("tiles").append(table("First step → mean of the last quarter of steps", ["run", "steps", ...keys.map((key) => LABELS[key])],
      content.runs.map((run) => [run.name, run.steps.length, ...keys.map((key) => cell(run, key))])));
  }
  const all = content.learning.flatMap(({ panels }) => panels);
  const chosen = KEY_CURVES.map((key) => all.find((panel) => panel.curves.some((curve) => curve.key === key))).filter((panel) => panel && isMeasured(panel));
  byId("overview-panels").append(...chosen.map(panelView));
  panelRows(byId("learning-rows"), content.learning, new Set(chosen));
}

const STATES = { good: ["✓", "fine"], bad: ["!", "look at it"], unknown: ["–", "not measured"] };

function health() {
  for (const run of content.runs) {
    if (content.runs.length > 1) byId("findings").append(visible("h3", "", run.name));
    byId("findings").append(run.health.length ? node("ul", { className: "findings" }, ...run.health.map(({ state, title, text, runbook }) => {
      const glyph = node("span", { className: `glyph ${state}`, textContent: STATES[state][0], role: "img", ariaLabel: STATES[state][1] });
      return node("li", {}, glyph, node("b", { textContent: title }), node("span", { textContent: text + (runbook ? ` What to do: docs/runbooks/${runbook}.md.` : "") }));
    })) : node("p", { className: "faint", textContent: "No step is finished yet." }));
  }
}

function times() {
  for (const run of content.runs.filter(({ phases }) => phases.length)) {
    const bar = node("div", { className: "shares", role: "img", ariaLabel: `Share of a step: ${run.phases.map(({ name, share }) => `${name} ${shown(share, "ratio")}`).join(", ")}` });
    run.phases.forEach(({ name, share }, index) => {
      const piece = node("span", { className: `share share${index % 8}`, textContent: share > 0.06 ? name : "", title: `${name}: ${shown(share, "ratio")}` });
      piece.style.flexGrow = share;
      bar.append(piece);
    });
    byId("phases").append(bar, table(content.runs.length > 1 ? `Parts of a step: ${run.name}` : "Parts of a step", ["part", "what", "mean", "last", "share"],
      run.phases.map(({ name, help, mean, last, share }) => [name, help, shown(mean, "s"), shown(last, "s"), shown(share, "ratio")]), 2));
  }
  panelRows(byId("time-rows"), content.time, new Set());
}

function validation() {
  let any = false;
  for (const run of content.runs.filter((found) => found.validation.length)) {
    any = true;
    byId("passes").append(table(content.runs.length > 1 ? `Validation: ${run.name}` : "Held-out questions", ["after step", "avg@n", "best@n", "reward", "tokens", "truncated", "readable", "attempts", "dropped"],
      run.validation.map((row) => [row.step, shown(row.success_rate, "ratio"), shown(row.best_of_n, "ratio"), shown(row.reward_mean, "1"), shown(row.response_tokens_mean, "tokens"), shown(row.truncated_fraction, "ratio"), shown(row.format_ok_fraction, "ratio"), row.attempts, row.dropped_attempts])));
  }
  if (!any) byId("passes").append(node("p", { className: "faint", textContent: "No validation in this run: validation.every is 0." }));
}

function settings() {
  const parent = byId("configs");
  if (content.runs.length > 1) {
    parent.append(content.differences.length
      ? table("Settings in which the runs differ", ["setting", ...head.names], content.differences, content.runs.length + 1)
      : node("p", { className: "faint", textContent: "The runs have the same settings." }));
  }
  for (const run of content.runs) {
    const name = content.runs.length > 1 ? `: ${run.name}` : "";
    parent.append(part(`config.yaml${name}`, false, visible("pre", "", run.config || "There is no config.yaml.")));
    const rows = run.versions.map((start) => [start.time, (start.git_commit ?? "").slice(0, 12), start.python, start.cpu_name ?? "", Object.entries(start.packages ?? {}).filter(([, version]) => version).map((pair) => pair.join(" ")).join(", ")]);
    if (rows.length) parent.append(part(`Starts and versions${name}`, false, table("One line for each start of the run", ["time", "commit", "Python", "processor", "packages"], rows, 5)));
  }
}
