// Every page of `troupe dashboard` in Chromium; see README.md beside this file.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import assert from "node:assert/strict";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.env.CARGO_TARGET_DIR || resolve(here, "../../target");
const troupe = join(target, "release/troupe");
const maker = join(target, "release/examples/inspect_store");
// Far longer than the pages take on a slow machine.
const LIVE_SECONDS = 900;
const PATIENCE = 240000;

function skip(reason) {
  console.log("skipped: " + reason);
  process.exit(0);
}

const args = process.argv.slice(2);
const option = (name) => {
  const at = args.indexOf(name);
  return at < 0 ? null : args.splice(at, 2)[1];
};
// Pictures are always kept: where --shots or TROUPE_SHOTS says, else beside what was built.
const shots = resolve(option("--shots") || process.env.TROUPE_SHOTS || join(target, "browser-shots"));
let large = option("--large");
const [run] = args;

let chromium;
try {
  ({ chromium } = await import("playwright-core"));
} catch {
  skip("playwright-core is not installed (npm install --prefix tests/browser --no-save playwright-core@1.65.1)");
}
const browserPath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
if (!browserPath) skip("no Chromium");
for (const binary of [troupe, maker]) if (!existsSync(binary)) skip(binary + " is not built");

const children = [];
const scratch = mkdtempSync(join(tmpdir(), "dashboard-test-"));

/** Starts a process; the first line that it prints. */
function start(program, ...words) {
  const child = spawn(program, words, { stdio: ["ignore", "pipe", "inherit"] });
  children.push(child);
  return new Promise((done, fail) => {
    let text = "";
    setTimeout(() => fail(new Error(program + " said nothing")), PATIENCE).unref();
    child.stdout.on("data", (data) => {
      text += data;
      if (text.includes("\n")) done(text.split("\n")[0]);
    });
    child.on("exit", (code) => fail(new Error(program + " ended with " + code)));
  });
}

const problems = [];
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox"] });

async function open(base, scheme = "light") {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 }, colorScheme: scheme });
  page.setDefaultTimeout(60000);
  page.on("console", (m) => { if (m.type() === "error" && !m.text().includes("400 (Bad Request)")) problems.push(m.text()); });
  page.on("pageerror", (e) => problems.push(e.message));
  page.on("request", (r) => { if (!r.url().startsWith(base) && !r.url().startsWith("data:")) problems.push("asks " + r.url()); });
  await page.goto(base);
  await page.getByText("Ledger: train").waitFor();
  return page;
}

const picture = (page, name) => page.screenshot({ path: join(shots, name + ".png") });

const go = (page, hash) => page.evaluate((hash) => { location.hash = hash; }, hash);

async function check(name, what) {
  const began = Date.now();
  await what();
  assert.deepEqual(problems, [], name);
  console.log("ok  " + name + "  (" + (Date.now() - began) + " ms)");
}

/** The overview in a new page: all bytes of it, and how long until it is drawn. The best of five: another program's load is not the page's. */
async function weigh(base) {
  let [bytes, took] = [0, Infinity];
  for (let n = 0; n < 5; n++) {
    const fresh = await browser.newPage();
    bytes = 0;
    fresh.on("response", (r) => { bytes += Number(r.headers()["content-length"] || 0); });
    const began = Date.now();
    await fresh.goto(base);
    await fresh.getByText("Ledger: train").waitFor();
    took = Math.min(took, Date.now() - began);
    await fresh.close();
  }
  assert.ok(bytes > 20000 && bytes < 200000, bytes + " bytes");
  console.log("    " + bytes + " bytes, " + took + " ms");
}

