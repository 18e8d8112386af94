/* A response token by token: coloured by log q - log pi, with what the teacher would rather have seen. */

const LEVELS = [0.1, 0.5, 1, 2]; // nats
const TOKENS_AT_ONCE = 4000;

const percent = (milli) => {
  const share = 100 * Math.exp(milli / 1000);
  return share >= 99.95 ? "100 %" : share >= 10 ? `${share.toFixed(0)} %` : share >= 0.1 ? `${share.toFixed(1)} %` : "< 0.1 %";
};
const nats = (value) => `${value > 0 ? "+" : value < 0 ? "−" : "±"}${Math.abs(value).toFixed(2)}`;

/* "", or b1 to b4 where the teacher blames, p1 to p4 where it praises. */
function level(gap) {
  const size = LEVELS.filter((least) => Math.abs(gap) / 1000 >= least).length;
  return size ? `${gap < 0 ? "b" : "p"}${size}` : "";
}

function legend() {
  const steps = [["b4", "−2"], ["b3", "−1"], ["b2", "−0.5"], ["b1", "−0.1"], ["", "0"], ["p1", "+0.1"], ["p2", "+0.5"], ["p3", "+1"], ["p4", "+2"]];
  return node("div", { className: "legend" },
    node("span", { textContent: "teacher blames" }),
    ...steps.map(([name, text]) => node("span", { className: `swatch token ${name}`, textContent: text })),
    node("span", { textContent: "teacher praises" }),
    node("span", { className: "faint", textContent: "log q − log π, nats. Dotted lines blame, solid ones praise." }));
}

function tokenView(attempt) {
  const box = node("div", { className: "tokens", tabIndex: 0 });
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Response, token by token. Arrow keys go from token to token, B and P to the next one that the teacher blames or praises.");
  const add = (from, to) => {
    for (let place = from; place < Math.min(to, attempt.pieces.length); place += 1) {
      const piece = attempt.pieces[place];
      const gap = attempt.gap[place];
      const made = visible("span", `token ${gap === undefined ? "unscored" : level(gap)}`, piece, true);
      if (!piece) made.append(node("span", { className: "unseen", textContent: "…", title: "part of the next character" }));
      made.dataset.place = place;
      box.append(made);
    }
    if (to < attempt.pieces.length) {
      const more = node("button", { type: "button", textContent: `Show ${attempt.pieces.length - to} more tokens` });
      more.onclick = () => { more.remove(); add(to, to + TOKENS_AT_ONCE); };
      box.append(more);
    }
  };
  add(0, TOKENS_AT_ONCE);
  let current = null;
  const go = (token) => {
    if (!token) return;
    current?.classList.remove("current");
    current = token;
    current.classList.add("current");
    current.scrollIntoView({ block: "nearest" });
    showCard(attempt, Number(current.dataset.place), current);
  };
  const next = (token, step, wanted) => {
    const tokens = [...box.querySelectorAll(".token")];
    let place = token ? tokens.indexOf(token) + step : step > 0 ? 0 : tokens.length - 1;
    while (tokens[place] && !wanted(tokens[place])) place += step;
    return tokens[place];
  };
  const any = () => true;
  const of = (side) => (token) => token.className.includes(` ${side}`);
  const keys = {
    ArrowRight: [1, any], ArrowDown: [1, any], ArrowLeft: [-1, any], ArrowUp: [-1, any],
    b: [1, of("b")], B: [-1, of("b")], p: [1, of("p")], P: [-1, of("p")],
  };
  box.onkeydown = (event) => {
    if (event.key === "Escape") hideCard();
    else if (keys[event.key] && !event.ctrlKey && !event.metaKey) {
      const [step, wanted] = keys[event.key];
      go(next(current, step, wanted));
      event.preventDefault();
    }
  };
  box.onpointerover = (event) => {
    const token = event.target.closest(".token");
    if (token && box.contains(token)) showCard(attempt, Number(token.dataset.place), token);
  };
  box.onpointerleave = hideCard;
  box.onclick = (event) => go(event.target.closest(".token"));
  box.onblur = () => { hideCard(); current?.classList.remove("current"); };
  return box;
}

let cardOf = null; // the token that the card is about

/* The card of a token. */
function showCard(attempt, place, anchor) {
  const card = byId("card");
  const title = node("p", { className: "card-title" });
  title.append(visible("code", "", attempt.pieces[place] || "…", true), ` token ${place + 1} of ${attempt.pieces.length}`);
  const parts = [title];
  if (attempt.gap[place] === undefined) {
    parts.push(node("p", { className: "faint", textContent: "Not scored: only the first tokens of a long attempt are." }));
  } else {
    const gap = attempt.gap[place];
    const student = attempt.student[place];
    const said = Math.abs(gap) < 100 ? "Both think alike." : gap < 0 ? "The teacher blames it." : "The teacher praises it.";
    parts.push(node("p", {}, node("b", { className: `token ${level(gap)}`, textContent: nats(gap / 1000) }), ` nats. ${said}`));
    parts.push(alternatives([[attempt.pieces[place], student + gap, student, true], ...(attempt.alternatives[place] ?? [])]));
  }
  card.replaceChildren(...parts);
  card.hidden = false;
  cardOf = anchor;
  placeCard();
}

/* Below the token or above it; nowhere when the token is gone. */
function placeCard() {
  const card = byId("card");
  if (card.hidden) return;
  if (!cardOf.isConnected) {
    hideCard();
    return;
  }
  const at = cardOf.getClientRects()[0] ?? cardOf.getBoundingClientRect();
  const below = at.bottom + 8 + card.offsetHeight < innerHeight;
  card.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - card.offsetWidth - 8))}px`;
  card.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - 8 - card.offsetHeight)}px`;
}

/* [text, log q, log pi in thousandths, whether it was sampled] as a table; the sampled one once. */
function alternatives(rows) {
  const [sampled, ...others] = rows;
  const body = node("tbody", {});
  const sorted = [sampled, ...others.filter(([text]) => text !== sampled[0])].sort((a, b) => b[1] - a[1]);
  for (const [text, teacher, student, own] of sorted) {
    const bar = node("div", { className: "bar" }, node("div", {}));
    bar.firstChild.style.width = `${100 * Math.exp(teacher / 1000)}%`;
    body.append(node("tr", { className: own ? "own" : "" },
      node("td", {}, visible("code", "", text || "…", true), own ? " ◂ sampled" : ""),
      node("td", {}, bar), node("td", { textContent: percent(teacher) }), node("td", { textContent: percent(student) })));
  }
  return node("table", {},
    node("thead", {}, node("tr", {}, node("th", { textContent: "next token" }), node("td", {}), node("th", { textContent: "teacher" }), node("th", { textContent: "student" }))), body);
}

function hideCard() {
  byId("card").hidden = true;
}
