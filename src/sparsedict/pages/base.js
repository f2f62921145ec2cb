// Loads the data of the pages, and makes elements. A page from disk can't fetch files, so data comes as scripts.
"use strict";

const sparsedict = { received: new Map(), pending: new Map() };

// Every data file calls this function with its own name.
sparsedict.receive = (name, value) => sparsedict.received.set(name, value);

sparsedict.load = (name) => {
  const { received, pending } = sparsedict;
  if (received.has(name)) return Promise.resolve(received.get(name));
  if (!pending.has(name)) {
    pending.set(name, new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `data/${name}.js`;
      script.onload = () => {
        script.remove();
        if (received.has(name)) resolve(received.get(name));
        else reject(new Error(`data/${name}.js is damaged`));
      };
      script.onerror = () => { pending.delete(name); reject(new Error(`data/${name}.js is missing`)); };
      document.head.append(script);
    }));
  }
  return pending.get(name);
};

// Makes an element. Text children become text nodes, so no data is ever parsed as HTML.
function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "line", "text"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, own] of Object.entries(value)) made.style.setProperty(key, own);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const STRONG = "10 % of the largest magnitude";

const format = {
  number: (x) => x === null || x === undefined ? "–" : Math.abs(x) >= 1e5 || (x && Math.abs(x) < 1e-3)
    ? x.toExponential(2) : Number(x.toPrecision(4)).toString(),
  share: (x) => x === null ? "–" : x === 0 ? "0 %" : `${Number((100 * x).toPrecision(x < 1e-5 ? 1 : 3))} %`,
  cosine: (x) => x === null || x === undefined ? "–" : x.toFixed(2),
  integer: (x) => x === null ? "–" : x.toLocaleString("en"),
};

// A token as it is shown: white space and control characters are visible marks.
function token(number, attributes = {}) {
  return el("span", { class: "token", dir: "ltr", ...attributes }, sparsedict.strings[number] ?? "?");
}

function tip(text, target) {
  const box = document.getElementById("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  const at = target.getBoundingClientRect(), own = box.getBoundingClientRect();
  const above = at.top - own.height - 6, root = document.documentElement;
  const within = (start, size, room) => `${Math.max(4, Math.min(start, room - size - 4))}px`;
  box.style.left = within(at.left, own.width, root.clientWidth);
  box.style.top = within(above > 4 ? above : at.bottom + 6, own.height, window.innerHeight);
}

for (const [name, shows] of [["pointerover", true], ["focusin", true], ["pointerout", false], ["focusout", false]]) {
  document.addEventListener(name, (event) => {
    const target = event.target.closest?.("[data-tip]");
    if (target || !shows) tip(shows && target ? target.dataset.tip : "", target);
  });
}
document.addEventListener("scroll", () => tip(""), { passive: true });
