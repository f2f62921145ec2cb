// Pinned nodes, their groups, and the direct effects between them.
"use strict";

// Effects between pinned nodes and groups: sums of direct effects.
function betweenPins(graph, pinned, groups) {
  const of = new Map();
  const units = groups.map((group) => ({ name: group.name, nodes: group.nodes }));
  const grouped = new Set(groups.flatMap((group) => group.nodes));
  for (const index of pinned) if (!grouped.has(index)) units.push({ name: graph.name(graph.nodes[index]), nodes: [index] });
  units.forEach((unit, number) => unit.nodes.forEach((index) => of.set(index, number)));
  const sums = new Map();
  for (const index of of.keys()) {
    for (const i of graph.into[index]) {
      const source = of.get(graph.source[i]), target = of.get(index);
      if (source === undefined || source === target) continue;
      sums.set(`${source} ${target}`, (sums.get(`${source} ${target}`) ?? 0) + graph.effect[i]);
    }
  }
  return [...sums].map(([key, effect]) => { const [source, target] = key.split(" ").map(Number); return { source: units[source].name, target: units[target].name, effect }; })
    .sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect));
}

function pinsPanel(graph, state, on) {
  const { pinned, groups } = state;
  if (!pinned.size) return el("p", { class: "soft" }, "Pin nodes to follow them while you prune, and to group those of one meaning.");
  const grouped = new Map(groups.flatMap((group) => group.nodes.map((index) => [index, group.name])));
  const boxes = [...pinned].map((index) => {
    const name = graph.name(graph.nodes[index]), box = el("input", { type: "checkbox", value: index, "aria-label": `Choose ${name}` });
    return el("li", {}, box, " ", el("button", { type: "button", class: "link", onclick: () => on.select(index, true) }, name),
      grouped.has(index) ? el("small", { class: "soft" }, ` in ${grouped.get(index)}`) : null, " ",
      el("button", { type: "button", class: "small", "aria-label": `Unpin ${name}`, onclick: () => on.pin(index) }, "×"));
  });
  const list = el("ul", { class: "pins" }, boxes);
  const name = el("input", { type: "text", "aria-label": "Name of the group", placeholder: "name of the group", maxlength: 60 });
  const make = el("form", { class: "tools", onsubmit: (event) => {
    event.preventDefault();
    const chosen = [...list.querySelectorAll("input:checked")].map((box) => +box.value);
    if (chosen.length) on.group(name.value.trim() || `group ${groups.length + 1}`, chosen);
    else name.focus();
  } }, name, el("button", { type: "submit" }, "Group the chosen nodes"));
  const made = groups.map((group, number) => el("li", {}, el("b", {}, `${number + 1} ${group.name}`), ` ${group.nodes.length} nodes `,
    el("button", { type: "button", class: "small", "aria-label": `Ungroup ${group.name}`, onclick: () => on.ungroup(number) }, "Ungroup")));
  const effects = betweenPins(graph, pinned, groups), largest = Math.abs(effects[0]?.effect ?? 1);
  return el("div", {}, list, make, groups.length ? el("ul", { class: "pins groups" }, made) : null,
    effects.length ? [el("h2", {}, "Effects between pinned nodes ", el("small", {}, "sums of direct effects")),
      pairs("Effects between pinned nodes", effects.map(({ source, target, effect }) => [`${source} → ${target}`, effect, format.number(effect), `${source} → ${target}: ${effect}`]), largest)] : null);
}
