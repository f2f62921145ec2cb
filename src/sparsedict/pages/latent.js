// The page of one latent.
"use strict";

function example(own, largest, dictionary) {
  const [sequence, position, peak, tokens, active] = own;
  const values = new Map();
  for (let i = 0; i < active.length; i += 2) values.set(active[i], active[i + 1]);
  const spans = tokens.map((number, index) => {
    const value = values.get(index) ?? 0, text = sparsedict.strings[number] ?? "?";
    const classes = [index === peak && "peak", value < 0 && "negative", !text.trim() && "blank"].filter(Boolean).join(" ");
    const where = `token ${sparsedict.ids[number]}, position ${position - peak + index}`;
    return el("span", {
      class: classes || null, dir: "ltr", "data-tip": `${value} on “${text}”\n${where}`,
      style: value ? { "--a": Math.min(1, Math.abs(value) / (largest || 1)).toFixed(3) } : {},
    }, text);
  });
  const value = values.get(peak) ?? 0;
  const context = el("div", {
    class: "context", tabindex: 0, role: "group", dir: "ltr",
    "aria-label": `${format.number(value)} on ${sparsedict.strings[tokens[peak]]}, sequence ${sequence}. Arrow keys read the values.`,
  }, spans);
  let cursor = -1;
  context.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    spans[cursor]?.classList.remove("cursor");
    cursor = cursor < 0 ? peak : Math.max(0, Math.min(spans.length - 1, cursor + step));
    spans[cursor].classList.add("cursor");
    tip(spans[cursor].dataset.tip, spans[cursor]);
  });
  context.addEventListener("focus", () => tip(spans[peak]?.dataset.tip, spans[peak]));
  context.addEventListener("blur", () => { spans[cursor]?.classList.remove("cursor"); cursor = -1; });
  return el("div", { class: "example" },
    el("span", { class: "value", "data-tip": `${value}, sequence ${sequence}, position ${position}` }, format.number(value)), context);
}

function histogram(own, dictionary) {
  const { counts, low, width } = own.histogram, n = counts.length, high = low + n * width;
  const size = { width: 320, height: 130, top: 14, bottom: 22 }, plot = size.height - size.top - size.bottom;
  const scale = Math.log1p(Math.max(...counts)), x = (value) => (value - low) / (high - low) * size.width;
  const bars = counts.map((count, index) => {
    const height = count ? Math.max(1, Math.log1p(count) / scale * plot) : 0, left = index * size.width / n;
    const bin = `${format.number(low + index * width)} to ${format.number(low + (index + 1) * width)}: ${format.integer(count)} tokens`;
    return el("g", { "data-tip": bin },
      el("rect", { class: "hit", x: left, y: size.top, width: size.width / n, height: plot }),
      el("rect", { class: "bar", x: left + .5, y: size.top + plot - height, width: Math.max(.5, size.width / n - 1), height }));
  });
  const inner = own.quantiles.slice(1, -1);
  const label = `Histogram of the activations, from ${format.number(own.quantiles[0])} to ${format.number(own.quantiles.at(-1))}, bounds of quantiles ${inner.map(format.number).join(", ")}`;
  return el("svg", { class: "histogram", viewBox: `0 0 ${size.width} ${size.height}`, role: "img", "aria-label": label },
    inner.map((value) => el("line", { class: "quantile", x1: x(value), x2: x(value), y1: size.top - 8, y2: size.top + plot })),
    bars, el("line", { x1: 0, x2: size.width, y1: size.top + plot + .5, y2: size.top + plot + .5 }),
    el("text", { x: 0, y: size.height - 6 }, format.number(low)),
    el("text", { x: size.width, y: size.height - 6, "text-anchor": "end" }, format.number(high)));
}

// A table of things with a number and a bar.
function pairs(label, rows, largest) {
  return el("table", { class: "pairs", "aria-label": label }, el("tbody", {}, rows.map(([what, value, shown, hint]) =>
    el("tr", { "data-tip": hint }, el("th", { scope: "row" }, what), el("td", { class: "bar", "aria-hidden": "true" },
      el("i", { class: value < 0 ? "negative" : null, style: { width: `${Math.min(100, 100 * Math.abs(value) / (largest || 1))}%` } })),
    el("td", { class: "number" }, shown)))));
}

function effects(own) {
  if (!own.promoted) return null;
  const largest = Math.max(...[...own.promoted, ...own.suppressed].map(([, value]) => Math.abs(value)));
  const column = (name, list) => el("div", {}, el("h2", {}, name), el("table", { class: "pairs" }, el("tbody", {}, list.map(([number, value]) =>
    el("tr", { "data-tip": `token ${sparsedict.ids[number]}: ${value}` }, el("th", { scope: "row" }, token(number)),
      el("td", { class: "number" }, value.toFixed(2)))))));
  return el("section", { class: "two", "aria-label": "Direct effect on the logits", "data-largest": largest },
    column("Promotes", own.promoted), column("Suppresses", own.suppressed));
}

