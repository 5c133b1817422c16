// Executors and actors: lanes, GPUs, queues, nodes, the supervision tree, as far as the run noted them.
import { ask, badge, card, count, dash, facts, fill, h, link, real, shown, time } from "./dom.js";
import { lanes, legend } from "./lanes.js";
import { plot } from "./plot.js";

const STAGES = [["sampling", "with a generator"], ["sampled", "waiting for the judge"], ["judged", "waiting for an executor, or executed just now"], ["executed", "executed"], ["scored", "scored: waiting for the group or the learner"]];
const WINDOWS = [["30 s", 30], ["2 min", 120], ["10 min", 600], ["1 h", 3600], ["6 h", 21600]];
const UNNOTED = "This run noted none of it: it was made by a program before store format 2.";

function faults(list) {
  if (!list.length) return h("p", { class: "good" }, "None.");
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ["when", "code", "rollout", "attempt", "message"].map((t) => h("th", {}, t)))),
    h("tbody", {}, list.map((f) => h("tr", {}, h("td", {}, time(f.at)), h("td", {}, f.code), h("td", {}, f.rollout === null ? dash : link(f.rollout)), h("td", {}, f.attempt ?? dash), h("td", { class: "wrap" }, shown(f.message)))))));
}

function happenings(list) {
  if (!list.length) return h("p", { class: "soft" }, "Nothing happened.");
  const bad = (what) => (/died|gone|silent/.test(what) ? "bad" : /restarted|joined|heard/.test(what) ? "good" : "");
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ["when", "who", "what", "about it"].map((t) => h("th", {}, t)))),
    h("tbody", {}, list.map((e) => h("tr", {}, h("td", {}, time(e.at_ms)), h("td", {}, shown(e.actor)), h("td", {}, h("span", { class: "pill " + bad(e.what) }, e.what)), h("td", { class: "wrap" }, shown(e.detail)))))));
}

function nodes(list) {
  if (!list?.length) return h("p", { class: "soft" }, "No node has joined: every executor is of this machine.");
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, [["node"], ["state"], ["executors", "num"], ["busy", "num"], ["answered", "num"], ["last answer"]].map(([t, kind]) => h("th", { class: kind }, t)))),
    h("tbody", {}, list.map((n) => h("tr", {}, h("td", {}, shown(n.name)), h("td", {}, badge(n.state)), h("td", { class: "num" }, n.executors), h("td", { class: "num" }, n.busy), h("td", { class: "num" }, count(n.answered)), h("td", {}, time(n.last_answer_at)))))));
}

const HOLDS = { alone: ["alone on its GPU", "warn"], shared: ["shares its GPU", ""], waits: ["waits for a GPU", ""], none: ["slot", ""], learner: ["the learner's place", ""], unknown: ["not known here", ""] };

/** Who holds which slot or GPU, for which rollout, since when and until when. */
function leases({ leases, live, to }) {
  if (!leases.length) return h("p", { class: "soft" }, live ? "Nobody works on anything." : "Nothing was held when the run said its last word.");
  const ago = (ms) => real(Math.max(0, to - ms) / 1000, 1) + " s";
  return [live ? null : h("p", { class: "soft" }, "Held when the run said its last word."),
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, [["slot"], ["GPU"], ["holds"], ["rollout", "num"], ["attempt", "num"], ["for", "num"], ["stage"], ["in it for", "num"], ["taken away in", "num"]].map(([t, kind]) => h("th", { class: kind }, t)))),
      h("tbody", {}, leases.map((l) => {
        const [words, kind] = HOLDS[l.hold];
        return h("tr", { class: "lease" }, h("td", {}, shown(l.lane)), h("td", {}, l.gpu ? shown(l.gpu) : dash), h("td", {}, h("span", { class: "pill " + kind }, words)),
          h("td", { class: "num" }, l.rollout === null ? dash : link(l.rollout)), h("td", { class: "num" }, l.attempt ?? dash), h("td", { class: "num", title: "since " + time(l.since_ms) }, ago(l.since_ms)),
          h("td", {}, l.stage ? shown(l.stage) : dash), h("td", { class: "num" }, ago(l.stage_since_ms)), h("td", { class: "num", title: l.deadline_ms ? "at " + time(l.deadline_ms) : "" }, l.deadline_ms ? real((l.deadline_ms - to) / 1000, 0) + " s" : dash));
      }))))];
}