async function own() {
  const folder = join(scratch, "live");
  await start(maker, "live", folder, String(LIVE_SECONDS));
  const base = await start(troupe, "dashboard", folder, "--listen", "127.0.0.1:0");
  const page = await open(base);

  await check("a page is light and fast", () => weigh(base));

  await check("overview: numbers, plots, zoom", async () => {
    await page.locator(".plot canvas").first().waitFor();
    await page.locator(".alarm, .quiet").first().waitFor();
    const range = (plot) => plot.evaluate((p) => p.dataset.x.split(" ").map(Number));
    const near = (a, b, whole) => Math.abs(a - b) < 0.03 * whole;
    /** From 25 % to 75 % of the plot's width. */
    const drag = async (plot) => {
      const box = await plot.locator(".u-over").boundingBox();
      await page.mouse.move(box.x + 0.25 * box.width, box.y + 40);
      await page.mouse.down();
      await page.mouse.move(box.x + 0.75 * box.width, box.y + 60, { steps: 5 });
      await page.mouse.up();
    };
    // The second one's axis grows with the run.
    for (const title of ["Correctness", "Rollouts ended"]) {
      const plot = page.locator(".plot", { has: page.getByText(title, { exact: true }) });
      await plot.locator("canvas").waitFor();
      await plot.scrollIntoViewIfNeeded();
      const [from, to] = await range(plot);
      await drag(plot);
      const [low, high] = await range(plot);
      const whole = to - from;
      const exact = near(low, from + 0.25 * whole, whole) && near(high, from + 0.75 * whole, whole);
      assert.ok(title === "Correctness" ? exact : low > from && high - low < 0.8 * whole, title + ": " + [from, to, low, high]);
      // The run goes on meanwhile, and what is looked at stays.
      await page.waitForTimeout(1500);
      assert.deepEqual(await range(plot), [low, high], title + " keeps its zoom");
      if (title === "Correctness") await picture(page, "zoomed");
      await plot.locator(".u-over").dblclick();
      const [again, end] = await range(plot);
      assert.ok(again <= from && end >= to, title + ": a double click shows all of it: " + [again, end]);
    }
    await page.evaluate(() => scrollTo(0, 0));
    await picture(page, "overview");
  });

  await check("hostile answers stay text on every page", async () => {
    const count = (await (await fetch(base + "api/rollouts?filter=" + encodeURIComponent("task ~ 'task '"))).json()).matching;
    assert.equal(count, 8);
    const hashes = ["#/", "#/rollouts?filter=" + encodeURIComponent("task ~ 'task '"), "#/tasks", "#/executors", "#/actors"];
    for (let id = 0; id < count; id++) hashes.push("#/rollout/" + id);
    const { rollouts } = await (await fetch(base + "api/rollouts?limit=8&filter=" + encodeURIComponent("task ~ 'task '"))).json();
    for (const r of rollouts) hashes.push("#/task/" + encodeURIComponent(r.task));
    // Programs that passed, with a hostile line in each: best kernels, their diffs, findings of the executor.
    for (let id = count; id < 2 * count; id++) hashes.push("#/rollout/" + id);
    for (const n of [0, 1, 2]) hashes.push("#/task/standin_00" + n);
    hashes.push("#/rollouts?filter=" + encodeURIComponent("finding ~ 'hacked'"), "#/rollouts?filter=" + encodeURIComponent("finding ~ '<script>window.hacked = 1</script>'"));
    for (const hash of hashes) {
      await go(page, hash);
      await page.waitForTimeout(250);
      if (hash.includes("rollout/") || hash.includes("task/")) await page.locator("#page h1").waitFor();
      await page.evaluate(() => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
      const state = await page.evaluate(() => [window.hacked, !!document.getElementById("hacked"), document.querySelectorAll("#page script, #page iframe, #page img, #page svg, #page [onerror], #page [onload]").length,
        [...document.querySelectorAll("#page a")].filter((a) => !a.getAttribute("href").startsWith("#/")).length, /[\u202a-\u202e\u2066-\u2069\u001b]/.test(document.body.textContent)]);
      assert.deepEqual(state, [undefined, false, 0, 0, false], hash);
    }
    await go(page, "#/rollout/1");
    await page.getByText("onerror=\"window.hacked=1\"").first().waitFor();
    await go(page, "#/rollout/6");
    await page.getByText("U+202E").first().waitFor();
    await picture(page, "hostile");
    // The diff of a best kernel and a finding's message are there, as text.
    await go(page, "#/task/standin_000");
    await page.locator(".diff .add").first().waitFor();
    const added = await page.locator(".diff .add").allTextContents();
    assert.ok(added.some((line) => line.startsWith("# ")), added.join("\n"));
    await picture(page, "task");
    await go(page, "#/rollout/9");
    await page.getByText("</pre></section><img src=x onerror=\"window.hacked=1\" id=hacked>").first().waitFor();
    await go(page, "#/rollouts?filter=" + encodeURIComponent("finding ~ 'onerror'"));
    await page.waitForFunction(() => document.querySelectorAll("#page tbody tr").length === 1);
    assert.equal(await page.locator("#page tbody tr td a").first().textContent(), "9");
  });

  await check("a rollout that begins appears within a second, and its row changes", async () => {
    await go(page, "#/rollouts");
    await page.locator("#page tbody tr").first().waitFor();
    const newest = () => page.evaluate(() => Number(document.querySelector("#page tbody tr td a").textContent));
    const first = await newest();
    await page.waitForFunction((first) => Number(document.querySelector("#page tbody tr td a").textContent) >= first + 4, first, { timeout: 15000 });
    // At most a second behind, now and then: one is added every 200 ms, and a busy machine draws when it can.
    const behind = async () => (await (await fetch(base + "api/rollouts?limit=1")).json()).rollouts[0].id - (await newest());
    const asked = Date.now();
    for (let last; (last = await behind()) > 5; await page.waitForTimeout(50)) assert.ok(Date.now() - asked < 15000, last + " rollouts behind");
    await page.getByText("sampling").first().waitFor();
    await picture(page, "rollouts");
  });

  await check("a page rests while a run writes, also when a message comes while it waits for an answer", async () => {
    let answered = 0;
    const rests = [];
    await page.route("**/api/rollouts?*", async (route) => {
      if (answered) rests.push(Date.now() - answered);
      const response = await route.fetch();
      // Longer than between two messages of this run.
      await new Promise((done) => setTimeout(done, 250));
      answered = Date.now();
      await route.fulfill({ response });
    });
    for (let n = 0; rests.length < 6 && n < 150; n++) await page.waitForTimeout(100);
    await page.unrouteAll({ behavior: "wait" });
    assert.ok(rests.length >= 6 && Math.min(...rests) >= 95, "rests of " + rests.join(", ") + " ms");
  });

  await check("filters: good, wrong, from the address; sorting; keys", async () => {
    const box = page.locator("input[type=search]");
    await page.keyboard.press("/");
    await page.keyboard.type("id < 8 and answer ~ onload");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll("#page tbody tr").length === 1);
    assert.ok(page.url().includes("filter="));
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll("#page tbody tr").length === 1);
    assert.equal(await box.inputValue(), "id < 8 and answer ~ onload");
    await box.fill("verdit = passed");
    await box.press("Enter");
    await page.getByText("did you mean `verdict`?").waitFor();
    await box.fill("id < 8");
    await box.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll("#page tbody tr").length === 8);
    await page.getByRole("button", { name: "id", exact: true }).click();
    await page.getByRole("button", { name: /^id/ }).first().click();
    await page.waitForFunction(() => document.querySelector("#page tbody tr td a").textContent === "0");
    await page.locator("h1, header").first().click();
    await box.press("Escape");
    await page.keyboard.press("j");
    await page.keyboard.press("j");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Rollout 1" }).waitFor();
    await page.keyboard.press("n");
    await page.getByRole("heading", { name: "Rollout 2" }).waitFor();
    await page.keyboard.press("3");
    await page.getByText("standin_000").first().waitFor();
  });

  await check("a rollout: overlays and a diff", async () => {
    await go(page, "#/rollout/2");
    for (const name of ["advantage", "class", "mask", "policy", "log-prob"]) {
      await page.getByRole("button", { name, exact: true }).click();
      assert.ok(await page.locator(".tokens span[class]").count() > 0, name);
    }
    // What the learner left out is masked, what it capped is marked.
    await page.getByRole("button", { name: "mask", exact: true }).click();
    assert.deepEqual([await page.locator(".tokens span.masked").count(), await page.locator(".tokens span.q2").count()], [6, 3]);
    await page.getByText("6 left out by IcePop").waitFor();
    await picture(page, "mask");
    await page.locator(".tokens > span").nth(3).hover();
    await page.getByText("log-prob -0.6000").waitFor();
    await page.getByRole("button", { name: "diff" }).first().click();
    await page.locator(".diff .add").first().waitFor();
  });

  await check("executors: lanes, a GPU, nodes, windows of time", async () => {
    await go(page, "#/executors");
    await page.locator(".lane-row canvas").nth(4).waitFor();
    await page.getByRole("button", { name: "10 min" }).click();
    // Each lane: nothing, and at least one stage.
    await page.waitForFunction(() => [...document.querySelectorAll(".lane-row canvas")].every((c) => new Set(new Uint32Array(c.getContext("2d").getImageData(0, c.height >> 1, c.width, 1).data.buffer)).size >= 2));
    await page.getByText("2600 MHz").or(page.getByText("1909 MHz, 301 W, 59 C, 90 % in use")).first().waitFor();
    await page.getByText("gpu 0: clock").waitFor();
    await page.getByText("working").first().waitFor();
    const canvas = page.locator(".lane-row canvas").first();
    const box = await canvas.boundingBox();
    // From right to left until a span is met.
    for (let x = box.width - 2; x > 0 && !(await page.locator(".lanes p").textContent()).includes("rollout "); x -= 2) await page.mouse.move(box.x + x, box.y + 8);
    assert.match(await page.locator(".lanes p").textContent(), /executor 0, rollout \d+, attempt 1: .*time/);
    // Who holds what: the one that is timed, alone on its GPU, with a deadline.
    const lease = page.locator("tr.lease", { has: page.getByRole("link", { name: "7", exact: true }) });
    await lease.getByText("alone on its GPU").waitFor();
    assert.match(await lease.locator("td").last().textContent(), /^-?\d+ s$/);
    await picture(page, "executors");
    await page.mouse.down();
    await page.mouse.up();
    await page.getByRole("heading", { name: /^Rollout \d/ }).waitFor();
  });

  await check("actors: the tree, what happened, queues", async () => {
    await go(page, "#/actors");
    await page.getByText("restarted").first().waitFor();
    await page.getByText("1 times, last").or(page.getByText("restarted 1 times")).first().waitFor();
    await page.locator(".plot canvas").nth(3).waitFor();
    await picture(page, "actors");
  });

  await check("where a rollout is timed now, and what the learner said of its tokens", async () => {
    await go(page, "#/rollout/7");
    await page.getByText("now: time").waitFor();
    await go(page, "#/rollout/2");
    await page.getByText("on gpu 0").first().waitFor();
    for (const name of ["entropy", "ratio"]) {
      await page.getByRole("button", { name, exact: true }).click();
      assert.ok(await page.locator(".tokens span[class]").count() > 0, name);
    }
    await page.locator(".tokens > span").nth(3).hover();
    await page.getByText("entropy 0.5000  ratio 1.0513").waitFor();
    await page.getByText("Entropy in the plan 0.500, in the code 0.500 nats.").waitFor();
  });

  await check("a token: the form, a wrong one, the right one", async () => {
    const file = join(scratch, "token");
    writeFileSync(file, "a-token-of-some-length\n");
    const closed = await start(troupe, "dashboard", folder, "--listen", "127.0.0.1:0", "--token-file", file);
    const other = await browser.newPage();
    await other.goto(closed);
    await other.getByLabel("The token of this dashboard").fill("a-wrong-token-of-some-length");
    await other.getByRole("button", { name: "Open" }).click();
    await other.getByText("That is not the token").waitFor();
    await other.getByLabel("The token of this dashboard").fill("a-token-of-some-length");
    await other.getByRole("button", { name: "Open" }).click();
    await other.getByText("Ledger: train").waitFor();
    assert.ok(!other.url().includes("token"));
    await other.close();
  });

  await check("dark and light", async () => {
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const before = await background();
    await page.keyboard.press("t");
    assert.notEqual(await background(), before);
    await page.reload();
    await page.locator("#page h1").waitFor();
    assert.notEqual(await background(), before, "it is remembered");
    await picture(page, "dark");
  });
  await page.close();
}

