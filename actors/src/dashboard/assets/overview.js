// What is wrong first, then where the run stands and how it went.
import { ask, brief, card, count, dash, facts, fill, h, share, time } from "./dom.js";
import { plot } from "./plot.js";

const by = (part) => (names) => Object.fromEntries(Object.entries(names).map(([name, label]) => [part + "." + name, label]));
const batch = by("batch");
const learner = by("learner");

const TIMED = "Nothing was timed in this run: timing needs an NVIDIA GPU.";

function plots() {
  return {
    steps: [
      plot("Correctness", batch({ reward_code: "trained", scored_reward_code: "all scored" }), { unit: "share of answers" }),
      plot("Plan reward", batch({ reward_plan: "trained", scored_reward_plan: "all scored" }), { unit: "speed-up, or correctness untimed" }),
      plot("fast_1 and speed-up", batch({ scored_fast_1: "fast_1", scored_speedup: "mean speed-up" }), { hint: TIMED }),
      plot("Staleness", batch({ staleness_mean: "mean", staleness_max: "max" }), { unit: "policy versions" }),
      plot("Mismatch KL", learner({ mismatch_kl: "k3, nats" }), { unit: "learner against sampler" }),
      plot("Entropy", learner({ entropy_plan: "plan", entropy_code: "code" }), { unit: "nats per token" }),
      plot("Effective sample size, clipped", learner({ ess: "ess", clip_fraction: "clipped" }), { unit: "share" }),
      plot("Gradient norm", learner({ grad_norm: "before clipping" })),
      plot("Answers", batch({ answer_tokens: "tokens" }), { unit: "mean length" }),
      plot("Cut off, without delimiter", batch({ truncated: "cut off", no_delimiter: "no delimiter" }), { unit: "share" }),
      plot("Executors", batch({ executors: "present", executors_wanted: "wanted", executors_busy: "busy (share)" }), { hint: "not reported by this run" }),
      plot("Update", learner({ seconds: "seconds" }), { unit: "time of the learner" }),
    ],
    hacks: plot("Hacks by class", { all: "all", delegation: "delegation", decoy: "decoy", forged: "forged", conditional: "conditional", timing: "timing", tampering: "tampering" }, { unit: "share of answers, by the step whose policy sampled them", hint: "no training answer was rejected as a hack" }),
    time: [
      plot("Rollouts ended", { rollouts_per_s: "per second" }, { time: true }),
      plot("Tokens of ended rollouts", { tokens_per_s: "per second" }, { time: true }),
    ],
  };
}

const tile = (name, value, title) => h("div", { class: "card tile", title }, h("b", {}, value), h("span", { class: "soft" }, name));

function bars(entries, total, good) {
  return entries.sort((a, b) => b[1] - a[1]).map(([name, n]) =>
    h("div", { class: "bar " + (good?.has(name) ? "good" : "") }, h("span", {}, name), h("progress", { max: total || 1, value: n, title: share(n / (total || 1)) }), h("span", {}, count(n))));
}

function hackRate({ answers, classes }) {
  return answers ? Object.entries(classes).reduce((sum, [name, n]) => sum + (name === "unclear" ? 0 : n), 0) / answers : null;
}

function hackBars({ answers, classes }) {
  const entries = Object.entries(classes).sort((a, b) => b[1] - a[1]);
  if (!entries.length) return "none";
  return [entries.map(([name, n]) => h("div", { class: "bar" }, h("a", { href: "#/rollouts?filter=" + encodeURIComponent("hack = " + name) }, name), h("progress", { max: answers || 1, value: n, title: share(n / (answers || 1)) }), h("span", {}, count(n)))),
    h("p", { class: "soft small" }, "Of " + count(answers) + " answers with a verdict. Unclear: rejected, and no hack for all that is known.")];
}

