// One rollout: what was asked, planned and written, what the verifier said, and how the reward came about.
import { ask, badge, card, count, dash, facts, fill, h, link, real, shown, time } from "./dom.js";
import { difference, python } from "./python.js";
import { parts } from "./lanes.js";
import { tokens } from "./tokens.js";

const LAYERS = [["extracted", "one program in the answer"], ["syntax", "it is Python"], ["functional", "the work is done in kernels"], ["compiled", "compiles"], ["correct", "right results"]];

function verdict(found) {
  const pill = (name, words) => {
    const value = found.verdict.layers[name];
    const kind = value === true ? "good" : value === false ? "bad" : "";
    const sign = value === true ? "\u2713 " : value === false ? "\u2717 " : "\u00b7 ";
    return h("span", { class: "pill " + kind, title: value === null ? "not reached" : words }, sign + words);
  };
  const report = found.report;
  const yes = (ok) => (ok === null || ok === undefined ? "not compared" : ok ? "passes" : "fails");
  return card("Verdict",
    h("div", { class: "layers" }, LAYERS.map(([name, words]) => pill(name, words))),
    h("p", { class: "mono" }, found.verdict.text ? shown(found.verdict.text) : "no verdict yet"),
    found.findings.length ? h("table", {}, h("tbody", {}, found.findings.map((f) => h("tr", {},
      h("td", {}, h("span", { class: "pill " + (f.severity === "reject" ? "bad" : "warn") }, f.code)), h("td", {}, f.line ? "line " + f.line : ""), h("td", { class: "wrap" }, shown(f.message)))))) : null,
    report && facts([
      ["launches", report.launches.length ? report.launches.map((l) => h("div", { class: "mono" }, shown(l.kernel), " on " + l.grid.join(" \u00d7 "))) : "none seen"],
      ["largest error", report.max_abs_error === null ? dash : report.max_abs_error.toExponential(2)],
      ["KernelBench", yes(report.kernelbench_1e2) + " at 1e-2, " + yes(report.kernelbench_1e4) + " at 1e-4"],
      report.reused && ["reused", "an identical answer to this task was executed before"],
    ]),
    report && evidence(report));
}

function evidence(report) {
  const seen = report.evidence.forwards;
  return h("details", {}, h("summary", {}, "evidence: " + seen.length + " checked forwards, ablation " + JSON.stringify(report.evidence.ablation).replaceAll('"', "")),
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, ["draw", "launches", "kernel bytes", "torch bytes", "stray", "raced"].map((t) => h("th", {}, t)))),
      h("tbody", {}, seen.map((s) => h("tr", {}, h("td", {}, shown(s.draw)), h("td", { class: "num" }, s.launches), h("td", { class: "num" }, count(s.kernel_bytes)), h("td", { class: "num" }, count(s.torch_bytes)), h("td", { class: "num" }, s.stray_loads + s.stray_stores), h("td", { class: "num" }, s.raced)))))),
    report.log_tail.trim() ? [h("p", { class: "soft small" }, "printed by the candidate (not evidence of anything)"), h("pre", {}, shown(report.log_tail))] : null);
}

function timing(report) {
  if (!report) return null;
  const t = report.timing;
  const phases = Object.entries(report.phase_ms).sort((a, b) => b[1] - a[1]);
  const c = t?.conditions;
  return card("Time",
    t ? facts([
      ["candidate", real(t.candidate_us, 2) + " \u00b5s"], ["reference", real(t.reference_us, 2) + " \u00b5s"],
      ["speed-up", real(t.speedup, 3) + " [" + real(t.low, 3) + ", " + real(t.high, 3) + "]" + (t.tie ? ", a tie: rewarded as 1" : "")],
      ["samples", t.samples + (t.converged ? ", the interval is as narrow as wanted" : ", the interval did not become narrow enough")],
      ["device", shown(t.device)],
      ["clocks", "SM " + c.sm_mhz_min + " to " + c.sm_mhz_max + " MHz, at most " + c.temperature_max_c + " C, " + (c.power_max_mw / 1000).toFixed(0) + " W, " + c.readings + " readings"],
      ["slowed down", c.throttled.length ? c.throttled.map((r) => shown(r)) : "no"],
      ["other processes", c.processes_hidden ? "NVML does not tell" : c.foreign.length ? c.foreign.join(", ") : "none"],
      t.refused.length ? ["refused before", t.refused.map((r) => h("div", {}, shown(r)))] : null,
    ]) : h("p", { class: "soft" }, "Not timed: no GPU was used, or it did not pass."),
    h("div", {}, phases.map(([name, ms]) => h("div", { class: "bar" }, h("span", {}, name), h("progress", { max: phases[0][1] || 1, value: ms }), h("span", {}, ms.toFixed(0) + " ms")))));
}

function group(found, id, compare) {
  return card("Its group: " + found.group.length + " answers to the same task", h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, [["id", "num"], ["state"], ["verdict"], ["plan", "num"], ["code", "num"], ["adv plan", "num"], ["adv code", "num"], ["tokens", "num"], [""]].map(([t, kind]) => h("th", { class: kind }, t)))),
    h("tbody", {}, found.group.map((s) => h("tr", { class: s.id === id ? "at" : "" },
      h("td", { class: "num" }, link(s.id)), h("td", {}, badge(s.ending || s.state)), h("td", {}, badge(s.verdict)), h("td", { class: "num" }, real(s.reward_plan, 2)), h("td", { class: "num" }, real(s.reward_code, 2)),
      h("td", { class: "num" }, real(s.adv_plan, 2)), h("td", { class: "num" }, real(s.adv_code, 2)), h("td", { class: "num" }, count(s.n_tokens)),
      h("td", {}, s.id === id ? "" : h("button", { onclick: () => compare(s.id) }, "diff"))))))));
}

