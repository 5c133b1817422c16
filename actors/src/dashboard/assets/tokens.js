// What the store holds of every token, laid over the answer.
import { dash, fill, h, real, shown } from "./dom.js";

const level = (x, max) => Math.min(5, Math.ceil((5 * x) / (max || 1)));

const FATES = ["", "  weight capped", "  left out by IcePop", "  answer rejected", "  answer rejected for one token"];

export function tokens(found) {
  if (!found) return h("p", { class: "soft" }, "Not sampled yet.");
  const code = (n) => found.plan === null || n >= found.plan;
  const advantage = (n) => (code(n) ? found.advantage_code : found.advantage_plan);
  const largest = Math.max(Math.abs(found.advantage_plan ?? 0), Math.abs(found.advantage_code ?? 0));
  const ratio = (n) => Math.exp(found.learner.logprobs[n] - found.logprobs[n]);
  const fates = found.learner?.fates;
  const fate = (n) => fates?.[n] ?? 0;
  // What a token's place weighs in the objective, and whether it has a gradient at all.
  const weight = (n) => (code(n) ? 1 : found.plan_weight ?? 1);
  const held = (found.kl_coef ?? 0) > 0;
  const counts = (n) => found.trained && fate(n) <= 1 && weight(n) !== 0 && (held || !!advantage(n));
  /** Why tokens did not count. */
  function uncounted() {
    if (!found.trained) return "the rollout was not trained on, or by a step that was skipped";
    const of = (code) => (fates || []).filter((f) => f === code).length;
    const parts = [of(2) && of(2) + " left out by IcePop", of(3) && "the answer was rejected: its mean ratio is out of bounds", of(4) && "the answer was rejected for one token"].filter((part) => part);
    const none = [!held && "an advantage of zero", found.plan_weight === 0 && "the plan, which weighs nothing (reward.alpha is 0)"].filter((part) => part);
    return ([...parts, ...none].join("; ") || "nothing") + (held ? ". Tokens without an advantage count through learner.kl_coef" : "") + (of(1) ? ". Red has a capped weight: " + of(1) : "") +
      (fates ? "" : ". What the learner left out is not known of this run (store format 3)");
  }
  const versions = [...new Set(found.policies)];
  const modes = {
    "log-prob": [(n) => { const q = level(-found.logprobs[n], 4); return q ? "q" + q : ""; }, "the redder, the less likely it was when it was sampled (full at -4 nats)"],
    advantage: [(n) => {
      const a = advantage(n);
      return a ? (a > 0 ? "g" : "q") + level(Math.abs(a), largest) : "";
    }, "green is made likelier, red less likely; plan and code have one advantage each"],
    class: [(n) => (code(n) ? "v0" : "v1"), "orange is plan, blue is code"],
    mask: [(n) => (!counts(n) ? "masked" : fate(n) === 1 ? "q2" : ""), "grey did not count: " + uncounted()],
    ...(found.learner ? {
      entropy: [(n) => { const e = found.learner.entropies[n]; return e > 0.001 ? "q" + level(e, 2) : ""; }, "how undecided the learner was there (full at 2 nats), before the step"],
      ratio: [(n) => { const r = ratio(n); return Math.abs(r - 1) < 0.001 ? "" : (r > 1 ? "g" : "q") + level(Math.abs(Math.log(r)), 0.2); }, "learner to sampling policy before the step: green above 1, red below (full at a factor of 1.22); at 1 both agree"],
    } : {}),
    policy: [(n) => "v" + (versions.indexOf(found.policies[n]) % 4), "policy versions: " + versions.join(", ")],
  };
  const body = h("div", { class: "tokens mono" });
  const legend = h("span", { class: "soft small" });
  const about = h("p", { class: "mono small" }, "Point at a token.");
  const spans = found.text.map((text, n) => {
    const point = () => fill(about, "token " + n + " (id " + found.ids[n] + ")  log-prob " + real(found.logprobs[n], 4) + "  probability " + real(Math.exp(found.logprobs[n]), 4) +
      "  " + (code(n) ? "code" : "plan") + "  advantage " + real(advantage(n), 4) + "  policy " + found.policies[n] +
      (found.learner ? "  entropy " + real(found.learner.entropies[n], 4) + "  ratio " + real(ratio(n), 4) : "") + FATES[fate(n)]);
    return h("span", { onmouseenter: point }, shown(found.readable ? text : text + " "));
  });
  const buttons = Object.keys(modes).map((name) => h("button", { onclick: () => choose(name) }, name));
  function choose(name) {
    const [of, words] = modes[name];
    spans.forEach((span, n) => { span.className = of(n); });
    buttons.forEach((b) => b.classList.toggle("on", b.textContent === name));
    legend.textContent = words;
  }
  fill(body, spans);
  choose("log-prob");
  const mean = (from, to) => (to > from ? real(found.learner.entropies.slice(from, to).reduce((a, b) => a + b, 0) / (to - from), 3) : dash);
  const sum = found.logprobs.reduce((a, b) => a + b, 0);
  return h("div", {},
    h("div", { class: "row" }, buttons, legend),
    body, about,
    h("p", { class: "soft small" }, found.ids.length + " tokens, mean log-prob " + (found.ids.length ? (sum / found.ids.length).toFixed(4) : dash) + ". ",
      found.left_out ? found.left_out + " more are not shown. " : "",
      found.readable ? "" : "The tokenizer is not in the run directory: ids are shown. ",
      found.learner ? "Entropy in the plan " + mean(0, found.plan ?? 0) + ", in the code " + mean(found.plan ?? 0, found.ids.length) + " nats." : "Entropy and ratio are known of what was trained on, in runs since store format 2."));
}
