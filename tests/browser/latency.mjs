// How long it takes until a page of `troupe dashboard` shows what happened to a rollout; see README.md beside this file.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import assert from "node:assert/strict";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.env.CARGO_TARGET_DIR || resolve(here, "../../target");
const troupe = process.env.TROUPE || join(target, "release/troupe");

const args = process.argv.slice(2);
const option = (name, or) => {
  const at = args.indexOf(name);
  return at < 0 ? or : Number(args.splice(at, 2)[1]);
};
const wanted = option("--count", 100);
const deadline = Date.now() + 1000 * option("--seconds", 300);
const [run] = args;
assert.ok(run, "usage: node latency.mjs RUN_DIR [--count N] [--seconds N]; the run goes on");

const { chromium } = await import("playwright-core");
const browserPath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
const dashboard = spawn(troupe, ["dashboard", run, "--listen", "127.0.0.1:0"], { stdio: ["ignore", "pipe", "inherit"] });
const base = await new Promise((done, fail) => {
  let text = "";
  setTimeout(() => fail(new Error("no address")), 60000).unref();
  dashboard.stdout.on("data", (data) => {
    text += data;
    if (text.includes("\n")) done(text.split("\n")[0]);
  });
});
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox"] });

/** A page sorted by when something happened, newest first. It notes when each rollout was first drawn in it. */
async function open(sort) {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  await page.goto(base + "#/rollouts?sort=-" + sort);
  await page.waitForFunction(() => /rollouts/.test(document.getElementById("status").textContent) && !/reading/.test(document.getElementById("status").textContent), null, { timeout: 60000 });
  await page.locator("#page tbody").waitFor({ state: "attached" });
  await page.waitForTimeout(2000);
  await page.evaluate(() => {
    const ids = () => [...document.querySelectorAll("#page tbody tr td:first-child a")].map((a) => Number(a.textContent));
    window.before = new Set(ids());
    window.drawn = new Map();
    new MutationObserver(() => requestAnimationFrame(() => {
      const now = Date.now();
      for (const id of ids()) if (!window.before.has(id) && !window.drawn.has(id)) window.drawn.set(id, now);
    })).observe(document.getElementById("page"), { childList: true, subtree: true });
  });
  return page;
}

const began = Date.now();
const pages = { sampled_at: await open("sampled_at"), ended_at: await open("ended_at") };
const watching = Date.now();
let known = {};
while (Date.now() < deadline) {
  await new Promise((done) => setTimeout(done, 1000));
  for (const [sort, page] of Object.entries(pages)) known[sort] = await page.evaluate(() => [...window.drawn]);
  if (Object.values(known).every((all) => all.length >= wanted)) break;
}
for (const [sort, drawn] of Object.entries(known)) {
  const lags = [];
  for (const [id, at] of drawn) {
    const { rollouts } = await (await fetch(base + "api/rollouts?limit=1&filter=" + encodeURIComponent("id = " + id))).json();
    // What is in the list from before is not new in it; what came with no time to it was drawn too early (at its end).
    const happened = rollouts[0]?.[sort];
    if (happened && happened >= watching) lags.push(at - happened);
  }
  lags.sort((a, b) => a - b);
  const at = (share) => lags[Math.min(lags.length - 1, Math.floor(lags.length * share))];
  console.log(sort + ": " + lags.length + " rollouts in " + ((Date.now() - began) / 1000).toFixed(0) + " s; drawn after it, ms: median " + at(0.5) + ", p95 " + at(0.95) + ", max " + at(1) + "; within 1 s: " + lags.filter((l) => l <= 1000).length);
}
await browser.close();
dashboard.kill();
