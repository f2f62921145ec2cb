// The page of an attribution graph: state, controls and keys.
"use strict";

const DEFAULTS = { node: .8, edge: .98 };

const app = { hover: null, selected: null, pinned: new Set(), groups: [], node: DEFAULTS.node, edge: DEFAULTS.edge };

function readState() {
  const { graph } = app, found = new URLSearchParams(location.hash.slice(1));
  const share = (name, most) => { const value = Number(found.get(name) ?? NaN); return value > 0 && value <= most ? value : Math.min(DEFAULTS[name], most); };
  const exists = (index) => Number.isInteger(index) && index >= 0 && index < graph.nodes.length;
  app.node = share("node", graph.widest);
  app.edge = share("edge", 1);
  const selected = Number(found.get("selected") ?? NaN);
  app.selected = exists(selected) ? selected : null;
  try {
    app.pinned = new Set(JSON.parse(found.get("pins") ?? "[]").filter(exists));
    app.groups = JSON.parse(found.get("groups") ?? "[]").map(([name, ...nodes]) => ({ name: String(name), nodes: nodes.filter((index) => app.pinned.has(index)) }));
  } catch { app.pinned = new Set(); app.groups = []; }
}

function writeState() {
  const found = new URLSearchParams({ node: app.node, edge: app.edge });
  if (app.selected !== null) found.set("selected", app.selected);
  if (app.pinned.size) found.set("pins", JSON.stringify([...app.pinned]));
  if (app.groups.length) found.set("groups", JSON.stringify(app.groups.map(({ name, nodes }) => [name, ...nodes])));
  history.replaceState(null, "", `#${found}`);
}

const on = {
  hover(index) { if (index !== app.hover) { app.hover = index; mark(); } },
  select(index, reveal = false) {
    app.selected = index === app.selected && !reveal ? null : index;
    writeState();
    mark();
    showPanel();
    if (!reveal || index === null) return;
    const button = app.layout.buttons[index];
    if (button.isConnected) button.scrollIntoView({ block: "nearest", inline: "nearest" });
    document.getElementById("selected")?.focus();
  },
  pin(index) {
    if (!app.pinned.delete(index)) app.pinned.add(index);
    on.regroup(app.groups.map(({ name, nodes }) => ({ name, nodes: nodes.filter((own) => app.pinned.has(own)) })));
    showPanel();
  },
  group(name, nodes) {
    const others = app.groups.map((own) => ({ name: own.name, nodes: own.nodes.filter((index) => !nodes.includes(index)) }));
    on.regroup([...others, { name, nodes }]);
  },
  ungroup(number) { on.regroup(app.groups.filter((_, index) => index !== number)); },
  regroup(groups) {
    app.groups = groups.filter(({ nodes }) => nodes.length);
    writeState();
    mark();
    app.pins.replaceChildren(pinsPanel(app.graph, app, on));
  },
};

function mark() {
  const group = new Map(app.groups.flatMap(({ nodes }, number) => nodes.map((index) => [index, String(number + 1)])));
  app.layout.mark({ focus: app.hover, selected: app.selected, pinned: app.pinned, group });
}

function showPanel() {
  const { graph, pruned, selected } = app;
  app.panel.replaceChildren(selected === null ? el("p", { class: "soft" }, "Hover over a node to see its edges. Click a node for its effects and examples.")
    : nodePanel(graph, pruned, graph.nodes[selected], app.pinned.has(selected), on));
}

function prune() {
  const { graph, layout } = app;
  app.pruned = graph.pruned(app.node, app.edge);
  // Pinned nodes are shown in any case.
  for (const index of app.pinned) app.pruned.keep[index] = true;
  layout.show(app.pruned);
  const n = app.pruned.keep.filter(Boolean).length;
  app.count.textContent = `${format.integer(n)} nodes, ${format.integer(app.pruned.edges.length)} edges`;
  mark();
  showPanel();
}

function slider(name, label, most, hint) {
  const shown = el("output", {}, format.share(app[name]));
  const input = el("input", { type: "range", min: .05, max: most, step: .01, value: Math.min(app[name], most), "aria-label": label, "data-tip": hint, id: name });
  input.addEventListener("input", () => {
    // The last step is the exact limit, which may lie between two steps.
    app[name] = most - input.value < .0101 ? most : Number(input.value);
    shown.textContent = format.share(app[name]);
    app.timer ??= requestAnimationFrame(() => { app.timer = null; prune(); writeState(); });
  });
  return el("label", { class: "slider" }, el("span", {}, label), input, shown);
}

