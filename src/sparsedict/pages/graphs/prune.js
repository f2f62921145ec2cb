// The graph of the page, and its pruning: the same algorithm as `AttributionGraph.pruned`.
"use strict";

const LETTERS = 12;

// Names without the parts that all layers have in common, so that short labels tell the layers apart.
function shortNames(names) {
  const parts = names.map((name) => name.split(".")), least = Math.min(...parts.map((own) => own.length)) - 1;
  const common = (at) => parts.every((own) => own.at(at) === parts[0].at(at));
  let start = 0, end = 0;
  if (names.length > 1) {
    while (start < least && common(start)) start += 1;
    while (end < least - start && common(-1 - end)) end += 1;
  }
  const own = parts.map((found) => found.slice(start, found.length - end).join("."));
  const cut = own.map((name) => /^\d+$/.test(name) ? `layer ${name}` : name.length > LETTERS ? `${name.slice(0, 4)}…${name.slice(-6)}` : name);
  return cut.map((name, layer) => cut.indexOf(name) === cut.lastIndexOf(name) ? name : `${layer}: …${own[layer].slice(-6)}`);
}

class Graph {
  constructor(data) {
    Object.assign(this, data);
    this.nodes = data.nodes.map(([kind, layer, position, latent, isNeuron, label, probability, value, influence, weight, before, dictionary], index) =>
      ({ index, kind, layer, position, latent, unit: isNeuron ? "neuron" : "latent", label, probability, value, influence, weight, before, dictionary }));
    this.shortLayers = shortNames(this.layers);
    this.units = ["latent", "neuron"].filter((unit) => this.nodes.some((own) => own.kind === "latent" && own.unit === unit));
    const n = data.edges.reduce((sum, [, pairs]) => sum + pairs.length / 2, 0);
    this.target = new Int32Array(n);
    this.source = new Int32Array(n);
    this.effect = new Float64Array(n);
    let at = 0;
    for (const [target, pairs] of data.edges) {
      for (let i = 0; i < pairs.length; i += 2, at += 1) {
        this.target[at] = target; this.source[at] = pairs[i]; this.effect[at] = pairs[i + 1];
      }
    }
    const n_nodes = this.nodes.length;
    this.rows = new Float64Array(n_nodes);
    this.into = Array.from({ length: n_nodes }, () => []);
    this.from = Array.from({ length: n_nodes }, () => []);
    for (let i = 0; i < n; i += 1) {
      this.rows[this.target[i]] += Math.abs(this.effect[i]);
      this.into[this.target[i]].push(i);
      this.from[this.source[i]].push(i);
    }
  }

  // The kept nodes and edges, and the score of each edge.
  pruned(node, edge) {
    const { nodes, target, source, effect } = this, n = effect.length;
    const fixed = nodes.map(({ kind }) => kind === "token" || kind === "target");
    const keep = nodes.map((own, i) => fixed[i] || (own.before < node && own.influence > 0));
    const sums = new Float64Array(nodes.length), total = Float64Array.from(nodes, (own) => own.weight);
    const inside = [];
    for (let i = 0; i < n; i += 1) {
      if (keep[target[i]] && keep[source[i]]) { inside.push(i); sums[target[i]] += Math.abs(effect[i]); }
    }
    // Edges lead from earlier nodes to later ones, and are ordered by their target.
    const score = new Float64Array(n);
    let all = 0;
    for (let k = inside.length - 1; k >= 0; k -= 1) {
      const i = inside[k];
      score[i] = sums[target[i]] ? total[target[i]] * Math.abs(effect[i]) / sums[target[i]] : 0;
      total[source[i]] += score[i];
      all += score[i];
    }
    const alive = new Uint8Array(n);
    let reached = 0;
    for (const i of inside.sort((a, b) => score[b] - score[a])) {
      if (!(reached < edge * all && score[i] > 0)) break;
      alive[i] = 1;
      reached += score[i];
    }
    this.removeLoose(keep, fixed, alive);
    const edges = inside.filter((i) => alive[i] && keep[target[i]] && keep[source[i]]);
    return { keep, edges, score, alive };
  }

  removeLoose(keep, fixed, alive) {
    const used = (list, end) => list.some((i) => alive[i] && keep[end[i]]);
    for (let changed = true; changed;) {
      const loose = this.nodes.filter(({ index, kind }) => keep[index] && !fixed[index]
        && (!used(this.from[index], this.target) || (kind === "latent" && !used(this.into[index], this.source))));
      changed = loose.length > 0;
      for (const { index } of loose) keep[index] = false;
    }
  }

  place({ kind, layer, position }, short = false) {
    const token = kind === "token" ? "" : ` on “${this.tokens[position]}”`;
    const where = position === null ? "" : `${token} (position ${position})`;
    if (layer === null) return where;
    const name = (short ? this.shortLayers : this.layers)[layer];
    return ` of ${/^\d+$/.test(name) ? `layer ${name}` : name}${where}`;
  }

  name(own) {
    const short = this.short(own);
    return own.kind === "target" && own.layer === null ? `${short}${this.place({ ...own, layer: null }).replace(" on ", " after ")}` : short + this.place(own);
  }

  short(own) {
    const { kind, latent, unit, label, position, probability, dictionary } = own;
    if (kind === "latent") return `${unit} ${latent}${dictionary === null ? "" : ` of dictionary ${dictionary}`}`;
    if (kind === "error") return "error term";
    if (kind === "token") return position === null ? label : `token “${label}”`;
    if (kind === "rest") return `remaining ${this.units.map((unit) => `${unit}s`).join(", ")} and errors`;
    return probability === null ? label : `logit of “${label}” (probability ${format.share(probability)})`;
  }
}
