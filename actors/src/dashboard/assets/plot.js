// Curves with uPlot: drag to zoom, double-click for all of it, one cursor over all plots of an axis.
import { brief, h } from "./dom.js";

const COLOURS = ["#2f6fed", "#e07b00", "#12945a", "#b03fc0", "#c01c28", "#0e8fa8", "#8a6d3b"];
const HEIGHT = 190;

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A plot: `update(curves)` gives it data. `names` maps a curve to its label; `time` marks an axis of seconds since 1970. */
export function plot(title, names, { hint = "", time = false, unit = "" } = {}) {
  const box = h("div", { class: "plot card" });
  const body = h("div", {});
  box.append(h("h2", { title: hint }, h("span", {}, title), h("span", { class: "soft small" }, unit)), body);
  let chart = null;
  let built = "";
  const build = (labels, data) => {
    chart?.destroy();
    const grid = { stroke: css("--line"), width: 1 };
    const axis = { stroke: css("--soft"), grid, ticks: grid, font: "11px system-ui" };
    chart = new uPlot({
      width: Math.max(body.clientWidth, 260),
      height: HEIGHT,
      scales: { x: { time } },
      // For whoever asks what is drawn: tests.
      hooks: { setScale: [(u, key) => { if (key === "x") box.dataset.x = u.scales.x.min + " " + u.scales.x.max; }] },
      cursor: { sync: { key: time ? "time" : "steps" }, points: { size: 5 } },
      axes: [time ? { ...axis, values: (_, all) => all.map((s) => new Date(1000 * s).toLocaleTimeString("en-GB")), space: 80 } : axis, { ...axis, size: 52, values: (_, all) => all.map(brief) }],
      series: [
        time ? { label: "time", value: (_, s) => (s ? new Date(1000 * s).toLocaleTimeString("en-GB") : "--") } : { label: "step" },
        ...labels.map((label, n) => ({
          label,
          stroke: COLOURS[n % COLOURS.length],
          width: 1.5,
          spanGaps: true,
          points: { show: data[0].length < 3 },
          value: (_, x) => brief(x),
        })),
      ],
    }, data, body);
  };
  const update = (curves) => {
    const found = Object.keys(names).filter((name) => curves.y[name]?.some((v) => v !== null));
    if (!found.length || !curves.x.length) {
      chart?.destroy();
      chart = null;
      built = "";
      body.replaceChildren(h("div", { class: "empty" }, hint || "nothing yet"));
      return;
    }
    const data = [curves.x, ...found.map((name) => curves.y[name])];
    const key = found.join() + document.documentElement.dataset.theme + (curves.x.length < 3);
    if (chart && built === key) {
      const { min, max } = chart.scales.x;
      const old = chart.data[0];
      const zoomed = min > old[0] || max < old[old.length - 1];
      // A zoomed plot keeps what is looked at.
      chart.setData(data, !zoomed);
      if (zoomed) chart.setScale("x", { min, max });
      return;
    }
    body.replaceChildren();
    build(found.map((name) => names[name]), data);
    built = key;
  };
  const resize = new ResizeObserver(() => {
    if (chart && Math.abs(body.clientWidth - chart.width) > 2) chart.setSize({ width: body.clientWidth, height: HEIGHT });
  });
  resize.observe(box);
  return { box, update };
}
