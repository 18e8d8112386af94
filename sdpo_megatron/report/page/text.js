/* Text of models and programs becomes text nodes, and what one could not see, or what would reorder it, is spelled out. */

const NAMES = {
  0x00ad: "SHY", 0x061c: "ALM", 0x200b: "ZWSP", 0x200e: "LRM", 0x200f: "RLM", 0x2028: "LSEP", 0x2029: "PSEP",
  0x202a: "LRE", 0x202b: "RLE", 0x202c: "PDF", 0x202d: "LRO", 0x202e: "RLO", 0x2060: "WJ",
  0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI", 0xfeff: "BOM", 0x7f: "DEL", 0x1b: "ESC", 0x0d: "CR",
};
const UNSEEN = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}])/u;

function unseenName(letter) {
  const code = letter.codePointAt(0);
  if (code === 0) return "NUL";
  return NAMES[code] ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

/* Appends text to a node. `breaks` also shows line feeds and tabs. */
function appendVisible(parent, text, breaks = false) {
  text.split(UNSEEN).forEach((part, index) => {
    if (index % 2) {
      parent.append(node("span", { className: "unseen", textContent: unseenName(part), title: "a character that is not seen" }));
    } else if (part) {
      parent.append(breaks ? part.replace(/\n/g, "↵\n").replace(/\t/g, "⇥\t") : part);
    }
  });
}

function visible(tag, className, text, breaks = false) {
  const made = node(tag, { className });
  appendVisible(made, text, breaks);
  return made;
}

/* A prompt, with what another one does not have marked: their common beginning and end are not. */
function markedPrompt(text, other) {
  const made = node("pre", {});
  let start = 0;
  while (start < text.length && start < other.length && text[start] === other[start]) start += 1;
  let end = 0;
  const most = Math.min(text.length, other.length) - start;
  while (end < most && text[text.length - 1 - end] === other[other.length - 1 - end]) end += 1;
  appendVisible(made, text.slice(0, start));
  if (start < text.length - end) {
    made.append(visible("mark", "", text.slice(start, text.length - end)));
    appendVisible(made, text.slice(text.length - end));
  }
  return made;
}
