// Tasks: how often each is solved, over training and in the evaluations.
import { ask, badge, card, count, dash, facts, fill, h, link, real, share, shown } from "./dom.js";
import { plot } from "./plot.js";
import { difference, python } from "./python.js";

const rate = ([all, good]) => (all ? good / all : null);
// The filter language has two kinds of quotes and no escapes.
const quote = (text) => (text.includes("'") ? '"' + text + '"' : "'" + text + "'");
const spark = (parts) => h("span", { class: "spark", title: parts.map(share).join("  ") }, parts.map((x) => h("i", { class: x === null ? "none" : "h" + Math.round(8 * x) })));
const COLUMNS = [
  ["task", (t) => t.task, (t) => h("a", { href: "#/task/" + encodeURIComponent(t.task) }, shown(t.task))],
  ["level", (t) => t.level ?? 0, (t) => t.level ?? dash, "num"],
  ["split", (t) => t.split || "", (t) => t.split || dash],
  ["answers", (t) => t.answers, (t) => count(t.answers), "num"],
  ["solved", (t) => (t.answers ? t.passed / t.answers : -1), (t) => (t.answers ? share(t.passed / t.answers) : dash), "num"],
  ["over training", (t) => t.over_time.findLast((x) => x !== null) ?? -1, (t) => spark(t.over_time)],
  ["before", (t) => rate(t.before) ?? -1, (t) => share(rate(t.before)), "num"],
  ["after", (t) => rate(t.after) ?? -1, (t) => share(rate(t.after)), "num"],
  ["in flight", (t) => t.open, (t) => count(t.open), "num"],
];

export function taskList() {
  let sort = [3, true];
  let all = [];
  const input = h("input", { type: "search", placeholder: "a part of the name", "aria-label": "Search tasks", oninput: draw });
  const head = h("thead", {});
  const rows = h("tbody", {});
  const about = h("span", { class: "soft" });
  function draw() {
    const found = all.filter((t) => t.task.toLowerCase().includes(input.value.toLowerCase()));
    const [column, down] = sort;
    const of = COLUMNS[column][1];
    found.sort((a, b) => (of(a) < of(b) ? -1 : of(a) > of(b) ? 1 : 0) * (down ? -1 : 1));
    fill(head, h("tr", {}, COLUMNS.map(([title, , , kind], n) => h("th", { class: kind }, h("button", { onclick: () => { sort = [n, sort[0] === n ? !sort[1] : n > 2]; draw(); } }, title + (n === column ? (down ? " \u2193" : " \u2191") : ""))))));
    fill(rows, found.slice(0, 1000).map((t) => h("tr", { class: "pick", onclick: () => { location.hash = "#/task/" + encodeURIComponent(t.task); } }, COLUMNS.map(([, , show, kind]) => h("td", { class: kind }, show(t))))));
    about.textContent = found.length + " of " + all.length + " tasks; over training: share solved in twelve equal parts of training, grey where it was not drawn";
  }
  const box = h("div", {}, h("div", { class: "filter" }, input), h("div", { class: "card scroll" }, h("table", {}, head, rows)), about);
  return { box, calm: true, async update() { all = await ask("/api/tasks"); draw(); } };
}

export function task(name) {
  const body = h("div", { class: "stack" });
  const rates = plot("Solve rate", { solved: "share solved" }, { time: true, unit: "training answers, equally many a point", hint: "no training answer to it has a verdict yet" });
  const box = h("div", { class: "stack" }, body);
  const below = h("div", { class: "stack" });
  box.append(rates.box, below);
  const newest = h("div", { class: "row" });
  let drawn = "";
  return {
    box,
    calm: true,
    async update() {
      const t = await ask("/api/task/" + encodeURIComponent(name));
      const best = t.best;
      rates.update(t.solve_rate);
      fill(body,
        h("div", {}, h("h1", {}, shown(t.task)), h("div", { class: "row soft" }, ["level " + (t.level ?? dash), t.split || dash, t.tags.join(", ")].map((text) => h("span", {}, text)),
          h("a", { href: "#/rollouts?filter=" + encodeURIComponent("task = " + quote(t.task)) }, "all its rollouts"))),
        h("div", { class: "tiles" },
          [["answers", count(t.answers)], ["solved", t.answers ? share(t.passed / t.answers) : dash], ["before RL", share(rate(t.before))], ["after RL", share(rate(t.after))], ["in flight", count(t.open)]]
            .map(([label, value]) => h("div", { class: "card tile" }, h("b", {}, value), h("span", { class: "soft" }, label))),
          h("div", { class: "card tile" }, spark(t.over_time), h("div", { class: "soft" }, "over training"))));
      // What is being read stays open while nothing of it changes.
      fill(newest, t.newest.map((id) => link(id)));
      const now = JSON.stringify([t.best, document.documentElement.dataset.theme]);
      if (now === drawn) return;
      drawn = now;
      fill(below,
        h("div", { class: "two" },
          card("Reference", t.source ? python(t.source) : "not stored"),
          card("Best kernel so far", best ? [facts([
            ["rollout", link(best.rollout)],
            ["chosen as", best.speedup === null ? "that with the fewest tokens after its plan of all " + count(best.of) + " that passed (nothing was timed)" : "the fastest of all " + count(best.of) + " that were timed: " + real(best.speedup, 3) + " times the reference"],
            ["lines", best.code_lines]]), h("p", {}), python(best.code)] : h("p", { class: "soft" }, "None passed yet."))),
        t.diff && card("From the reference (\u2212) to the best kernel (+)", difference(t.diff)),
        card("Newest rollouts", newest));
    },
  };
}
