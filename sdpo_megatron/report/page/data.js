/* What the page holds: some facts at once, the rest deflated, attempts in blocks that are inflated when looked at. */

const byId = (id) => document.getElementById(id);
const head = JSON.parse(byId("head").textContent);
const BLOCKS_KEPT = 24;
const inflated = new Map();
let content = null;

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

/* The attempts of a block; the ones last looked at are kept. */
async function block(run, number) {
  const id = `block-${run}-${number}`;
  const found = inflated.get(id) ?? unpacked(id);
  inflated.delete(id);
  inflated.set(id, found);
  if (inflated.size > BLOCKS_KEPT) inflated.delete(inflated.keys().next().value);
  return found;
}

/* All attempts of all runs, as the list shows them. */
function indexed() {
  return content.attempts.flatMap(({ columns }, run) => {
    const names = Object.keys(columns);
    return columns.step.map((_, row) => {
      const entry = { run };
      for (const name of names) entry[name] = columns[name][row];
      return entry;
    });
  });
}

async function whole(entry) {
  return { ...(await block(entry.run, entry.block))[entry.place], ...entry };
}
