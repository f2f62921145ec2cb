// The state of a list of latents: its address, its search, filters and order.
"use strict";

// The columns of a dictionary's table: those of every dictionary, then its scores.
function columnsOf(dictionary) {
  const own = [
    { key: "latent", label: dictionary.unit, kind: "integer", width: "4.2rem" },
    { key: "top", label: "strongest on", kind: "words", width: "minmax(7rem, 1.4fr)" },
    dictionary.has.promoted && { key: "promoted", label: "promotes", kind: "words", width: "minmax(6rem, 1fr)" },
    { key: "type", label: "type", kind: "type", width: "7rem" },
    dictionary.points.length > 1 && { key: "layer", label: "layer", kind: "layer", width: "5rem" },
    // Units that are almost never 0 fire on all tokens, which says nothing about them.
    !dictionary.has.rarely_zero && { key: "frequency", label: "fires on", kind: "share", width: "5.2rem" },
    { key: "strong", label: "over 10 %", kind: "share", width: "5.2rem", hint: `tokens with at least ${STRONG}` },
    { key: "max", label: "maximum", kind: "number", width: "5.2rem" },
    dictionary.has.neuron && { key: "neuron", label: "neuron", kind: "integer", width: "4.4rem" },
    dictionary.has.neuron && { key: "cosine", label: "cosine", kind: "cosine", width: "4rem" },
  ];
  const scores = dictionary.scores.map((name) => ({ key: name, label: name, kind: "score", width: `${Math.max(5, .5 * name.length + 1.3)}rem` }));
  return [...own.filter(Boolean), ...scores];
}

// Columns by importance, for windows that are too narrow for all of them.
function byImportance(columns) {
  const share = columns.some((column) => column.key === "frequency") ? ["frequency", "strong"] : ["strong", "frequency"];
  const order = ["latent", "top", "type", "max", share[0], null, "layer", "cosine", "promoted", "neuron", share[1]];
  const rank = (column) => order.indexOf(column.kind === "score" ? null : column.key);
  return [...columns].sort((a, b) => rank(a) - rank(b));
}

// The smallest width of a column in rem, with the gap beside it.
const spaceOf = (column) => parseFloat(column.width.replace("minmax(", "")) + 1;

const isNumeric = (column) => !["words", "type", "layer"].includes(column.kind);

// The names of the points that a dictionary writes, without the role if it is the same everywhere.
function layersOf(dictionary) {
  const parts = dictionary.points.map((point) => [point.slice(0, point.lastIndexOf(".")), point.slice(point.lastIndexOf(".") + 1)]);
  return parts.every(([layer, role]) => layer && role === parts[0][1]) ? parts.map(([layer]) => layer) : dictionary.points;
}

// A filter is written in percent where the column is shown in percent.
const scaleOf = (column) => column.kind === "share" ? 100 : 1;

class State {
  constructor(name, latent = null, parameters = new URLSearchParams()) {
    this.name = name;
    this.latent = latent;
    this.problem = null;
    this.q = parameters.get("q") ?? "";
    this.type = parameters.get("type") ?? "";
    this.layer = parameters.get("layer") ?? "";
    this.sort = parameters.get("sort") ?? "latent";
    this.row = parameters.get("row");
    this.columns = parameters.has("column") ? parameters.getAll("column") : null;
    this.ranges = {};
    for (const [key, value] of parameters) {
      if (key.startsWith("min.") || key.startsWith("max.")) this.ranges[key] = value;
    }
  }

