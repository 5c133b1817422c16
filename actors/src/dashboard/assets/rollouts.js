// The table of rollouts: filter, sort, pages, live.
import { ask, badge, count, dash, fill, h, link, real, shown, time } from "./dom.js";

const COLUMNS = [
  ["id", "id", (r) => link(r.id), "num"],
  ["phase", "phase", (r) => r.phase],
  ["group", "group", (r) => r.group, "num"],
  ["task", "task", (r) => h("a", { href: "#/task/" + encodeURIComponent(r.task) }, shown(r.task))],
  ["state", "state", (r) => badge(r.ending || r.state)],
  ["verdict", "verdict", (r) => badge(r.verdict)],
  ["plan", "reward.plan", (r) => real(r.reward_plan, 2), "num"],
  ["code", "reward.code", (r) => real(r.reward_code, 2), "num"],
  ["adv plan", "advantage.plan", (r) => real(r.adv_plan, 2), "num"],
  ["adv code", "advantage.code", (r) => real(r.adv_code, 2), "num"],
  ["tokens", "tokens", (r) => count(r.n_tokens), "num"],
  ["policy", "policy", (r) => (r.policy_oldest === null ? dash : r.policy_oldest === r.policy_newest ? r.policy_oldest : r.policy_oldest + "\u2013" + r.policy_newest), "num"],
  ["step", "step", (r) => count(r.step), "num"],
  ["sampled", "sampled_at", (r) => time(r.sampled_at), "num"],
];
const LIMIT = 100;
const EXAMPLES = ["verdict = passed", "reward.code = 0 and finish = stop", "ending = none", "verdict = rejected", "staleness > 0", "hack != none and hack != unclear", "finding ~ 'torch.'", "answer ~ atomic_add"];

