// Executors and actors, as far as the store knows them; what it does not hold is said.
import { ask, card, count, dash, facts, fill, h, link, real, shown, time } from "./dom.js";
import { plot } from "./plot.js";

const STAGES = [["sampling", "with a generator"], ["sampled", "waiting for the judge"], ["judged", "waiting for an executor, or executed just now"], ["executed", "executed"], ["scored", "scored: waiting for the group or the learner"]];

function faults(list) {
  if (!list.length) return h("p", { class: "good" }, "None.");
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ["when", "code", "rollout", "attempt", "message"].map((t) => h("th", {}, t)))),
    h("tbody", {}, list.map((f) => h("tr", {}, h("td", {}, time(f.at)), h("td", {}, f.code), h("td", {}, f.rollout === null ? dash : link(f.rollout)), h("td", {}, f.attempt ?? dash), h("td", { class: "wrap" }, shown(f.message)))))));
}

export function executors() {
  const box = h("div", { class: "stack" });
  const top = h("div", { class: "stack" });
  const busy = plot("Executors", { "batch.executors": "present", "batch.executors_wanted": "wanted", "batch.executors_busy": "busy (share)" }, { hint: "not reported by this run yet" });
  const wait = plot("Oldest wait for an executor", { "batch.executors_oldest_wait_ms": "ms" }, { hint: "not reported by this run yet" });
  fill(box, top, h("div", { class: "grid" }, busy.box, wait.box));
  return {
    box,
    async update() {
      const [crew, overview] = await Promise.all([ask("/api/crew"), ask("/api/overview")]);
      const phases = Object.entries(crew.phases);
      const devices = Object.entries(crew.devices);
      fill(top,
        h("div", { class: "two" },
          card("Where the time goes: the newest " + crew.reports + " executed", phases.length ? h("table", {},
            h("thead", {}, h("tr", {}, h("th", {}, "phase"), ["count", "median ms", "p95 ms", "max ms"].map((t) => h("th", { class: "num" }, t)))),
            h("tbody", {}, phases.map(([name, p]) => h("tr", {}, h("td", {}, name), [count(p.count), real(p.median, 1), real(p.p95, 1), real(p.max, 1)].map((t) => h("td", { class: "num" }, t)))))) : "nothing was executed yet",
            h("p", { class: "soft small" }, crew.reused + " of them were equal to an earlier answer and not executed again.")),
          card("Devices that measured", devices.length ? devices.map(([name, d]) => [h("b", {}, shown(name)), facts([
            ["measurements", count(d.measurements)], ["SM clock", d.sm_mhz.join(" to ") + " MHz"], ["hottest", d.temperature_max_c + " C"], ["most power", (d.power_max_mw / 1000).toFixed(0) + " W"],
            ["slowed down", Object.keys(d.throttled).length ? Object.entries(d.throttled).map(([r, n]) => r + " (" + n + ")").join(", ") : "never"], ["refused measurements", count(d.refused)]])])
            : h("p", { class: "soft" }, "None: nothing was timed. Timing needs an NVIDIA GPU."),
            facts(Object.entries(crew.settings)))),
        card("Faults of ours, newest first", faults(crew.faults)),
        card("Not in the store", h("p", { class: "soft" }, "Which executor did what and when (lanes), leases, and NVML readings between measurements are not recorded; what each measurement saw is on its rollout's page.")));
      busy.update(overview.steps);
      wait.update(overview.steps);
    },
  };
}

// Who starts whom again, and the fault that says it was lost (docs/supervision.md).
const TREE = [["generators", "F101"], ["judge", "F102"], ["executor pool", null, [["executors", "F103"], ["LLM judge", "F118"]]], ["learner", "F104"]];

export function actors() {
  const box = h("div", { class: "stack" });
  return {
    box,
    async update() {
      const crew = await ask("/api/crew");
      const lost = (code) => (code ? h("span", { class: "pill " + (crew.fault_counts[code] ? "bad" : "good") }, count(crew.fault_counts[code] || 0) + " lost (" + code + ")") : null);
      const tree = (nodes) => h("ul", { class: "tree" }, nodes.map(([name, code, below]) => h("li", {}, h("b", {}, name), " ", lost(code), below && tree(below))));
      const total = Object.values(crew.stages).reduce((a, b) => a + b, 0);
      fill(box,
        h("div", { class: "two" },
          card("Supervision", h("b", {}, "orchestrator"), " ", lost("F109"), tree(TREE), h("p", { class: "soft small" }, "Counted from the faults in the store.")),
          card("Rollouts in flight by stage",
            STAGES.map(([name, words]) => h("div", { class: "bar", title: words }, h("span", {}, name), h("progress", { max: total || 1, value: crew.stages[name] || 0 }), h("span", {}, count(crew.stages[name] || 0)))),
            h("p", {}, "Credits in use: " + count(crew.in_flight) + " of " + count(crew.credits) + ". No more rollouts than credits are ever in flight."))),
        card("Faults of ours, newest first", faults(crew.faults)),
        card("Not in the store", h("p", { class: "soft" }, "Mailbox depths and the time of each restart are not recorded: credits bound what can wait anywhere.")));
    },
  };
}