function heldOut(summary) {
  const found = summary?.held_out;
  if (!found) return null;
  const interval = (i) => (i ? share(i.mean) + " [" + share(i.low) + ", " + share(i.high) + "]" : dash);
  return card("Held-out verified pass@1", facts([
    ["tasks", count(found.tasks)],
    ["before RL", interval(found.before)],
    ["after RL", interval(found.after)],
    ["gain", interval(found.gain)],
  ]), h("p", { class: "soft small" }, "95 % intervals of a bootstrap over tasks"));
}

export function overview() {
  const top = h("div", { class: "stack" });
  const side = h("div", { class: "grid" });
  const curves = plots();
  const all = [...curves.steps, curves.hacks, ...curves.time];
  const box = h("div", { class: "stack" }, top, h("div", { class: "grid" }, all.map((p) => p.box)), side);
  let steps = { x: [], y: {} };
  let theme = "";
  return {
    box,
    calm: true,
    async update() {
      // The curves of steps come only when there are new ones.
      const found = await ask("/api/overview" + (steps.x.length ? "?have=" + steps.x.at(-1) : ""));
      const { ledger, verdicts, faults } = found;
      const drawn = !found.steps && theme === document.documentElement.dataset.theme;
      steps = found.steps || steps;
      theme = document.documentElement.dataset.theme;
      const trained = ledger.train || {};
      const inFlight = Object.values(ledger).reduce((sum, l) => sum + (l.in_flight || 0), 0);
      const state = found.status.state;
      fill(top,
        h("div", {},
          h("h1", {}, found.run_dir.split("/").pop()),
          h("div", { class: "row soft" },
            h("span", { class: "pill " + { running: "good", quiet: "warn", finished: "" }[state] }, found.status.text),
            h("span", {}, "began " + (found.started_at ? new Date(found.started_at).toLocaleString("en-GB") : dash)),
            h("span", {}, "last write " + time(found.written_at)),
            h("span", {}, "Troupe " + (found.version || dash)))),
        found.alarms.length
          ? found.alarms.map((a) => h("div", { class: "alarm " + a.level, role: "alert" }, h("b", {}, a.title), h("span", {}, a.detail),
            a.filter && h("a", { href: "#/rollouts?filter=" + encodeURIComponent(a.filter) }, "show them")))
          : h("div", { class: "quiet" }, "No alarm."),
        h("div", { class: "tiles" },
          tile("steps of " + count(found.steps_planned), count(steps.x.at(-1) || 0)),
          tile("correct, last step", share(found.last["batch.reward_code"]), "share of the batch that the verifier passed"),
          tile("fast_1, last step", share(found.last["batch.scored_fast_1"]), "correct and faster than the reference, of all scored"),
          tile("in flight", count(inFlight)),
          tile("trained", count(trained.trained || 0)),
          tile("of all answers are hacks", share(hackRate(found.hacks)), "training answers with a verdict that a rule rejected as a hack"),
          tile("rollouts/s, lately", brief(found.rollouts_per_s), "in the last minute"),
          tile("faults of ours", count(Object.values(faults).reduce((a, b) => a + b, 0)))));
      if (!drawn) curves.steps.forEach((p) => p.update(steps));
      curves.time.forEach((p) => p.update(found.throughput));
      curves.hacks.update(Object.keys(found.hacks.classes).length ? found.hacks.curves : { x: [], y: {} });
      const answered = Object.values(verdicts).reduce((a, b) => a + b, 0);
      fill(side,
        ["eval_before", "train", "eval_after"].filter((phase) => ledger[phase]).map((phase) => {
          const endings = ledger[phase];
          const total = Object.values(endings).reduce((a, b) => a + b, 0);
          return card("Ledger: " + phase + ", " + count(total) + " rollouts", bars(Object.entries(endings), total, new Set(["trained", "evaluated"])));
        }),
        card("Training answers by verdict", answered ? bars(Object.entries(verdicts), answered, new Set(["passed"])) : "none yet"),
        card("Hacks: training answers by class", hackBars(found.hacks)),
        card("Faults of ours", Object.keys(faults).length ? bars(Object.entries(faults), Math.max(...Object.values(faults))) : "none"),
        heldOut(found.summary));
    },
  };
}
