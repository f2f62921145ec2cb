// The panel of a node: its numbers, the examples of a latent, and the effects on the node and of it.
"use strict";

const N_EFFECTS = 12, N_EXAMPLES = 3;

function effectList(graph, title, hint, edges, other, on) {
  const sorted = [...edges].sort((a, b) => Math.abs(graph.effect[b]) - Math.abs(graph.effect[a]));
  const largest = sorted.length ? Math.abs(graph.effect[sorted[0]]) : 1;
  const rows = sorted.slice(0, N_EFFECTS).map((i) => {
    const own = graph.nodes[other[i]], share = Math.abs(graph.effect[i]) / graph.rows[graph.target[i]];
    return el("tr", { "data-tip": `${graph.name(own)}\n${graph.effect[i]}, ${format.share(share)} of all effects on its target` },
      el("th", { scope: "row" }, el("button", { type: "button", class: "link", "aria-label": graph.name(own), onclick: () => on.select(own.index, true) }, graph.short(own), el("small", { class: "soft" }, graph.place(own, true)))),
      el("td", { class: "bar", "aria-hidden": "true" }, el("i", { class: graph.effect[i] < 0 ? "negative" : null, style: { width: `${100 * Math.abs(graph.effect[i]) / largest}%` } })),
      el("td", { class: "number" }, format.number(graph.effect[i])));
  });
  const more = sorted.length > N_EFFECTS ? el("p", { class: "soft" }, `and ${sorted.length - N_EFFECTS} smaller`) : null;
  return el("section", {}, el("h2", {}, title, " ", el("small", {}, hint)),
    rows.length ? el("table", { class: "pairs", "aria-label": title }, el("tbody", {}, rows)) : el("p", { class: "soft" }, "None in the pruned graph."), more);
}

function nodePanel(graph, pruned, own, pinned, on) {
  const facts = [["value", format.number(own.value)], ["influence", format.share(own.influence)]];
  if (own.kind === "target") facts.push(["weight", format.share(own.weight)]);
  const alive = (list) => list.filter((i) => pruned.alive[i] && pruned.keep[graph.source[i]] && pruned.keep[graph.target[i]]);
  const examples = el("section", { class: "of-latent" });
  if (own.latent !== null) showExamples(graph, own, examples);
  return el("article", { "aria-labelledby": "selected" },
    el("h2", { id: "selected", tabindex: -1 }, graph.name(own)),
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    el("p", {}, el("button", { type: "button", "aria-pressed": pinned, onclick: () => on.pin(own.index) }, pinned ? "Unpin" : "Pin", " ", el("kbd", {}, "p")), " ",
      el("button", { type: "button", onclick: () => on.select(null) }, "Close ", el("kbd", {}, "Esc"))), examples,
    ["latent", "target"].includes(own.kind) ? effectList(graph, "Inputs", "direct effects on this node", alive(graph.into[own.index]), graph.source, on) : null,
    own.kind === "target" ? null : effectList(graph, "Outputs", "direct effects of this node", alive(graph.from[own.index]), graph.target, on));
}

async function showExamples(graph, { layer, latent }, place) {
  if (!graph.sources[layer]) {
    place.append(el("p", { class: "soft" }, "There are no examples, since the layer has no pages of latents."));
    return;
  }
  try {
    const entries = await sparsedict.load(`latents/${layer}`), own = entries[latent];
    if (!own?.top.length) {
      place.append(el("p", { class: "soft" }, "There are no examples of this latent."));
      return;
    }
    const shown = own.top.map((one) => example(one, own.largest, null)), rest = shown.slice(N_EXAMPLES);
    place.append(el("h2", {}, "Examples ", el("small", {}, `strongest activations; ${own.is_strong ? `at least ${STRONG}` : "fires"} on ${format.share(own.share)} of the tokens`)),
      el("div", {}, shown.slice(0, N_EXAMPLES), rest.length ? el("details", {}, el("summary", {}, `${rest.length} more`), rest) : null));
  } catch (error) {
    place.append(el("p", { role: "alert" }, `${error.message}. Write the page again.`));
  }
}