/** Buttons for the length of time that is shown; `chosen()` gives it in seconds. */
function windows(changed) {
  let seconds = 120;
  const buttons = WINDOWS.map(([name, s]) => h("button", { class: s === seconds ? "on" : "", onclick: () => {
    seconds = s;
    buttons.forEach((b, n) => b.classList.toggle("on", WINDOWS[n][1] === s));
    changed();
  } }, name));
  return { row: h("div", { class: "row" }, buttons), chosen: () => seconds };
}

const CURVES = [["clock", { sm_mhz: "SM MHz", memory_mhz: "memory MHz" }], ["power and temperature", { power_w: "W", temperature_c: "C" }], ["use", { utilisation_percent: "%", inside: "rollouts on it", waiting_to_time: "waiting to be timed" }], ["memory", { memory_used_bytes: "bytes used" }]];

export function executors() {
  const box = h("div", { class: "stack" });
  const top = h("div", { class: "stack" });
  const rows = lanes();
  const said = h("p", { class: "soft small" });
  const self = { box, update, calm: true, close: () => {} };
  const which = windows(() => update());
  const gpus = h("div", { class: "stack" });
  const plots = new Map();
  const busy = plot("Executors", { executors: "present", busy: "busy", queued: "candidates waiting" }, { hint: UNNOTED, time: true });
  const wait = plot("Oldest wait for an executor", { oldest_ms: "ms" }, { hint: UNNOTED, time: true });
  const steps = plot("Executors by step", { "batch.executors": "present", "batch.executors_wanted": "wanted", "batch.executors_busy": "busy (share)" }, { hint: "not reported by this run yet" });
  const held = h("div", {});
  fill(box, card("Lanes", which.row, legend(), rows.box, said), card("Leases: who holds what now", held), gpus, h("div", { class: "grid" }, busy.box, wait.box, steps.box), top);
  async function update() {
    const [crew, overview, timeline] = await Promise.all([ask("/api/crew"), ask("/api/overview"), ask("/api/timeline?window_s=" + which.chosen())]);
    rows.update(timeline);
    fill(held, leases(timeline));
    said.textContent = !timeline.noted ? UNNOTED : time(timeline.from) + " to " + time(timeline.to) + ", " + timeline.lanes.length + " lanes" + (timeline.known_from > timeline.from ? "; busy since " + time(timeline.known_from) + ", before which nothing is known" : "") + (timeline.left_out ? "; " + count(timeline.left_out) + " older spans are not drawn" : "");
    const none = { x: [], y: {} };
    const names = Object.keys(timeline.sources).filter((name) => name.startsWith("gpu "));
    for (const name of names) {
      if (!plots.has(name)) {
        const all = CURVES.map(([title, curves]) => plot(name + ": " + title, curves, { time: true }));
        const about = h("div", {});
        plots.set(name, { all, about });
        gpus.append(card(name, about), h("div", { class: "grid" }, all.map((p) => p.box)));
      }
      const { all, about } = plots.get(name);
      const { last, curves } = timeline.sources[name];
      fill(about, last.error ? h("p", { class: "bad" }, shown(last.error)) : facts([["device", shown(last.name || last.uuid)], ["now", last.sm_mhz + " MHz, " + real(last.power_w, 0) + " W, " + last.temperature_c + " C, " + last.utilisation_percent + " % in use"],
        ["memory", (last.memory_used_bytes / 2 ** 30).toFixed(1) + (last.memory_bytes ? " of " + (last.memory_bytes / 2 ** 30).toFixed(1) : "") + " GiB"], ["slowed down", last.throttle?.length ? last.throttle.join(", ") : "no"],
        last.inside !== undefined && ["rollouts", last.inside + " on it, " + last.waiting_to_check + " wait to be checked, " + last.waiting_to_time + " to be timed"]]));
      all.forEach((p) => p.update(curves));
    }
    const pool = timeline.sources.pool?.curves || none;
    busy.update(pool);
    wait.update(pool);
    steps.update(overview.steps);
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
      card("Nodes", nodes(timeline.sources.pool?.last.nodes)),
      card("Faults of ours, newest first", faults(crew.faults)));
  }
  return self;
}