function link(name, latent, state) {
  const here = name === state.name ? state.with({ latent }) : new State(name, latent);
  return el("a", { href: here.address, "aria-label": name === state.name ? null : `${name} ${latent}` }, String(latent));
}

function related(own, dictionary, state) {
  const cosines = (title, list, name, hint) => list?.length ? el("section", {}, el("h2", {}, title, " ", el("small", {}, hint ?? "decoder cosine")),
    pairs(title, list.map(([latent, cosine]) => [name ? link(name, latent, state) : String(latent), cosine, format.cosine(cosine)]), 1)) : null;
  const others = Object.entries(own.others).map(([name, list]) => cosines(`Nearest in ${name}`, list, name));
  const partners = own.partners.length ? el("section", {}, el("h2", {}, "Fires with ", el("small", {}, "Jaccard index of the tokens")),
    pairs("Fires with", own.partners.map(([latent, jaccard, share]) =>
      [link(state.name, latent, state), jaccard, jaccard.toFixed(2), `fires on ${format.share(share)} of this latent’s tokens`]), 1)) : null;
  const norms = own.norms ? el("section", {}, el("h2", {}, "Decoder norms ", el("small", {}, "at each layer")),
    pairs("Decoder norms", layersOf(dictionary).map((layer, index) => [layer, own.norms[index], format.number(own.norms[index]), dictionary.points[index]]), Math.max(...own.norms))) : null;
  return [norms, dictionary.neurons === null && dictionary.points.length < 2 ? cosines("Nearest neurons", own.neurons, null) : null, ...others,
    cosines(`Nearest ${dictionary.units} here`, own.own, state.name), partners];
}

function facts(own, latent, dictionary, table) {
  const rows = dictionary.has.rarely_zero ? [] : [["fires on", `${format.share(table.frequency[latent])} (${format.integer(own.count)} ${own.count === 1 ? "token" : "tokens"})`]];
  rows.push([`at least ${STRONG} on`, format.share(table.strong[latent])]);
  if (own.count) rows.push(["activations", `${format.number(own.quantiles[0])} to ${format.number(own.quantiles.at(-1))}`]);
  const at = table.layer && layersOf(dictionary)[table.layer[latent]];
  if (at) rows.push(["largest decoder norm", `layer ${at}`]);
  if (dictionary.has.neuron && table.neuron[latent] !== null) rows.push(["nearest neuron", `${table.neuron[latent]}${at ? ` of layer ${at}` : ""} (cosine ${format.cosine(table.cosine[latent])})`]);
  for (const name of dictionary.scores) rows.push([name, format.number(table[name][latent])]);
  const words = (own.words ?? []).map(([name, text]) => el("div", { class: "sentence" }, el("dt", {}, name), el("dd", {}, text)));
  return el("dl", { class: "facts" }, rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))), words);
}

function latentPage(own, state, dictionary, table) {
  const largest = Math.max(Math.abs(own.quantiles[0]), Math.abs(own.quantiles.at(-1))), { latent } = state;
  const group = (title, hint, list) => el("section", {}, el("h2", {}, title, " ", el("small", {}, hint)),
    list.length ? list.map((one) => example(one, largest, dictionary)) : el("p", { class: "soft" }, "No example."));
  const bound = (index) => format.number(own.quantiles[index]), n = own.quantiles.length - 1;
  const strongest = el("div", { class: "examples" }, own.count ? group("Strongest examples", "one for each sequence", own.top)
    : el("p", { class: "soft" }, `It never fired on ${format.integer(dictionary.n_tokens)} tokens.`));
  const random = own.count ? own.random.map((list, index) => group(`Quantile ${index + 1} of ${n}`,
    `random tokens with activations from ${bound(index)} to ${bound(index + 1)}`, list)).reverse() : [];
  strongest.append(...random);
  return el("article", { class: `latent ${table.type[latent]}`, "aria-labelledby": "latent" },
    el("header", {}, el("h1", { id: "latent", tabindex: -1 }, `${dictionary.unit} ${latent}`), el("span", { class: `kind ${table.type[latent]}` }, table.type[latent])),
    facts(own, latent, dictionary, table), strongest,
    el("aside", { "aria-label": "Activations and tokens" }, own.count ? [el("h2", {}, "Activations ", el("small", {}, dictionary.has.rarely_zero ? "all tokens, log scale" : "tokens on which it fires, log scale")), histogram(own, dictionary)] : [],
      effects(own)), el("aside", { class: "related", "aria-label": "Related" }, related(own, dictionary, state)));
}