  // The state of an address. One that names nothing has a problem, and the list of a dictionary.
  static read(hash, dictionaries) {
    const [path, query] = hash.replace(/^#\/?/, "").split("?");
    const [name, latent] = path.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
    const found = dictionaries.find((own) => own.name === name), dictionary = found ?? dictionaries[0];
    const exists = (found || !name) && /^\d+$/.test(latent ?? "") && Number(latent) < dictionary.n;
    const state = new State(dictionary.name, exists ? Number(latent) : null, new URLSearchParams(query ?? ""));
    if (!found && name) state.problem = `There is no dictionary ${name}. Choose one above.`;
    else if (!exists && latent) state.problem = `There is no ${dictionary.unit} ${latent}. ${dictionary.name} has the ${dictionary.units} 0 to ${dictionary.n - 1}.`;
    return state;
  }

  with(changes) {
    return Object.assign(Object.create(State.prototype), this, changes);
  }

  get address() {
    const parameters = new URLSearchParams();
    if (this.q) parameters.set("q", this.q);
    if (this.type) parameters.set("type", this.type);
    if (this.layer) parameters.set("layer", this.layer);
    if (this.sort !== "latent") parameters.set("sort", this.sort);
    for (const [key, value] of Object.entries(this.ranges)) if (value !== "") parameters.set(key, value);
    for (const key of this.columns ?? []) parameters.append("column", key);
    if (this.row && this.latent === null) parameters.set("row", this.row);
    const query = parameters.toString();
    const latent = this.latent === null ? "" : `/${this.latent}`;
    return `#/${encodeURIComponent(this.name)}${latent}${query ? `?${query}` : ""}`;
  }
}

// Returns a function from a latent to whether it matches one term of a search.
function matcher(term, table, columns) {
  const compared = /^(.+?)(<=|>=|<|>|=)(-?[\d.]+(?:e[+-]?\d+)?)(%?)$/i.exec(term);
  const column = compared && columns.find((own) => isNumeric(own)
    && [own.key, own.label].some((name) => name.toLowerCase().replaceAll(" ", "") === compared[1].toLowerCase()));
  if (column) {
    const limit = Number(compared[3]) / (compared[4] ? 100 : scaleOf(column)), values = table[column.key];
    const test = { "<": (x) => x < limit, ">": (x) => x > limit, "<=": (x) => x <= limit, ">=": (x) => x >= limit,
      "=": (x) => x === limit }[compared[2]];
    return (latent) => values[latent] !== null && test(values[latent]);
  }
  const text = /^".+"$/.test(term) ? term.slice(1, -1) : term;
  const folds = text === text.toLowerCase();
  const found = sparsedict.strings.map((own) => (folds ? own.toLowerCase() : own).includes(text));
  const lists = columns.filter((own) => own.kind === "words").map((own) => table[own.key]);
  return (latent) => lists.some((list) => list[latent].some((number) => found[number]));
}

// Removes the spaces within comparisons such as "fires on > 1 %", so that each is one term.
function joined(search, columns) {
  const names = columns.filter(isNumeric).flatMap((column) => [column.key, column.label]);
  for (const name of new Set(names)) {
    const words = name.split(" ").map((word) => word.replace(/[^\w]/g, "\\$&")).join("\\s*");
    const comparison = new RegExp(`(^|\\s)${words}\\s*(<=|>=|<|>|=)\\s*(-?[\\d.]+(?:e[+-]?\\d+)?)\\s*(%?)(?=\\s|$)`, "gi");
    search = search.replace(comparison, (_, start, ...parts) => start + name.replaceAll(" ", "") + parts.slice(0, 3).join(""));
  }
  return search;
}

// The latents of a list in their order.
function select(state, table, columns) {
  const terms = joined(state.q, columns).match(/"[^"]+"(?=\s|$)|\S+/g) ?? [];
  const numbers = terms.filter((term) => /^#?\d+$/.test(term)).map((term) => Number(term.replace("#", "")));
  const tests = terms.filter((term) => !/^#?\d+$/.test(term)).map((term) => matcher(term, table, columns));
  if (numbers.length) tests.push((latent) => numbers.includes(latent));
  if (state.type) tests.push((latent) => table.type[latent] === state.type);
  if (state.layer && table.layer) tests.push((latent) => table.layer[latent] === Number(state.layer));
  for (const [key, value] of Object.entries(state.ranges)) {
    const column = columns.find((own) => own.key === key.slice(4)), limit = Number(value) / (column ? scaleOf(column) : 1);
    if (!column || value === "" || Number.isNaN(limit)) continue;
    const values = table[column.key], sign = key.startsWith("min.") ? 1 : -1;
    tests.push((latent) => values[latent] !== null && sign * (values[latent] - limit) >= 0);
  }
  const found = table.latent.filter((latent) => tests.every((test) => test(latent)));
  const descends = state.sort.startsWith("-"), column = columns.find((own) => own.key === state.sort.replace(/^-/, ""));
  if (!column || (column.key === "latent" && !descends)) return found;
  const values = column.kind === "words" ? table[column.key].map((own) => sparsedict.strings[own[0]] ?? null)
    : table[column.key];
  const sign = descends ? -1 : 1;
  return found.sort((a, b) => {
    const x = values[a], y = values[b];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return (x < y ? -sign : x > y ? sign : 0) || a - b;
  });
}
