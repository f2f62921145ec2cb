// The list of latents. Only the rows in view exist, so a list of any length stays quick.
"use strict";

class List {
  constructor(state, dictionary, table) {
    this.state = state;
    this.dictionary = dictionary;
    this.table = table;
    this.columns = columnsOf(dictionary);
    this.rows = new Map();
    this.body = el("div", { class: "rows", role: "rowgroup" });
    this.count = el("output", { "aria-live": "polite" });
    this.header = el("div", { role: "rowgroup", class: "head" });
    this.chooser = el("details", { class: "filters columns" });
    this.grid = el("div", { role: "grid", "aria-label": `${dictionary.units} of ${dictionary.name}` }, this.header, this.body);
    this.element = el("div", {}, this.tools(), this.grid);
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.redraw = () => this.draw();
    this.resize = () => { if (this.layout()) this.show(); else this.draw(); };
    window.addEventListener("scroll", this.redraw, { passive: true });
    window.addEventListener("resize", this.resize);
  }

  close() {
    window.removeEventListener("scroll", this.redraw);
    window.removeEventListener("resize", this.resize);
  }

  // Chooses the columns: those of the address, or as many as fit, the most important first. Returns whether they changed.
  layout() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const narrow = window.matchMedia("(max-width: 46rem)").matches, sorted = this.state.sort.replace(/^-/, "");
    const always = (column) => ["latent", "top", sorted].includes(column.key), { columns } = this.state;
    let shown = this.columns.filter((column) => always(column) || columns?.includes(column.key));
    if (!columns) {
      const room = this.element.clientWidth / rem - .8;
      for (const column of byImportance(this.columns)) {
        const space = [...shown, column].reduce((sum, own) => sum + spaceOf(own), -1);
        const rare = ["promoted", "neuron", this.dictionary.has.rarely_zero ? "frequency" : "strong"].includes(column.key);
        const fits = narrow ? !rare : space <= room;
        if (!shown.includes(column) && fits) shown.push(column);
      }
      shown = this.columns.filter((column) => shown.includes(column));
    }
    const layout = JSON.stringify([narrow, sorted, shown.map((column) => column.key)]);
    if (layout === this.laid) return false;
    this.laid = layout;
    this.shown = shown;
    this.grid.style.setProperty("--columns", shown.map((column) => column.width).join(" "));
    this.grid.style.minWidth = narrow ? "" : `${shown.reduce((sum, column) => sum + spaceOf(column), -1) + .8}rem`;
    // In a narrow window, a row has a line for the latent and its tokens, and lines for the values.
    const values = shown.filter((column) => !["latent", "top"].includes(column.key)), width = this.element.clientWidth / rem;
    let lines = 1, used = 0;
    for (const column of values) {
      const own = column.kind === "words" ? width : .45 * column.label.length + 3.4;
      if (used + own > width) { lines += 1; used = 0; }
      used += own;
    }
    this.grid.style.setProperty("--row", narrow ? `${(1.7 + 1.2 * lines).toFixed(2)}rem` : "");
    this.header.replaceChildren(this.head());
    this.chooser.replaceChildren(...this.choices());
    return true;
  }

  choices() {
    const shown = new Set(this.shown.map((column) => column.key));
    const toggle = (key) => {
      if (!shown.delete(key)) shown.add(key);
      this.change({ columns: [...shown] });
      this.chooser.querySelector(`input[data-column="${CSS.escape(key)}"]`)?.focus();
    };
    const boxes = this.columns.filter((column) => !["latent", "top"].includes(column.key)).map((column) => el("label", {},
      el("input", { type: "checkbox", "data-column": column.key, checked: shown.has(column.key), onchange: () => toggle(column.key) }), ` ${column.label}`));
    const reset = this.state.columns && el("button", { type: "button", onclick: () => this.change({ columns: null }) }, "fit to the window");
    return [el("summary", {}, `Columns (${shown.size} of ${this.columns.length})`), el("div", { class: "choices" }, boxes, reset)];
  }

  tools() {
    const { state, dictionary } = this;
    const change = (changes) => this.change(changes);
    this.search = el("input", {
      type: "search", value: state.q, "aria-label": `Search ${dictionary.units}`, spellcheck: "false",
      placeholder: "Number, token, or a score such as max>2", autocomplete: "off", enterkeyhint: "search",
      oninput: (event) => change({ q: event.target.value }),
    });
    const options = [["", "all types"], ...dictionary.types.map(([name, n]) => [name, `${name} (${format.integer(n)})`])];
    const type = el("select", { "aria-label": "Type", onchange: (event) => change({ type: event.target.value }) },
      options.map(([value, label]) => el("option", { value, selected: value === state.type }, label)));
    const layers = dictionary.points.length > 1 && el("select", { "aria-label": "Layer", onchange: (event) => change({ layer: event.target.value }) },
      [["", "all layers"], ...layersOf(dictionary).map((name, index) => [String(index), `layer ${name}`])].map(([value, label]) =>
        el("option", { value, selected: value === state.layer }, label)));
    const sort = el("select", { class: "sorted", "aria-label": "Order", onchange: (event) => change({ sort: event.target.value }) },
      this.columns.flatMap((column) => [[column.key, "↑"], [`-${column.key}`, "↓"]].map(([value, arrow]) =>
        el("option", { value, selected: value === state.sort }, `${column.label} ${arrow}`))));
    const range = (column) => el("fieldset", { class: "range" },
      el("legend", { class: "hidden" }, column.label), el("span", { "aria-hidden": "true" }, column.label + (scaleOf(column) > 1 ? " (%)" : "")),
      ["min", "max"].map((side) => el("input", {
        type: "number", step: "any", placeholder: side, "aria-label": `${side === "min" ? "Smallest" : "Largest"} ${column.label}`,
        value: state.ranges[`${side}.${column.key}`],
        oninput: (event) => change({ ranges: { ...this.state.ranges, [`${side}.${column.key}`]: event.target.value } }),
      })));
    const filters = el("details", { class: "filters", open: Object.values(state.ranges).some(Boolean) },
      el("summary", {}, "Filters"), el("div", { class: "ranges" }, this.columns.filter((own) => isNumeric(own) && own.key !== "latent").map(range)));
    return el("div", { class: "tools", role: "search" }, this.search, type, layers, sort, this.count, filters, this.chooser);
  }

  head() {
    return el("div", { role: "row", "aria-rowindex": 1 }, this.shown.map((column) =>
      el("span", { role: "columnheader", class: column.key === "latent" ? "first" : isNumeric(column) ? "number" : null, "data-key": column.key, "data-tip": column.hint },
        el("button", { type: "button", tabindex: "0", onclick: () => this.order(column) }, column.label))));
  }

  // The first click on a column shows the largest values first, except for numbers of latents and for words.
  order(column) {
    const { sort } = this.state, first = isNumeric(column) && column.key !== "latent" ? `-${column.key}` : column.key;
    const second = first.startsWith("-") ? column.key : `-${column.key}`;
    this.change({ sort: sort === first ? second : first });
  }

  change(changes) {
    this.state = this.state.with({ row: null, ...changes });
    history.replaceState(null, "", this.state.address);
    this.show();
  }

  show() {
    this.layout();
    const { state, columns, dictionary } = this;
    this.order_ = select(state, this.table, columns);
    this.active = Math.max(0, this.order_.indexOf(Number(state.row ?? -1)));
    const key = state.sort.replace(/^-/, ""), n = this.order_.length;
    for (const cell of this.grid.querySelectorAll("[data-key]")) {
      if (cell.dataset.key === key) cell.setAttribute("aria-sort", state.sort.startsWith("-") ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      const column = columns.find((own) => own.key === cell.dataset.key);
      const arrow = cell.dataset.key !== key ? "" : state.sort.startsWith("-") ? " ↓" : " ↑";
      cell.firstChild.textContent = column.label + arrow;
    }
    this.count.textContent = n === dictionary.n ? `${format.integer(n)} ${dictionary.units}` : `${format.integer(n)} of ${format.integer(dictionary.n)}`;
    this.grid.setAttribute("aria-rowcount", n + 1);
    this.rows.clear();
    this.body.replaceChildren();
    if (!n) this.body.append(el("p", { class: "empty" }, "Nothing matches. Change the search or the filters."));
    this.height = parseFloat(getComputedStyle(document.documentElement).fontSize) * parseFloat(getComputedStyle(this.grid).getPropertyValue("--row"));
    this.body.style.height = n ? `${n * this.height}px` : "auto";
    this.draw();
  }

  draw() {
    if (!this.order_?.length || !this.body.isConnected) return;
    const top = -this.body.getBoundingClientRect().top, spare = 6;
    const first = Math.max(0, Math.floor(top / this.height) - spare);
    const last = Math.min(this.order_.length, Math.ceil((top + window.innerHeight) / this.height) + spare);
    for (const [index, row] of this.rows) {
      if ((index < first || index >= last) && row !== document.activeElement) { row.remove(); this.rows.delete(index); }
    }
    for (let index = first; index < last; index++) {
      if (this.rows.has(index)) continue;
      const row = this.row(index);
      this.rows.set(index, row);
      this.body.append(row);
    }
  }

  row(index) {
    const latent = this.order_[index];
    const cells = this.shown.map((column) => this.cell(column, latent));
    return el("div", {
      role: "row", "aria-rowindex": index + 2, tabindex: index === this.active ? 0 : -1, "data-index": index,
      style: { top: `${index * this.height}px` }, onclick: () => this.open(index),
    }, cells);
  }

  cell(column, latent) {
    const { dictionary } = this;
    const value = this.table[column.key][latent];
    const attributes = { role: "gridcell", class: column.kind === "words" ? `words ${column.key}` : null };
    if (column.key === "latent") {
      return el("span", { ...attributes, class: "index" }, el("a", { href: this.state.with({ latent, row: null }).address, tabindex: -1, onclick: (event) => event.preventDefault() }, String(latent)));
    }
    if (column.kind === "words") return el("span", attributes, value.map((number) => token(number)));
    if (column.kind === "layer") return el("span", { ...attributes, class: "layer", "data-label": "layer", "data-tip": `${layersOf(dictionary)[value]}: where its decoder norm is largest` }, layersOf(dictionary)[value]);
    if (column.kind === "type") return el("span", attributes, el("span", { class: `kind ${value}` }, value));
    const shown = column.kind === "score" ? format.number(value) : format[column.kind](value);
    return el("span", { ...attributes, class: `number ${column.kind} ${column.key === "neuron" ? "neuron" : ""} ${column.key === this.state.sort.replace(/^-/, "") ? "current" : ""}`, "data-label": column.key === "max" ? "max" : column.label }, shown);
  }

  open(index) {
    const latent = this.order_[index];
    this.state = this.state.with({ row: String(latent) });
    history.replaceState(null, "", this.state.address);
    location.hash = this.state.with({ latent }).address;
  }

  focus(index) {
    this.active = Math.max(0, Math.min(this.order_.length - 1, index));
    if (!this.order_.length) return;
    const top = this.body.getBoundingClientRect().top + this.active * this.height, margin = 60;
    if (top < margin) window.scrollBy(0, top - margin);
    else if (top + this.height > window.innerHeight - 10) window.scrollBy(0, top + this.height - window.innerHeight + 10);
    this.draw();
    for (const [own, row] of this.rows) row.tabIndex = own === this.active ? 0 : -1;
    this.rows.get(this.active)?.focus({ preventScroll: true });
  }

  key(event) {
    const page = Math.max(1, Math.floor(window.innerHeight / this.height) - 3);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) this.focus(this.active + steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.open(this.active);
    else return;
    event.preventDefault();
  }
}