const HELD = {
  nothing: "in the model itself",
  norms: "with held norms; attention patterns and MLPs respond",
  attention: "with held attention patterns; norms and MLPs respond",
  "attention, norms": "with held attention patterns and norms; MLPs respond as they are",
};

function numbers(graph) {
  const { facts, check } = graph, units = graph.units.map((unit) => `${unit}s`).join(" and ") || "latents";
  const share = (value) => value === null ? "–" : value.toFixed(3);
  const rows = [
    ["replacement score", share(facts.replacement), "share of the influence of sources that tokens have, rather than error terms"],
    ["completeness score", share(facts.completeness), "share of the direct effects that tokens and latents have"],
    ["nodes", `${format.integer(facts.n_nodes)}, of ${format.integer(facts.n_active)} active ${units}`, "nodes of the whole graph; the page has the most influential ones"],
    [`${units} with 80 % of the influence`, format.integer(facts.n_80), `number of the most influential ${units}`],
  ];
  if (check) {
    const what = `${check.n} ${check.factor === 0 ? "ablations" : `interventions, times ${check.factor}`}`;
    for (const [held, correlation, error] of check.measured) {
      rows.push([held === "nothing" ? what : `${held} held`, `correlation ${format.cosine(correlation)}, median error ${format.share(error)}`,
        `correlation and median relative error of the predicted changes ${HELD[held]}`]);
    }
    rows.push(["everything held", `median error ${check.frozen === null ? "–" : check.frozen.toExponential(1)}`, "median relative error if the active latents respond linearly, as in the graph; due to " + (check.is_pruned ? "removed nodes and edges" : "rounding")]);
  } else rows.push(["interventions", "not run", "the graph isn't checked"]);
  return el("dl", { class: "facts" }, rows.map(([name, value, hint]) => el("div", { "data-tip": hint }, el("dt", {}, name), el("dd", {}, value))));
}

async function start() {
  const page = document.getElementById("page");
  try {
    const graph = app.graph = new Graph(await sparsedict.load("graph"));
    [sparsedict.strings, sparsedict.ids] = await sparsedict.load("tokens");
    document.title = graph.title;
    readState();
    app.layout = new Layout(graph, on);
    app.panel = el("aside", { id: "panel", "aria-label": "Selected node", "aria-live": "polite" });
    app.pins = el("section", { id: "pins", "aria-label": "Pinned nodes" });
    app.count = el("output", { id: "count" });
    const prompt = el("p", { class: "prompt", "aria-label": "Prompt" }, graph.tokens.map((text) => [el("span", { class: "token", dir: "ltr" }, text), " "]));
    const key = el("p", { class: "key soft" }, ["latent", "error", "token", "target", "rest"].map((kind) => [el("i", { class: `node ${kind}` }), ` ${{ error: "error term", latent: graph.units.join(" or ") || kind }[kind] ?? kind} `]),
      el("b", { class: "positive" }, "positive"), " and ", el("b", { class: "negative" }, "negative"), " effects");
    page.replaceChildren(el("header", { class: "top" }, el("h1", {}, graph.title)), prompt, numbers(graph),
      el("div", { class: "tools", role: "group", "aria-label": "Pruning" }, slider("node", "Influence of nodes", graph.widest, "share of the influence that the shown nodes have"),
        slider("edge", "Influence of edges", 1, "share of the influence that the shown edges have"), app.count), key,
      el("main", { class: "graph" }, app.layout.scroller, app.panel), el("h2", {}, "Pinned nodes"), app.pins);
    prune();
    // The targets are at the right end.
    app.layout.scroller.scrollLeft = app.layout.width;
    on.regroup(app.groups);
  } catch (error) {
    page.replaceChildren(el("p", { role: "alert" }, `${error.message}. Write the page again.`));
  }
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && app.selected !== null) { const index = app.selected; on.select(null); app.layout.buttons[index].focus(); }
});
start();