export function rollouts(_, search) {
  const wanted = { filter: search.get("filter") || "", sort: search.get("sort") || "", offset: 0 };
  const input = h("input", { type: "search", value: wanted.filter, placeholder: "filter, for example: verdict = passed and step >= 10", "aria-label": "Filter", spellcheck: false, autocomplete: "off" });
  const error = h("p", { class: "error", role: "alert" });
  const about = h("span", { class: "soft", role: "status" });
  const head = h("thead", {});
  const rows = h("tbody", {});
  const previous = h("button", { onclick: () => turn(-LIMIT) }, "Newer");
  const next = h("button", { onclick: () => turn(LIMIT) }, "Older");
  let known = new Set();
  let at = -1;
  let page = null;
  let stop = new AbortController();
  let deep = false;
  let later = 0;
  let indexed = -1;
  const further = h("button", { onclick: () => { deep = true; update(); } }, "Search all of them");

  const address = () => {
    const parts = new URLSearchParams();
    if (wanted.filter) parts.set("filter", wanted.filter);
    if (wanted.sort) parts.set("sort", wanted.sort);
    return "#/rollouts" + (parts.size ? "?" + parts : "");
  };
  const change = () => {
    wanted.offset = 0;
    deep = false;
    indexed = -1;
    at = -1;
    known = new Set();
    if (location.hash === address()) update();
    else location.hash = address();
  };
  const turn = (by) => {
    wanted.offset = Math.max(0, wanted.offset + by);
    at = -1;
    update();
  };
  const move = (by) => {
    if (!page?.rollouts.length) return;
    at = Math.min(Math.max(at + by, 0), page.rollouts.length - 1);
    [...rows.children].forEach((row, n) => row.classList.toggle("at", n === at));
    rows.children[at].scrollIntoView({ block: "nearest" });
  };
  const open = () => { if (page?.rollouts[at]) location.hash = "#/rollout/" + page.rollouts[at].id; };

  const heads = () => fill(head, h("tr", {}, COLUMNS.map(([title, field, , kind]) => {
    const arrow = wanted.sort === field ? " \u2191" : wanted.sort === "-" + field ? " \u2193" : "";
    const order = arrow === " \u2193" ? "descending" : arrow ? "ascending" : "none";
    const click = () => {
      wanted.sort = wanted.sort === "-" + field ? field : wanted.sort === field ? "" : "-" + field;
      change();
    };
    return h("th", { class: kind, "aria-sort": order }, h("button", { onclick: click, title: "sort by " + field }, title + arrow));
  })));

  async function update() {
    stop.abort();
    stop = new AbortController();
    heads();
    const parts = new URLSearchParams({ filter: wanted.filter, sort: wanted.sort, offset: wanted.offset, limit: LIMIT, deep });
    try {
      page = await ask("/api/rollouts?" + parts, stop.signal);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      error.textContent = problem.message;
      return;
    }
    error.textContent = "";
    const first = known.size === 0;
    const before = known;
    known = new Set(page.rollouts.map((r) => r.id));
    fill(rows, page.rollouts.map((r, n) => {
      const fresh = !first && !before.has(r.id) ? " fresh" : "";
      const click = (event) => { if (event.target.tagName !== "A") location.hash = "#/rollout/" + r.id; };
      return h("tr", { class: "pick" + fresh + (n === at ? " at" : ""), onclick: click }, COLUMNS.map(([, , show, kind]) => h("td", { class: kind }, show(r))));
    }));
    const found = page.matching === null
      ? "looked through the " + (wanted.sort ? "first " : "newest ") + count(page.searched[0]) + " of " + count(page.searched[1]) + " answers"
      : count(page.matching) + " of " + count(page.all);
    const end = wanted.offset + page.rollouts.length;
    const index = page.matching === null && page.indexed !== null ? ", " + count(page.indexed) + " are indexed" : "";
    about.textContent = found + index + (page.rollouts.length ? ", shown " + count(wanted.offset + 1) + " to " + count(end) : "") + ", " + page.took_ms.toFixed(1) + " ms";
    further.hidden = page.matching !== null || deep;
    // The index of answers is built while they are searched for: the rest of them will be known soon.
    clearTimeout(later);
    if (page.matching === null && page.indexed !== null && page.indexed > indexed) later = setTimeout(update, 1000);
    indexed = page.indexed ?? 0;
    previous.disabled = wanted.offset === 0;
    next.disabled = page.matching !== null ? end >= page.matching : page.rollouts.length < LIMIT;
  }

  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    wanted.filter = input.value.trim();
    change();
  });
  input.addEventListener("search", () => {
    if (input.value === "" && wanted.filter) { wanted.filter = ""; change(); }
  });
  const pick = (text) => { input.value = text; wanted.filter = text; change(); };
  const box = h("div", {},
    h("div", { class: "filter" }, input, h("button", { onclick: () => pick(input.value.trim()) }, "Filter")),
    h("div", { class: "row small" }, h("span", { class: "soft" }, "for example"), EXAMPLES.map((text) => h("button", { class: "mono", onclick: () => pick(text) }, text)),
      h("details", {}, h("summary", {}, "fields"), h("p", { class: "mono small" }, "id phase group task level step state attempt policy policy.newest staleness finish tokens plan_tokens verdict reward.plan reward.code advantage.plan advantage.code ending speedup hack finding answer"),
        h("p", { class: "small" }, "= != < <= > >= ~ (contains); and, or, not, parentheses; `none` is what is not known. finding = is a code, finding ~ a part of a message. The first search through answers builds an index of them, which takes a while; until then it shows what it has."))),
    error,
    h("div", { class: "card scroll" }, h("table", {}, head, rows)),
    h("div", { class: "row" }, previous, next, about, further));
  return {
    box,
    update,
    moved(now) {
      wanted.filter = now.get("filter") || "";
      wanted.sort = now.get("sort") || "";
      wanted.offset = 0;
      deep = false;
      input.value = wanted.filter;
      return update();
    },
    close: () => { stop.abort(); clearTimeout(later); },
    keys: { j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1), Enter: open, n: () => next.disabled || turn(LIMIT), p: () => turn(-LIMIT) },
  };
}
