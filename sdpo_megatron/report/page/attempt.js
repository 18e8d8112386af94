/* One attempt, or two of the same question side by side, with its verdict and what the teacher was shown. */

let pair = [null, null]; // entries of the list: the chosen one, and the one beside it

async function showAttempt(entry, beside = null) {
  pair = [entry, beside];
  const attempts = await Promise.all(pair.filter(Boolean).map(whole));
  if (pair[0] !== entry || pair[1] !== beside) return; // another one was chosen meanwhile
  hideCard();
  byId("shown").className = beside ? "two" : "";
  byId("shown").replaceChildren(besideChoice(entry, beside), ...attempts.map(attemptView));
  for (const mark of byId("shown").querySelectorAll("pre mark")) { // into sight
    mark.parentElement.scrollTop = mark.offsetTop - mark.parentElement.offsetTop - 40;
  }
}

/* Before and after: which other attempt at the same question stands beside this one. */
function besideChoice(entry, beside) {
  const same = entries.filter((other) => other.question === entry.question && other !== entry);
  const bar = node("div", { className: "beside" });
  if (!same.length) return bar;
  const label = (other) => `${runName(other)}step ${other.step}, attempt ${other.index}: ${other.success ? "solved" : "failed"}${other.gain === null ? "" : ", scored"}`;
  const choice = node("select", {}, new Option("nothing", ""), ...same.map((other, place) => new Option(label(other), String(place), false, other === beside)));
  choice.onchange = () => showAttempt(entry, same[Number(choice.value)] && choice.value !== "" ? same[Number(choice.value)] : null);
  const usable = same.filter((other) => other.gain !== null);
  const from = usable.length ? usable : same;
  const quick = (text, pick) => {
    const button = node("button", { type: "button", textContent: text });
    button.onclick = () => showAttempt(entry, pick());
    return button;
  };
  bar.append(
    node("label", {}, "The same question beside it ", choice),
    quick("Earliest", () => from.reduce((best, other) => (other.step < best.step ? other : best))),
    quick("Latest", () => from.reduce((best, other) => (other.step >= best.step ? other : best))),
  );
  return bar;
}

const runName = (entry) => (content.runs.length > 1 ? `${head.names[entry.run]}, ` : "");
const ENDINGS = { stop: "ended by itself", length: "cut at the length limit", abort: "aborted" };

function attemptView(attempt) {
  const badge = node("span", { className: `badge ${attempt.success ? "solved" : "failed"}`, textContent: attempt.success ? "✓ solved" : "✗ failed" });
  const title = node("h3", {});
  appendVisible(title, attempt.question);
  title.append(" ", badge);
  const facts = [
    `${runName(attempt)}step ${attempt.step}`, `attempt ${attempt.index}`, `reward ${brief(attempt.reward, 3)}`,
    `${attempt.tokens} tokens, ${ENDINGS[attempt.finish] ?? attempt.finish}`,
    attempt.version === null ? "" : `policy version ${attempt.version}`,
    attempt.format_ok ? "" : "no answer could be read",
    attempt.gain === null || attempt.gain === undefined ? "" : `mean log q − log π ${nats(attempt.gain)} nats`,
  ].filter(Boolean);
  const view = node("article", { className: "attempt" }, title, node("p", { className: "faint", textContent: facts.join(" · ") }));
  if (attempt.gap) view.append(legend(), tokenView(attempt));
  else {
    view.append(visible("pre", "plain", attempt.pieces.join("")));
    view.append(node("p", { className: "faint", textContent: "The teacher's view of this attempt was not kept: run.report_attempts says of how many it is." }));
  }
  const feedback = attempt.feedback
    ? visible("pre", "", attempt.feedback)
    : node("p", { className: "faint", textContent: attempt.success ? "None: it is solved." : "The environment said nothing." });
  view.append(part("Verdict and feedback", true, feedback,
    attempt.reveals ? node("p", { className: "note", textContent: "This feedback holds the expected answer." }) : "",
    visible("p", "faint", attempt.details)));
  if (attempt.teacher_prompt) view.append(part("What the teacher was shown", true, markedPrompt(attempt.teacher_prompt, attempt.prompt)));
  view.append(part("What the student was asked", false, visible("pre", "", attempt.prompt)));
  return view;
}

function part(title, open, ...children) {
  return node("details", { open }, node("summary", { textContent: title }), ...children);
}