async function pictures() {
  const base = await start(troupe, "dashboard", run, "--listen", "127.0.0.1:0");
  const one = async (filter) => (await (await fetch(base + "api/rollouts?limit=1&filter=" + encodeURIComponent(filter))).json()).rollouts[0];
  const passed = (await one("phase = train and ending = trained and verdict = passed")) || (await one("id >= 0"));
  const rejected = (await one("verdict = rejected and phase = train")) || passed;
  const pages = [["overview", ""], ["rollouts", "rollouts?filter=" + encodeURIComponent("phase = train and reward.code = 1")], ["rollout", "rollout/" + passed.id], ["rejected", "rollout/" + rejected.id],
    ["tasks", "tasks"], ["task", "task/" + encodeURIComponent(passed.task)], ["executors", "executors"], ["actors", "actors"]];
  for (const scheme of ["light", "dark"]) {
    const page = await open(base, scheme);
    for (const [name, hash] of pages) {
      await check(name + ", " + scheme, async () => {
        await go(page, "#/" + hash);
        await page.waitForTimeout(500);
        assert.ok((await page.locator("#page").innerText()).length > 100, name);
        await picture(page, "run-" + name + "-" + scheme);
      });
    }
    await page.close();
  }
}

/** Answers of a store that have ended: only those are indexed. */
async function ended(at) {
  return (await (await fetch(at + "api/rollouts?limit=1&filter=" + encodeURIComponent("ending != none"))).json()).matching;
}

