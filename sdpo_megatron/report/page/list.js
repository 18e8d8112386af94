/* The list of attempts: only the rows in sight exist, however many there are. */

const ROW = 46; // px, as in the style
const ASIDE = 6; // rows beyond the edges
let entries = [];
let chosenRows = [];
let cursor = -1;
let scan = 0; // number of the newest search

function fillFilters() {
  byId("run-filter").hidden = content.runs.length < 2;
  byId("run").append(new Option("all", ""), ...head.names.map((name, run) => new Option(name, String(run))));
  const steps = [...new Set(entries.map((entry) => entry.step))].sort((a, b) => a - b);
  byId("step").append(new Option("all", ""), ...steps.map((step) => new Option(String(step))));
  const scored = entries.filter((entry) => entry.gain !== null).length;
  byId("scored").checked = scored > 0;
  byId("scored").disabled = scored === 0;
  const recorded = content.attempts.every(({ complete }) => complete);
  byId("attempts-lead").textContent = entries.length === 0
    ? "No step has been recorded yet."
    : `Each token is coloured by how much more, or less, likely the teacher found it than the student did. ${entries.length.toLocaleString("en")} attempts, ${scored.toLocaleString("en")} with the teacher's view${recorded ? "" : "; a choice that is spread over the run, all of them are in its folder"}.`;
}

function orderedBy(order) {
  const by = {
    step: (a, b) => a.run - b.run || a.step - b.step || (a.question < b.question ? -1 : a.question > b.question ? 1 : a.index - b.index),
    blamed: (a, b) => (a.gain ?? Infinity) - (b.gain ?? Infinity),
    praised: (a, b) => (b.gain ?? -Infinity) - (a.gain ?? -Infinity),
    long: (a, b) => b.tokens - a.tokens,
  };
  return by[order];
}

async function filter() {
  const mine = (scan += 1);
  const [run, step, verdict, order] = ["run", "step", "verdict", "order"].map((id) => byId(id).value);
  const words = byId("find").value.trim().toLowerCase();
  const rows = entries.filter((entry) =>
    (run === "" || entry.run === Number(run)) && (step === "" || entry.step === Number(step))
    && (verdict === "" || entry.success === (verdict === "solved"))
    && (!byId("scored").checked || entry.gain !== null)).sort(orderedBy(order));
  if (!words) return list(rows);
  const found = [];
  for (const [number, entry] of rows.entries()) {
    if (entry.question.toLowerCase().includes(words)) found.push(entry);
    else {
      const attempt = await whole(entry);
      if (mine !== scan) return undefined;
      if (`${attempt.pieces.join("")}\n${attempt.feedback}`.toLowerCase().includes(words)) found.push(entry);
    }
    if (number % 500 === 499) byId("count").textContent = `looking: ${number + 1} of ${rows.length}`;
  }
  return list(found);
}

function list(rows) {
  chosenRows = rows;
  byId("count").textContent = `${rows.length.toLocaleString("en")} of ${entries.length.toLocaleString("en")} attempts`;
  byId("rows").style.height = `${rows.length * ROW}px`;
  byId("list").scrollTop = 0;
  if (rows.length) choose(0);
  else {
    cursor = -1;
    byId("list").removeAttribute("aria-activedescendant");
    byId("shown").replaceChildren(node("p", { className: "faint", textContent: "No attempt is like that." }));
    paint();
  }
}

function choose(place) {
  cursor = Math.max(0, Math.min(place, chosenRows.length - 1));
  const box = byId("list");
  const top = cursor * ROW;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW - box.clientHeight;
  paint();
  box.setAttribute("aria-activedescendant", `row-${cursor}`);
  if (pair[0] !== chosenRows[cursor] || pair[1]) showAttempt(chosenRows[cursor]);
}

function paint() {
  const box = byId("list");
  const from = Math.max(0, Math.floor(box.scrollTop / ROW) - ASIDE);
  const to = Math.min(chosenRows.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + ASIDE);
  const places = Array.from({ length: Math.max(0, to - from) }, (_, offset) => from + offset);
  if (cursor >= 0 && !places.includes(cursor)) places.push(cursor); // what has the focus exists
  byId("rows").replaceChildren(...places.map(rowView));
}

function rowView(place) {
  const entry = chosenRows[place];
  const row = node("div", { className: "entry", id: `row-${place}` });
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", String(place === cursor));
  row.setAttribute("aria-posinset", place + 1);
  row.setAttribute("aria-setsize", chosenRows.length);
  row.style.top = `${place * ROW}px`;
  const verdict = node("span", { className: `glyph ${entry.success ? "solved" : "failed"}`, textContent: entry.success ? "✓" : "✗", title: entry.success ? "solved" : "failed" });
  verdict.setAttribute("aria-label", entry.success ? "solved" : "failed");
  verdict.setAttribute("role", "img");
  const name = visible("span", "question", entry.question);
  const gain = entry.gain === null ? "" : `${nats(entry.gain)}`;
  row.append(verdict, name, node("span", { className: "number", textContent: gain }),
    node("span", { className: "faint below", textContent: `${runName(entry)}step ${entry.step} · attempt ${entry.index} · ${entry.tokens} tokens` }));
  row.onclick = () => { choose(place); };
  return row;
}

function startList() {
  entries = indexed();
  fillFilters();
  const page = () => Math.max(1, Math.floor(byId("list").clientHeight / ROW) - 1);
  const moves = {
    ArrowDown: () => cursor + 1, ArrowUp: () => cursor - 1, PageDown: () => cursor + page(),
    PageUp: () => cursor - page(), Home: () => 0, End: () => chosenRows.length - 1,
  };
  byId("list").onkeydown = (event) => {
    if (!moves[event.key] || !chosenRows.length) return;
    choose(moves[event.key]());
    event.preventDefault();
  };
  byId("list").onscroll = paint;
  byId("filters").onsubmit = (event) => event.preventDefault();
  let settled;
  byId("filters").oninput = () => { clearTimeout(settled); settled = setTimeout(filter, 150); };
  return filter();
}
