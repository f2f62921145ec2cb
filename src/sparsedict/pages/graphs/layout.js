// Places the nodes: layers are rows, positions are columns. Nodes are buttons over a canvas with the edges.
"use strict";

const SIZE = 18, GAP = 12, LEFT = 84, MAX_LINES = 700, WIDEST = 4;

class Layout {
  constructor(graph, on) {
    this.graph = graph;
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.field = el("div", { class: "field", role: "group", "aria-label": "Nodes of the graph by layer and position. Arrow keys move, Enter selects, p pins." });
    this.scroller = el("div", { class: "scroller" }, el("div", { class: "sticky" }, this.canvas), this.field);
    this.buttons = graph.nodes.map((own) => el("button", {
      type: "button", class: `node ${own.kind}`, tabindex: -1, "data-index": own.index, "aria-label": graph.name(own),
      "data-tip": `${graph.name(own)}\nvalue ${format.number(own.value)}, influence ${format.share(own.influence)}`,
    }));
    const at = (event) => { const found = event.target.closest?.(".node"); return found ? +found.dataset.index : null; };
    this.field.addEventListener("click", (event) => { const own = at(event); if (own !== null) on.select(own); });
    this.field.addEventListener("pointerover", (event) => on.hover(at(event)));
    this.field.addEventListener("pointerleave", () => on.hover(null));
    this.field.addEventListener("focusin", (event) => { const own = at(event); if (own !== null) { this.rove(own); on.hover(own); } });
    this.field.addEventListener("keydown", (event) => this.key(event, at(event), on));
    this.scroller.addEventListener("scroll", () => this.request(), { passive: true });
    new ResizeObserver(() => this.request()).observe(this.scroller);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.request());
  }

  row(own) {
    if (own.kind === "target" && own.layer === null) return 0;
    return own.layer === null ? this.graph.layers.length + 1 : this.graph.layers.length - own.layer;
  }

  show(pruned) {
    this.pruned = pruned;
    const { graph } = this, shown = graph.nodes.filter(({ index }) => pruned.keep[index]);
    const columns = [...new Set(shown.map(({ position }) => position ?? -1))].sort((a, b) => a - b);
    const cells = new Map(), key = (own) => `${this.row(own)} ${own.position ?? -1}`;
    for (const own of shown) cells.set(key(own), [...(cells.get(key(own)) ?? []), own]);
    const widths = new Map(columns.map((column) => [column, 1])), lines = new Array(graph.layers.length + 2).fill(1);
    for (const [name, list] of cells) {
      const [row, column] = name.split(" ").map(Number);
      widths.set(column, Math.max(widths.get(column), Math.min(WIDEST, list.length)));
      lines[row] = Math.max(lines[row], Math.ceil(list.length / WIDEST));
    }
    const left = new Map(), top = [];
    let x = LEFT, y = GAP;
    for (const column of columns) { left.set(column, x); x += Math.max(44, widths.get(column) * SIZE) + GAP; }
    lines.forEach((n, row) => { top[row] = y; y += n * SIZE + 2 * GAP; });
    this.width = x;
    this.height = y + 20;
    this.centre = new Array(graph.nodes.length);
    this.order = [];
    for (const [name, list] of cells) {
      const [row, column] = name.split(" ").map(Number);
      list.sort((a, b) => b.influence - a.influence).forEach((own, i) => {
        const cx = left.get(column) + (i % WIDEST) * SIZE + SIZE / 2, cy = top[row] + Math.floor(i / WIDEST) * SIZE + SIZE / 2;
        this.centre[own.index] = [cx, cy];
        this.order.push({ index: own.index, row, x: cx, y: cy });
        const { style } = this.buttons[own.index];
        style.left = `${cx - 7}px`;
        style.top = `${cy - 7}px`;
      });
    }
    this.order.sort((a, b) => a.row - b.row || a.x - b.x || a.y - b.y);
    const short = ["targets", ...graph.shortLayers.toReversed(), "tokens"];
    const names = ["targets", ...graph.layers.toReversed(), "tokens"].map((name, row) =>
      el("span", { class: "row", style: { top: `${top[row]}px` }, title: name }, short[row]));
    const words = columns.map((column) => el("span", { class: "word", dir: "ltr", "data-tip": column < 0 ? "nodes that sum several positions" : `${graph.tokens[column]}\nposition ${column}, token ${graph.ids[column]}`,
      style: { left: `${left.get(column)}px`, top: `${y - 8}px`, width: `${Math.max(44, widths.get(column) * SIZE)}px` } }, column < 0 ? "(sums)" : graph.tokens[column]));
    Object.assign(this.field.style, { width: `${this.width}px`, height: `${this.height}px` });
    // A screen reader and Tab meet the nodes from the targets to the tokens.
    this.field.replaceChildren(el("div", { class: "names" }, names), ...words, ...this.order.map(({ index }) => this.buttons[index]));
    this.rove(this.order.some(({ index }) => index === this.current) ? this.current : this.order[0]?.index);
    this.request();
  }

  rove(index) {
    if (this.current !== undefined) this.buttons[this.current].tabIndex = -1;
    this.current = index;
    if (index !== undefined) this.buttons[index].tabIndex = 0;
  }

  key(event, index, on) {
    if (index === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const here = this.order.findIndex((own) => own.index === index), own = this.order[here];
    let next;
    if (event.key === "ArrowRight") next = this.order[here + 1];
    else if (event.key === "ArrowLeft") next = this.order[here - 1];
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const sign = event.key === "ArrowUp" ? -1 : 1, others = this.order.filter(({ y }) => (y - own.y) * sign > 0);
      const nearest = Math.min(...others.map(({ y }) => Math.abs(y - own.y)));
      next = others.filter(({ y }) => Math.abs(y - own.y) === nearest).sort((a, b) => Math.abs(a.x - own.x) - Math.abs(b.x - own.x))[0];
    } else if (event.key === "Home") next = this.order[0];
    else if (event.key === "End") next = this.order.at(-1);
    else if (event.key === "p") { on.pin(index); event.preventDefault(); return; } else return;
    event.preventDefault();
    if (next) this.buttons[next.index].focus();
  }

  // Marks the nodes of an edge with the hovered or selected node.
  mark({ focus, selected, pinned, group }) {
    const { graph, pruned } = this;
    this.focus = focus ?? selected;
    const near = new Set();
    if (this.focus !== null) {
      for (const i of graph.into[this.focus]) if (pruned.alive[i]) near.add(graph.source[i]);
      for (const i of graph.from[this.focus]) if (pruned.alive[i]) near.add(graph.target[i]);
    }
    for (const { index } of this.order) {
      const button = this.buttons[index];
      button.classList.toggle("near", near.has(index));
      button.classList.toggle("far", this.focus !== null && index !== this.focus && !near.has(index));
      button.classList.toggle("pinned", pinned.has(index));
      button.setAttribute("aria-pressed", index === selected);
      const number = group.get(index);
      if (button.textContent !== (number ?? "")) button.textContent = number ?? "";
    }
    this.request();
  }

  request() { this.waiting ??= requestAnimationFrame(() => { this.waiting = null; this.draw(); }); }

  draw() {
    const { graph, canvas, scroller, pruned, centre } = this;
    if (!pruned || !scroller.isConnected) return;
    const ratio = window.devicePixelRatio || 1, width = scroller.clientWidth, height = this.height;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    }
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.body);
    const colour = (name) => `rgb(${style.getPropertyValue(name)})`, positive = colour("--sparse"), negative = colour("--negative");
    pen.setTransform(ratio, 0, 0, ratio, -scroller.scrollLeft * ratio, 0);
    pen.clearRect(scroller.scrollLeft, 0, width, height);
    const line = (i, alpha, thickness) => {
      const [x1, y1] = centre[graph.source[i]], [x2, y2] = centre[graph.target[i]], middle = (y1 + y2) / 2;
      pen.globalAlpha = alpha;
      pen.lineWidth = thickness;
      pen.strokeStyle = graph.effect[i] < 0 ? negative : positive;
      pen.beginPath();
      pen.moveTo(x1, y1);
      pen.bezierCurveTo(x1, middle, x2, middle, x2, y2);
      pen.stroke();
    };
    const quiet = this.focus === null || this.focus === undefined;
    for (const i of pruned.edges.slice(0, MAX_LINES)) {
      const share = Math.abs(graph.effect[i]) / graph.rows[graph.target[i]];
      line(i, (quiet ? .12 : .04) + (quiet ? .5 : .1) * share, .6 + 3 * share);
    }
    if (quiet) return;
    for (const i of [...graph.into[this.focus], ...graph.from[this.focus]]) {
      if (!pruned.alive[i] || !centre[graph.source[i]] || !centre[graph.target[i]] || !pruned.keep[graph.source[i]] || !pruned.keep[graph.target[i]]) continue;
      const share = Math.abs(graph.effect[i]) / graph.rows[graph.target[i]];
      line(i, .45 + .5 * share, 1 + 6 * share);
    }
  }
}