async function many() {
  if (!large) {
    large = join(scratch, "large");
    await start(maker, "bench", large, "100000");
  }
  const base = await start(troupe, "dashboard", large, "--listen", "127.0.0.1:0");
  const began = Date.now();
  while (!(await (await fetch(base + "api/overview")).json()).pulse.loaded) {
    assert.ok(Date.now() - began < PATIENCE, "it was not read in time");
    await new Promise((done) => setTimeout(done, 200));
  }
  await check("a large store: its overview is light and fast", () => weigh(base));
  const page = await open(base);
  await check("a large store: filters and sorting in the page", async () => {
    await go(page, "#/rollouts");
    await page.locator("#page tbody tr").first().waitFor();
    // The newest page of a search is there before the rest was looked at.
    for (const filter of ["answer ~ empty_like", "verdict = passed", "task ~ standin_01 and reward.code = 1", "staleness > 1 and tokens < 30"]) {
      const box = page.locator("input[type=search]");
      await box.fill(filter);
      const asked = Date.now();
      const answer = page.waitForResponse((r) => r.url().includes("/api/rollouts?"));
      await box.press("Enter");
      const { all, matching } = await (await answer).json();
      await page.getByText(matching === null ? "looked through the newest" : "of " + all.toLocaleString("en")).waitFor();
      const took = Date.now() - asked;
      console.log("    " + filter + ": " + matching + " of " + all + ", shown after " + took + " ms");
    }
    await page.locator("input[type=search]").fill("answer ~ 'not to be found'");
    await page.keyboard.press("Enter");
    await page.getByText(/looked through the newest [\d,]+ of|0 of/).first().waitFor();
    // The index of answers is built meanwhile: in small bites on a busy machine, which would take minutes for all of them.
    const search = async () => (await fetch(base + "api/rollouts?limit=1&filter=" + encodeURIComponent("answer ~ 'not to be found'"))).json();
    const [{ indexed: first }, all, asked] = [await search(), await ended(base), Date.now()];
    for (let now = first; now < all && now <= first; now = (await search()).indexed) {
      assert.ok(Date.now() - asked < PATIENCE, "the index stays at " + now);
      await page.waitForTimeout(200);
    }
  });
  await page.close();
  const few = join(scratch, "few");
  await start(maker, "bench", few, "3000");
  const other = await start(troupe, "dashboard", few, "--listen", "127.0.0.1:0");
  const small = await open(other);
  await check("a search through all answers comes to its end, with all of them in the index", async () => {
    const hash = "answer ~ 'not to be found'";
    await go(small, "#/rollouts?filter=" + encodeURIComponent(hash));
    const indexed = async () => (await (await fetch(other + "api/rollouts?limit=1&filter=" + encodeURIComponent(hash))).json()).indexed;
    const [all, asked] = [await ended(other), Date.now()];
    assert.ok(all > 0);
    for (let now; (now = await indexed()) < all; await small.waitForTimeout(200)) assert.ok(Date.now() - asked < PATIENCE, now + " are indexed");
    await small.getByText(/^0 of/).first().waitFor();
  });
  await small.close();
}

let failed = true;
try {
  mkdirSync(shots, { recursive: true });
  await own();
  if (run) await pictures();
  await many();
  console.log("pictures: " + shots);
  failed = false;
} finally {
  await browser.close();
  children.forEach((child) => { child.removeAllListeners("exit"); child.kill(); });
  rmSync(scratch, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