/** Who evaluates it now, or did. */
function places(list) {
  if (!list.length) return null;
  const now = Date.now();
  return card("Where it was evaluated", list.map((p) => {
    const all = parts(p, now);
    const open = p.ended_ms === null;
    return h("div", {}, h("div", { class: "row" }, h("b", {}, shown(p.lane)), p.gpu ? h("span", {}, "on ", shown(p.gpu)) : null, h("span", { class: "soft" }, "attempt " + p.attempt + ", from " + time(p.began_ms)),
      open ? h("span", { class: "pill good" }, "now: " + all[all.length - 1][2]) : h("span", { class: "pill " + (p.ending === "report" ? "" : "bad") }, p.ending)),
    h("div", { class: "small mono" }, all.map(([from, to, stage]) => stage + " " + Math.round(to - from) + " ms").join(", ")));
  }));
}

export function rollout(text) {
  const id = Number(text);
  const box = h("div", { class: "stack" });
  const other = h("div", {});
  const keys = {};
  const self = { box, keys, live: true, update };
  async function compare(with_) {
    try {
      const lines = await ask("/api/rollout/" + id + "/diff/" + with_);
      fill(other, card("From this program (\u2212) to that of " + with_ + " (+)", h("div", { class: "row" }, link(with_), h("button", { onclick: () => fill(other) }, "Close")), difference(lines)));
      other.scrollIntoView({ block: "nearest", behavior: "smooth" });
    } catch {
      fill(other, card("No diff", h("p", {}, "One of the two answers holds no program.")));
    }
  }
  async function update() {
    const found = await ask("/api/rollout/" + id);
    const s = found.summary;
    const place = found.group.findIndex((g) => g.id === id);
    const beside = (by) => found.group[place + by]?.id;
    keys.n = () => { if (beside(1) !== undefined) location.hash = "#/rollout/" + beside(1); };
    keys.p = () => { if (beside(-1) !== undefined) location.hash = "#/rollout/" + beside(-1); };
    // Once it has ended nothing of it changes: what is open stays open.
    self.live = s.ending === null;
    const notes = new Map();
    for (const f of found.findings.filter((f) => f.line > 0)) notes.set(f.line, [...(notes.get(f.line) || []), f.code + ": " + f.message]);
    fill(box,
      h("div", {},
        h("div", { class: "row" }, h("h1", {}, "Rollout " + id), badge(s.ending || s.state), badge(s.verdict),
          h("button", { disabled: beside(-1) === undefined, onclick: keys.p, title: "key p" }, "Previous of group"), h("button", { disabled: beside(1) === undefined, onclick: keys.n, title: "key n" }, "Next of group")),
        h("div", { class: "row soft" },
          h("span", {}, "task ", h("a", { href: "#/task/" + encodeURIComponent(s.task) }, shown(s.task))),
          h("span", {}, s.phase), h("a", { href: "#/rollouts?filter=" + encodeURIComponent("group = " + s.group + " and phase = " + s.phase) }, "group " + s.group), h("span", {}, "seed " + found.seed), h("span", {}, "attempt " + s.attempt),
          h("span", {}, "policy " + (s.policy_oldest ?? dash) + (s.policy_newest !== s.policy_oldest ? " to " + s.policy_newest : "")),
          s.step !== null && h("span", {}, "trained in step " + s.step), h("span", {}, "sampled " + time(s.sampled_at) + ", ended " + time(s.ended_at)))),
      h("div", { class: "two" },
        h("div", { class: "stack" }, verdict(found),
          card("Reward", found.arithmetic.length ? found.arithmetic.map((line) => h("div", { class: "mono" }, line)) : h("p", { class: "soft" }, "No reward yet.")),
          places(found.places),
          timing(found.report),
          found.faults.length ? card("Faults of ours", found.faults.map((f) => h("div", { class: "bad" }, f.code + " (attempt " + f.attempt + "): ", shown(f.message)))) : null),
        h("div", { class: "stack" },
          found.plan !== null && card("Plan", h("pre", {}, shown(found.plan.trim()))),
          card("Program", found.code ? python(found.code, notes) : h("p", { class: "soft" }, found.rest === null ? "Not sampled yet." : "The answer holds no single program; the whole of it is below.")),
          found.code === null && found.rest !== null && card("Answer", h("pre", {}, shown(found.rest))))),
      group(found, id, compare), other,
      card("Tokens", tokens(found.tokens)),
      h("div", { class: "two" },
        card(null, h("details", {}, h("summary", {}, "Prompt"), h("pre", {}, shown(found.prompt || "not known yet")))),
        card(null, h("details", {}, h("summary", {}, "Reference and raw answer"), found.reference && python(found.reference), h("h2", {}, "Raw answer"), h("pre", {}, shown((found.plan || "") + (found.rest || "")))))));
  }
  return self;
}