// Who starts whom again, and the fault that says it was lost (docs/supervision.md). `held`: rollouts that are with it.
const TREE = [["generators", "F101", "generators"], ["judge", "F102", "judge"], ["pool", null, "executors", [["executors", "F103"], ["LLM judge", "F118"]]], ["learner", "F104", "learner"]];

export function actors() {
  const box = h("div", { class: "stack" });
  const top = h("div", { class: "stack" });
  const which = windows(() => update());
  const held = plot("Rollouts with each actor", { generators: "generators", judge: "judge", executors: "executors", rest: "group or learner" }, { hint: UNNOTED, time: true });
  const credits = plot("Credits", { credits_in_use: "in use", credits: "all" }, { hint: "credits are counted in RL", time: true });
  const waits = plot("A message's wait in the orchestrator's mailbox", { mailbox_wait_ms: "ms" }, { hint: UNNOTED, time: true });
  const pool = plot("A message's wait in the pool's mailbox", { mailbox_wait_ms: "ms" }, { hint: UNNOTED, time: true });
  const mail = plot("Messages that wait in mailboxes", { mailbox_orchestrator: "orchestrator", mailbox_generators: "generators", mailbox_judge: "judge", mailbox_pool: "pool" }, { hint: "not noted by the version of Troupe that made this run", time: true });
  const store = plot("Batches that wait for the store (of 256)", { store_batches: "batches" }, { hint: UNNOTED, time: true });
  const speed = plot("Throughput", { scored_per_s: "answers scored/s" }, { hint: "counted in RL", time: true });
  fill(box, top, card("Over time", which.row), h("div", { class: "grid" }, held.box, credits.box, mail.box, waits.box, pool.box, store.box, speed.box));
  async function update() {
    const [crew, timeline] = await Promise.all([ask("/api/crew"), ask("/api/timeline?window_s=" + which.chosen())]);
    const none = { x: [], y: {} };
    const run = timeline.sources.run;
    const times = new Map();
    for (const e of timeline.happenings) if (e.what === "restarted") times.set(e.actor.replace(/^executor \d+$/, "executors"), [...(times.get(e.actor.replace(/^executor \d+$/, "executors")) || []), e.at_ms]);
    const lost = (code) => (code ? h("span", { class: "pill " + (crew.fault_counts[code] ? "bad" : "good") }, count(crew.fault_counts[code] || 0) + " lost (" + code + ")") : null);
    const restarts = (name) => (times.has(name) ? h("span", { class: "soft" }, " restarted " + times.get(name).length + " times, last " + time(Math.max(...times.get(name)))) : null);
    const tree = (list) => h("ul", { class: "tree" }, list.map(([name, code, key, below]) => h("li", {}, h("b", {}, name), " ", lost(code), key && run?.last[key] !== undefined ? " has " + count(run.last[key]) : "", restarts(name), below && tree(below))));
    const total = Object.values(crew.stages).reduce((a, b) => a + b, 0);
    fill(top,
      h("div", { class: "two" },
        card("Supervision", h("b", {}, "orchestrator"), " ", lost("F109"), tree(TREE), h("p", { class: "soft small" }, "Losses are counted from the faults in the store, restarts from what the run noted lately.",
          run?.last.notes_dropped ? " " + count(run.last.notes_dropped) + " notes found no room and were dropped." : "")),
        card("Rollouts in flight by stage",
          STAGES.map(([name, words]) => h("div", { class: "bar", title: words }, h("span", {}, name), h("progress", { max: total || 1, value: crew.stages[name] || 0 }), h("span", {}, count(crew.stages[name] || 0)))),
          h("p", {}, "Credits in use: " + count(crew.in_flight) + " of " + count(crew.credits) + ". No more rollouts than credits are ever in flight."))),
      card("What happened to actors and nodes, newest first", timeline.noted ? happenings(timeline.happenings) : UNNOTED),
      card("Nodes", nodes(timeline.sources.pool?.last.nodes)),
      card("Faults of ours, newest first", faults(crew.faults)));
    for (const p of [held, credits, mail, waits, store, speed]) p.update(run?.curves || none);
    pool.update(timeline.sources.pool?.curves || none);
  }
  return { box, update, calm: true };
}
