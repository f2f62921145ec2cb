// Shows the list or the latent of the address, and the keys that work everywhere.
"use strict";

const app = { list: null, state: null, orders: new Map() };

const KEYS = [
  ["/", "search"], ["j k", "next and previous latent"], ["↑ ↓", "move in the list"], ["Enter", "open a latent"],
  ["← →", "read the values of an example"], ["Esc", "back to the list"], ["1 2 3", "another dictionary"], ["?", "this help"],
];

function frame(state, content) {
  const { manifest } = sparsedict;
  const nav = el("nav", { class: "dictionaries", "aria-label": "Dictionaries" }, manifest.dictionaries.map((own) =>
    el("a", { href: new State(own.name).address, "aria-current": own.name === state.name ? "page" : null, "data-tip": own.description },
      own.name, " ", el("small", {}, format.integer(own.n)))));
  const help = el("button", { type: "button", class: "keys", onclick: () => document.getElementById("help").showModal() }, "Keys ", el("kbd", {}, "?"));
  const dictionary = manifest.dictionaries.find((own) => own.name === state.name);
  const notes = el("footer", { class: "notes soft" }, [dictionary.description, ...dictionary.notes].map((note) => el("p", {}, note)));
  const top = state.latent === null ? el("h1", {}, manifest.title) : el("span", {}, manifest.title);
  document.getElementById("page").replaceChildren(
    el("header", { class: "top" }, top, el("span", { class: "end" }, help)), nav, el("main", { id: "main" }, content), notes);
}

async function show() {
  const { manifest } = sparsedict, before = app.state;
  const state = app.state = State.read(location.hash, manifest.dictionaries);
  const number = manifest.dictionaries.findIndex((own) => own.name === state.name), dictionary = manifest.dictionaries[number];
  app.list?.close();
  app.list = null;
  tip("");
  if (state.problem) {
    document.title = manifest.title;
    frame(state, el("p", { role: "alert" }, state.problem));
    return;
  }
  try {
    const table = await sparsedict.load(`${number}/table`);
    table.latent ??= Array.from({ length: dictionary.n }, (_, index) => index);
    if (app.state !== state) return;
    document.title = state.latent === null ? manifest.title : `${dictionary.unit} ${state.latent}, ${state.name}`;
    if (state.latent === null) showList(state, dictionary, table, before);
    else await showLatent(state, dictionary, table, number);
  } catch (error) {
    frame(state, el("p", { role: "alert" }, `${error.message}. Write the pages again.`));
  }
}

function showList(state, dictionary, table, before) {
  const list = app.list = new List(state, dictionary, table);
  frame(state, list.element);
  window.scrollTo(0, 0);
  list.show();
  if (state.row !== null) {
    window.scrollTo(0, list.body.offsetTop + list.active * list.height - window.innerHeight / 2);
    list.focus(list.active);
  } else if (before && before.name !== state.name) document.querySelector("[aria-current]")?.focus();
}

async function showLatent(state, dictionary, table, number) {
  const shard = Math.floor(state.latent / dictionary.per_shard);
  const found = await sparsedict.load(`${number}/${shard}`);
  if (app.state !== state) return;
  const order = select(state, table, columnsOf(dictionary)), at = order.indexOf(state.latent);
  const step = (index, label, ...shown) => index >= 0 && index < order.length && at >= 0
    ? el("a", { href: state.with({ latent: order[index] }).address, "aria-label": `${label} ${dictionary.unit}`, class: "step" }, shown) : null;
  const page = latentPage(found[state.latent - shard * dictionary.per_shard], state, dictionary, table);
  const back = el("a", { href: state.with({ latent: null, row: String(state.latent) }).address, id: "back" }, `all ${dictionary.units}`);
  page.querySelector("header").append(el("span", { class: "soft" }, back), el("span", {}, step(at - 1, "Previous", "← ", el("span", {}, "previous"))), el("span", {}, step(at + 1, "Next", el("span", {}, "next"), " →")));
  frame(state, page);
  window.scrollTo(0, 0);
  document.getElementById("latent").focus({ preventScroll: true });
  app.step = (direction) => { const next = order[at + direction]; if (at >= 0 && next !== undefined) location.hash = state.with({ latent: next }).address; };
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches?.("input, select, textarea"), { state } = app;
  if (event.key === "Escape") {
    if (typing && event.target.type === "search" && event.target.value) return;
    if (state.latent !== null) document.getElementById("back").click();
    else event.target.blur?.();
  } else if (typing) {
    if (event.key === "ArrowDown" || event.key === "Enter") { if (event.target.type === "search") { event.preventDefault(); app.list.focus(0); } }
  } else if (event.key === "/") {
    event.preventDefault();
    if (state.latent !== null) document.getElementById("back").click();
    requestAnimationFrame(() => setTimeout(() => app.list?.search.focus(), 30));
  } else if (event.key === "?") document.getElementById("help").showModal();
  else if (event.key === "j" || event.key === "k") {
    const direction = event.key === "j" ? 1 : -1;
    if (state.latent !== null) app.step(direction);
    else app.list?.focus(app.list.body.contains(document.activeElement) ? app.list.active + direction : app.list.active);
  } else if (/^[1-9]$/.test(event.key)) {
    const own = sparsedict.manifest.dictionaries[Number(event.key) - 1];
    if (own) location.hash = new State(own.name).address;
  }
}

async function start() {
  try {
    sparsedict.manifest = await sparsedict.load("manifest");
    [sparsedict.strings, sparsedict.ids] = await sparsedict.load("tokens");
  } catch (error) {
    document.getElementById("page").replaceChildren(el("p", { role: "alert" }, `${error.message}. Keep index.html beside its folder data.`));
    return;
  }
  const list = el("dl", {}, KEYS.flatMap(([key, what]) => [el("dt", {}, key.split(" ").map((own) => [el("kbd", {}, own), " "])), el("dd", {}, what)]));
  document.getElementById("help").append(el("h2", {}, "Keys"), list,
    el("p", { class: "soft" }, "A search takes numbers, tokens and limits such as max>2 or cosine>=0.8. Quotes around a term keep spaces."),
    el("form", { method: "dialog" }, el("button", {}, "Close")));
  window.addEventListener("hashchange", show);
  document.addEventListener("keydown", onKey);
  await show();
}

start();
