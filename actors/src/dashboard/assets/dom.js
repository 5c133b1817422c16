// Elements, numbers and requests. Every text reaches the page as a text node: a model's answer is never markup.

/** An element. `props`: `class`, `title`, ..., `on*` are listeners; children are elements, texts, arrays, or nothing. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  add(element, children);
  return element;
}

export function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

export function fill(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

// Controls, terminal escapes, and characters that turn or hide text: shown by their number.
const ODD = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

/** Text of a model: odd characters are made visible. */
export function shown(text) {
  const parts = [];
  let last = 0;
  for (const match of text.matchAll(ODD)) {
    parts.push(text.slice(last, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    parts.push(h("span", { class: "odd", title: "a character that would not be seen" }, "U+" + code));
    last = match.index + match[0].length;
  }
  parts.push(text.slice(last));
  return parts;
}

let answered = 0;
/** When the last answer was there, as `performance.now()`. */
export const answeredAt = () => answered;

/** JSON from the server; an error has its parts in `parts`. */
export async function ask(path, signal) {
  const response = await fetch(path, { signal, headers: { accept: "application/json" } });
  if (response.status === 401) location.assign("/login");
  const text = await response.text();
  answered = performance.now();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Error(text || response.statusText);
  }
  if (response.ok) return body;
  const parts = body.error || { what: response.statusText };
  const lines = [parts.what];
  for (const name of ["where", "found", "expected", "hint"]) if (parts[name]) lines.push(name + ": " + parts[name]);
  throw new Error(lines.join("\n"));
}

export const dash = "\u2013";
export const count = (n) => (n === null || n === undefined ? dash : Math.round(n).toLocaleString("en"));
export const real = (x, digits = 3) => (x === null || x === undefined || Number.isNaN(x) ? dash : x.toFixed(digits));
export const share = (x) => (x === null || x === undefined ? dash : (100 * x).toFixed(1) + " %");
export const time = (ms) => (ms ? new Date(ms).toLocaleTimeString("en-GB") : dash);

/** A number of any size in few characters. */
export function brief(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return dash;
  const size = Math.abs(x);
  if (x !== 0 && (size < 1e-3 || size >= 1e6)) return x.toExponential(1);
  return size >= 100 ? x.toFixed(0) : Number(x.toPrecision(3)).toString();
}

const GOOD = new Set(["passed", "trained", "evaluated"]);
const BAD = new Set(["faulted", "unscored", "group_too_small", "learner_failed", "unparsed", "rejected", "compile_error", "crashed", "out_of_memory", "timed_out", "wrong_answer", "implausible"]);

/** A verdict, a state or an ending as a pill. */
export function badge(word) {
  if (!word) return dash;
  return h("span", { class: "pill " + (GOOD.has(word) ? "good" : BAD.has(word) ? "bad" : "") }, word);
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter((p) => p).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

export const link = (id) => h("a", { href: "#/rollout/" + id }, String(id));
export const card = (title, ...children) => h("section", { class: "card" }, title && h("h2", {}, title), children);
