// Python, coloured by one expression; only the look depends on it.
import { h, shown } from "./dom.js";

const WORDS = "False None True and as assert async await break class continue def del elif else except finally for from global if import in is lambda nonlocal not or pass raise return try while with yield";
const KEYWORDS = new Set(WORDS.split(" "));
const PARTS = /("""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)|(#[^\n]*)|(@[A-Za-z_][\w.]*)|(\b\d[\w.]*)|([A-Za-z_]\w*)/g;

/** Lines of coloured code; `notes` maps a line number (from 1) to what is said about it. */
export function python(code, notes = new Map()) {
  const lines = [[]];
  const push = (kind, text) => {
    text.split("\n").forEach((part, n) => {
      if (n > 0) lines.push([]);
      if (part) lines[lines.length - 1].push(kind ? h("span", { class: kind }, shown(part)) : shown(part));
    });
  };
  let last = 0;
  for (const match of code.matchAll(PARTS)) {
    push("", code.slice(last, match.index));
    const [text, string, comment, decorator, number, word] = match;
    const kind = string ? "str" : comment ? "com" : decorator ? "dec" : number ? "num-lit" : KEYWORDS.has(word) ? "kw" : "";
    push(kind, text);
    last = match.index + text.length;
  }
  push("", code.slice(last));
  if (lines.length > 1 && lines[lines.length - 1].length === 0) lines.pop();
  return h("pre", { class: "code" }, lines.map((parts, n) => {
    const said = notes.get(n + 1);
    return [
      h("span", { class: said ? "line marked" : "line" }, parts),
      said && said.map((text) => h("span", { class: "note" }, shown(text))),
    ];
  }));
}

/** Two programs, line by line. */
export function difference(lines) {
  const kinds = { "+": "line add", "-": "line del", "=": "line" };
  return h("pre", { class: "code diff" }, lines.map((line) =>
    h("span", { class: kinds[line.tag], "data-tag": line.tag === "=" ? " " : line.tag }, shown(line.text))));
}
