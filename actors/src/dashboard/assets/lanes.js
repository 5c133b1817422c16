// Lanes over time: who worked on what and when, stage by stage, drawn on one canvas a lane. Click opens the rollout.
import { brief, h, shown } from "./dom.js";

const HEIGHT = 22;
// By what a stage is about; anything else is grey.
// The first that matches: to wait for a check is to wait.
const KINDS = [["wait", /^wait|release|^end$/, "#9aa4b2"], ["compile", /compile|import/, "#2f6fed"], ["check", /check|run|compare|reference/, "#12945a"], ["time", /^time$/, "#e07b00"], ["step", /^step/, "#b03fc0"]];
const OTHER = "#5b7083";
const LOST = "#d33";

export const colour = (stage) => (KINDS.find(([, words]) => words.test(stage)) || [0, 0, OTHER])[2];

/** Parts of a span: [from, to, stage], milliseconds since 1970. */
export function parts(span, to) {
  const end = span.ended_ms ?? to;
  if (!span.stages.length) return [[span.began_ms, end, "at work"]];
  const found = span.stages.map(([stage, at], n) => [span.began_ms + at, n + 1 < span.stages.length ? span.began_ms + span.stages[n + 1][1] : end, stage]);
  if (span.stages[0][1] > 0) found.unshift([span.began_ms, span.began_ms + span.stages[0][1], "start"]);
  return found;
}

export function legend() {
  return h("div", { class: "row small legend" }, [...KINDS.map(([name, , c]) => [name, c]), ["other", OTHER], ["fault or lost", LOST]].map(([name, c]) => {
    const dot = h("span", { class: "dot" });
    dot.style.background = c;
    return h("span", {}, dot, " " + name);
  }));
}

/** One row a lane; `update(timeline)` draws it anew. */
export function lanes() {
  const box = h("div", { class: "lanes" });
  const about = h("p", { class: "mono small" }, "Point at a span; click opens its rollout.");
  const rows = new Map();
  const row = (name) => {
    const canvas = h("canvas", { height: HEIGHT, tabindex: -1 });
    const label = h("span", { class: "lane" });
    const line = h("div", { class: "lane-row" }, label, canvas);
    const self = { line, label, canvas, lane: null, time: null };
    const at = (event) => {
      const { from, to } = self.time;
      const x = from + ((to - from) * event.offsetX) / canvas.clientWidth;
      // A span may be narrower than a pixel.
      const slack = (2 * (to - from)) / canvas.clientWidth;
      return self.lane.spans.find((s) => x >= s.began_ms - slack && x <= (s.ended_ms ?? to) + slack);
    };
    canvas.addEventListener("mousemove", (event) => {
      const span = at(event);
      if (!span) return;
      const stages = parts(span, self.time.to).map(([from, to, stage]) => stage + " " + brief(to - from) + " ms").join(", ");
      about.replaceChildren(...shown(self.lane.name + (span.rollout === null ? "" : ", rollout " + span.rollout + ", attempt " + span.attempt) + ": " + stages + "; " + (span.ended_ms === null ? "goes on" : "ended: " + span.ending)).map((p) => (p instanceof Node ? p : document.createTextNode(p))));
    });
    canvas.addEventListener("click", (event) => {
      const span = at(event);
      if (span && span.rollout !== null) location.hash = "#/rollout/" + span.rollout;
    });
    rows.set(name, self);
    return self;
  };
  function draw({ canvas, lane, time }) {
    const width = Math.max(canvas.clientWidth, 100);
    canvas.width = width * devicePixelRatio;
    canvas.height = HEIGHT * devicePixelRatio;
    const ctx = canvas.getContext("2d");
    ctx.scale(devicePixelRatio, devicePixelRatio);
    const x = (ms) => (width * (ms - time.from)) / (time.to - time.from);
    for (const span of lane.spans) {
      for (const [from, to, stage] of parts(span, time.to)) {
        ctx.fillStyle = colour(stage);
        ctx.fillRect(x(from), 3, Math.max(x(to) - x(from), 0.7), HEIGHT - 6);
      }
      if (span.ending && !["report", "step", "started"].includes(span.ending)) {
        ctx.fillStyle = LOST;
        ctx.fillRect(x(span.ended_ms) - 1.5, 0, 3, HEIGHT);
      }
    }
  }
  function update(timeline) {
    const names = new Set(timeline.lanes.map((l) => l.name));
    for (const [name, old] of rows) {
      if (!names.has(name)) {
        old.line.remove();
        rows.delete(name);
      }
    }
    timeline.lanes.forEach((lane) => {
      const self = rows.get(lane.name) || row(lane.name);
      self.lane = lane;
      self.time = timeline;
      self.label.replaceChildren(...[...shown(lane.name), h("span", { class: "soft" }, "  " + Math.round(100 * lane.busy) + " % busy"), lane.gpu ? h("span", { class: "soft" }, " on ", shown(lane.gpu)) : ""].map((p) => (p instanceof Node ? p : document.createTextNode(p))));
      box.insertBefore(self.line, about);
      draw(self);
    });
  }
  box.append(about);
  return { box, update };
}
