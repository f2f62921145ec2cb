"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const PREFIX = `sparsedict-ratings/${data.set}/`;
  let rater = "";
  let answers = new Map(); // grades by identifier, in the order of the answers
  let isBusy = false;

  /* Answers are kept in the browser, or by the server. Both return all answers after one is stored: the same rater may
     have the page open twice, and other answers than those of this window mustn't be lost. */
  const browserStore = {
    async load(name) {
      const text = localStorage.getItem(PREFIX + name);
      return text === null ? [] : JSON.parse(text);
    },
    async save(id, grade) {
      const rows = (await this.load(rater)).filter((row) => row.id !== id);
      if (grade !== null) rows.push({ id, grade, time: new Date().toISOString().replace(/\.\d+Z$/, "Z") });
      localStorage.setItem(PREFIX + rater, JSON.stringify(rows));
      return rows;
    },
  };
  const serverStore = {
    async load(name) {
      return (await request(`ratings?rater=${encodeURIComponent(name)}`)).ratings;
    },
    async save(id, grade) {
      return (await request("ratings", { rater, id, grade })).ratings;
    },
  };
  const store = data.store === "server" ? serverStore : browserStore;

  async function request(path, body) {
    const options = body === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    };
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      throw new Error("The server doesn't answer. Start `sparsedict rate` again and open its new address.");
    }
    const found = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(found.error || `The server answered with status ${response.status}.`);
    return found;
  }

  const byIdentifier = (rows) => new Map(rows.map((row) => [row.id, row]));
  const current = () => data.items.findIndex((item) => !answers.has(item.id));

  function element(tag, text, attributes = {}) {
    const made = document.createElement(tag);
    made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  function example([texts, peak]) {
    const row = document.createElement("li");
    row.dir = "auto";
    // Screen readers don't announce marks.
    row.append(element("span", `Strongest token: ${texts[peak]}. Text: `, { class: "visually-hidden" }));
    texts.forEach((text, index) => row.append(element(index === peak ? "mark" : "span", text)));
    return row;
  }

  function show(message) {
    const index = current();
    const isDone = index < 0;
    byId("start").hidden = true;
    byId("rating").hidden = isDone;
    byId("done").hidden = !isDone;
    byId("download-line").hidden = store !== browserStore || !answers.size;
    const n = data.items.length;
    byId("progress").max = n;
    byId("progress").value = answers.size;
    byId("count").textContent = `${answers.size} of ${n}`;
    byId("undo").disabled = byId("undo-last").disabled = !answers.size;
    byId("error").textContent = "";
    if (isDone) {
      const skipped = [...answers.values()].filter((row) => row.grade === "skip").length;
      const where = store === serverStore ? "The answers are stored." : "Download the answers now.";
      byId("summary").textContent = `${n - skipped} graded, ${skipped} skipped. ${where}`;
    } else {
      byId("heading").textContent = `Latent ${index + 1} of ${n}`;
      byId("examples").replaceChildren(...data.items[index].examples.map(example));
    }
    window.scrollTo(0, 0);
    byId(isDone ? "done-heading" : "heading").focus({ preventScroll: true });
    byId("status").textContent = message;
  }

  async function change(id, grade, message) {
    if (isBusy) return;
    isBusy = true;
    try {
      answers = byIdentifier(await store.save(id, grade));
      show(message);
    } catch (error) {
      byId("error").textContent = `The answer was not stored. ${error.message}`;
    } finally {
      isBusy = false;
    }
  }

  function answer(grade) {
    const index = current();
    if (index < 0) return;
    change(data.items[index].id, grade, grade === "skip" ? "Skipped." : `Graded ${grade}.`);
  }

  function undo() {
    const last = [...answers.keys()].pop();
    if (last !== undefined) change(last, null, "The last answer was removed.");
  }

  function download() {
    const content = {
      format: "sparsedict-ratings", version: 1, rater, set: data.set, ratings: [...answers.values()],
    };
    const url = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1) + "\n"], { type: "application/json" }));
    element("a", "", { href: url, download: `ratings-${rater}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  async function begin(name) {
    try {
      const rows = await store.load(name);
      rater = name;
      answers = byIdentifier(rows);
      sessionStorage.setItem(PREFIX, name);
      show(answers.size ? "Continuing." : "");
    } catch (error) {
      byId("start").hidden = false;
      byId("start-error").textContent = error.message;
    }
  }

  for (const { grade, name } of data.grades) {
    const button = element("button", "", { "aria-keyshortcuts": String(grade) });
    button.append(element("kbd", grade), element("span", name));
    button.addEventListener("click", () => answer(grade));
    byId("grades").append(button);
  }
  byId("skip").addEventListener("click", () => answer("skip"));
  byId("undo").addEventListener("click", undo);
  byId("undo-last").addEventListener("click", undo);
  byId("download").addEventListener("click", download);
  byId("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    begin(byId("rater").value);
  });
  document.addEventListener("keydown", (event) => {
    if (!rater || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (event.target instanceof HTMLInputElement) return;
    if (/^[0-4]$/.test(event.key)) answer(Number(event.key));
    else if (event.key === "s") answer("skip");
    else if (event.key === "u") undo();
    else if (event.key === "?") byId("rubric").open = !byId("rubric").open;
  });

  // Another window with this page stored an answer.
  window.addEventListener("storage", async (event) => {
    if (store !== browserStore || !rater || event.key !== PREFIX + rater) return;
    answers = byIdentifier(await store.load(rater));
    show("An answer of another window was added.");
  });

  const known = data.rater || sessionStorage.getItem(PREFIX);
  if (known) begin(known);
  else {
    byId("start").hidden = false;
    byId("rubric").open = true;
    byId("rater").focus();
  }
})();
