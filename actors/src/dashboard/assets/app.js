// The frame: pages by the address' fragment, live messages, keys, dark and light.
import { answeredAt, fill, h } from "./dom.js";
import { overview } from "./overview.js";
import { rollouts } from "./rollouts.js";
import { rollout } from "./rollout.js";
import { taskList, task } from "./tasks.js";
import { executors, actors } from "./crew.js";

const PAGES = [["", "Overview", overview], ["rollouts", "Rollouts", rollouts], ["tasks", "Tasks", taskList], ["executors", "Executors", executors], ["actors", "Actors", actors]];
const MORE = { rollout, task };
const body = document.getElementById("page");
const status = document.getElementById("status");
// Between two updates of a page by live messages, milliseconds. The first comes at once.
// Where single rollouts are shown: a rest in proportion to the work, of which waiting for an answer is little, but no longer than LONGEST
// while answers come quickly. Where they do not, and on pages whose answers are made of many rollouts (`calm`), in proportion to all of it.
const PAUSE = 100;
const CALM = 300;
const LONGEST = 250;
const REST = 4;
const WAIT = 2;
const SLOW = 300;
// Without a message a page asks again after this long: that a run wrote nothing for a while is news too.
const AGE = 5000;
// After this long a stream that the browser gave up is opened again.
const RECONNECT = 3000;

let page = { update: async () => {}, keys: {} };
let shownAt = "";
let timer = 0;
let busy = false;
// Asked for by somebody while it was busy: at once. Told by a message meanwhile: after a rest.
let again = false;
let news = false;
let rest = PAUSE;
let rested = 0;

function route() {
  const hash = location.hash.replace(/^#\/?/, "");
  const [path, search = ""] = hash.split("?");
  const [name, ...rest] = path.split("/").map(decodeURIComponent);
  return { name, rest, search: new URLSearchParams(search) };
}

async function go() {
  const { name, rest, search } = route();
  const here = name + "/" + rest.join("/");
  // The same page with another filter looks after itself.
  if (here === shownAt && page.moved) return page.moved(search);
  shownAt = here;
  const make = PAGES.find(([path]) => path === name)?.[2] || MORE[name];
  page.close?.();
  page = make ? make(rest[0], search) : { box: h("p", {}, "There is no such page."), update: async () => {} };
  page.keys ||= {};
  fill(body, page.box);
  const tab = { rollout: "rollouts", task: "tasks" }[name] ?? name;
  fill(document.getElementById("nav"), PAGES.map(([path, title], n) =>
    h("a", { href: "#/" + path, class: path === tab ? "here" : "", title: "key " + (n + 1) }, title)));
  document.title = "Troupe: " + (PAGES.find(([path]) => path === tab)?.[1] || "") + (rest[0] ? " " + rest[0] : "");
  scrollTo(0, 0);
  await update();
}

/** Asks for what the page shows. What is asked for meanwhile leads to one more round, and so do messages, after a rest. */
async function update() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  news = false;
  const asked = page;
  const began = performance.now();
  try {
    await asked.update();
    const took = performance.now() - began;
    const drew = Math.min(performance.now() - answeredAt(), took);
    rest = asked.calm || took > SLOW ? Math.max(CALM, REST * took) : Math.min(Math.max(PAUSE, REST * drew + WAIT * (took - drew)), LONGEST);
    // Back from an error.
    if (asked === page && page.box.parentNode !== body) fill(body, page.box);
  } catch (error) {
    if (error.name !== "AbortError" && asked === page) {
      fill(body, h("p", { class: "error" }, error.message), h("button", { onclick: () => { shownAt = ""; go(); } }, "Try again"));
    }
  }
  busy = false;
  rested = performance.now();
  if (again) {
    again = false;
    await update();
  } else if (news) {
    soon();
  }
}

/** After the rest of the last update; once, however many ask. */
function soon() {
  news = true;
  if (busy || timer) return;
  timer = setTimeout(() => {
    timer = 0;
    if (!busy && page.live !== false) update();
  }, Math.max(0, rested + rest - performance.now()));
}

function pulsed(pulse, last) {
  const words = pulse.trouble || (pulse.loaded ? "" : "reading ") + pulse.rollouts.toLocaleString("en") + " rollouts, " + pulse.open + " in flight" + (pulse.behind ? ", " + pulse.behind.toLocaleString("en") + " not read yet" : "");
  status.textContent = words;
  status.className = "pill " + (pulse.trouble ? "bad" : pulse.open ? "good" : "");
  if (pulse.version !== last && last !== -1) soon();
}

/** A run that died or froze sends no message. */
function aged() {
  // A page that shows an error is tried again whatever it shows else.
  if (document.hidden || (page.live === false && page.box.isConnected) || busy || timer) return;
  if (performance.now() - rested >= Math.max(AGE, rest)) update();
}

/** One stream while the page is seen: browsers allow few, and a hidden page needs none. */
function live() {
  let source = null;
  let last = -1;
  const connect = () => {
    const mine = new EventSource("/api/live");
    source = mine;
    source.addEventListener("pulse", (event) => {
      const pulse = JSON.parse(event.data);
      pulsed(pulse, last);
      last = pulse.version;
    });
    source.addEventListener("error", () => {
      status.textContent = "the dashboard does not answer";
      status.className = "pill bad";
      // After a broken connection the browser tries again by itself, after an answer that is an error it does not.
      if (mine.readyState !== EventSource.CLOSED) return;
      setTimeout(() => {
        if (source === mine && !document.hidden) connect();
      }, RECONNECT);
    });
  };
  document.addEventListener("visibilitychange", () => {
    source?.close();
    source = null;
    if (!document.hidden) connect();
  });
  if (!document.hidden) connect();
}

function theme(next) {
  const dark = next ?? localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = dark;
  if (next) {
    localStorage.setItem("theme", next);
    update();
  }
}

const other = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
const help = () => document.getElementById("keys").showModal();

document.addEventListener("keydown", (event) => {
  const writing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === "Escape" && writing) return event.target.blur();
  if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
  const number = "12345".indexOf(event.key);
  if (number >= 0) location.hash = "#/" + PAGES[number][0];
  else if (event.key === "t") other();
  else if (event.key === "?") help();
  else if (event.key === "Escape") history.back();
  else if (event.key === "/" && document.querySelector("input[type=search]")) document.querySelector("input[type=search]").focus();
  else if (page.keys[event.key]) page.keys[event.key]();
  else return;
  event.preventDefault();
});
document.getElementById("theme").addEventListener("click", other);
document.getElementById("help").addEventListener("click", help);
addEventListener("hashchange", go);
theme();
go();
live();
setInterval(aged, 1000);
