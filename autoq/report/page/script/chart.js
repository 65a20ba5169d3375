// The chart: every recipe by a cost and a figure, with zoom, pan and choice.

import { colors, drawAxes, haloText, labelWidth, openCanvas, stroke, tickText } from "./canvas.js";
import { showTip } from "./chart_tip.js";
import { describe, drawKey } from "./chart_words.js";
import { boxed, panned, zoomed } from "./chart_zoom.js";
import { byId, run } from "./data.js";
import { byName } from "./dom.js";
import { figureText } from "./figures.js";
import { listen, zoomKey } from "./gestures.js";
import { COLORS, Labels, drawArrow, drawDots, drawMark, drawRing } from "./marks.js";
import { prefixFor } from "./numbers.js";
import { makeScale, spanOf } from "./scale.js";
import { choose, frontOf, onChange, shownImproved, shownPoints, view, xAxis, yAxis, zoomTo } from "./view.js";

const TOP = 26;
const BOTTOM = 44;
const REACH = { mouse: 14, touch: 26 };
const container = byName("chart");
const canvas = byName("chart-canvas");

/** What was drawn last: frame, scales, and places of the points, for choosing. */
let drawn = null;
let box = null;

const isOwn = () => view.x === run.cost.key && (view.y === "loss" || (run.loss.is_kl && view.y === "kl_nats"));

/** The spans of both axes that show everything. */
function fullSpans(shown) {
  const xs = shown.map((point) => point[view.x]);
  if (run.limits[view.x] !== undefined) xs.push(run.limits[view.x]);
  const [xLog, yLog] = [view.isLog, view.isLog && yAxis().is_log];
  const { low, high } = yAxis();
  const ys = low === null ? [...shown, ...shownImproved()].map((each) => each[view.y]) : [low, high];
  return { x: spanOf(xs, xLog), y: spanOf(!yLog && yAxis().is_lower_better ? [0, ...ys] : ys, yLog), xLog, yLog };
}

function layOut(context, width, height, shown) {
  const full = fullSpans(shown);
  const { x: xSpan, y: ySpan } = view.zoom ?? full;
  const frame = { top: TOP, bottom: height - BOTTOM, right: width - 12 };
  const y = makeScale(ySpan, full.yLog, frame.bottom, frame.top);
  frame.left = labelWidth(context, y, tickText, frame.bottom - frame.top);
  return { frame, full, y, x: makeScale(xSpan, full.xLog, frame.left, frame.right) };
}

function drawChart() {
  const { context, width, height } = openCanvas(canvas);
  if (!width) return;
  const [theme, shown] = [colors(), shownPoints()];
  const { frame, full, x, y } = layOut(context, width, height, shown);
  const ground = full.yLog ? 10 ** full.y[0] : full.y[0];
  const lowest = !view.zoom && yAxis().low !== null ? yAxis().low : ground;
  const placed = (each, point = each) => ({
    each,
    point,
    x: x(point[view.x]),
    y: y(Math.max(each[view.y], lowest)),
    isBelow: each[view.y] < lowest,
  });
  const places = shown.map((point) => placed(point));
  const improved = shownImproved().map((found) => placed(found, byId.get(found.id)));
  drawn = { frame, full, x, y, places, improved };

  const [factor, prefix] = prefixFor(Math.max(...x.ticks(6), 0));
  drawLimit(context, frame, x, theme);
  drawAxes(
    context,
    frame,
    { scale: x, text: (value) => tickText(value / factor), title: `${xAxis().title}${axisUnit(prefix)}` },
    { scale: y, text: tickText, title: yAxis().title },
    theme,
  );
  context.save();
  context.beginPath();
  const air = view.zoom ? 0 : 8; // whole marks at the border where everything is shown
  context.rect(
    frame.left - air,
    frame.top - air,
    frame.right - frame.left + 2 * air,
    frame.bottom - frame.top + 2 * air,
  );
  context.clip();
  drawFullPrecision(context, frame, y, theme);
  drawDots(
    context,
    places.filter(({ point }) => point.kind === "trial"),
    theme,
  );
  drawLine(
    context,
    frontOf(shown)
      .map((point) => placed(point))
      .filter(({ isBelow }) => !isBelow || isOwn()),
    theme,
  );
  drawMarks(context, places, improved, frame, theme);
  context.restore();
  if (box) drawBox(context, theme);
  describe(container, shown, places.filter(({ x: px, y: py }) => isOutside(frame, px, py)).length);
}

function axisUnit(prefix) {
  const unit = xAxis().unit === "BOPs" ? prefix : prefix + (xAxis().unit === "ns" ? "ns" : "B");
  return unit ? ` (${unit})` : "";
}

function drawLimit(context, frame, x, theme) {
  const limit = run.limits[view.x];
  if (limit === undefined) return;
  const at = Math.max(frame.left, x(limit));
  if (at > frame.right) return;
  context.fillStyle = theme.over;
  context.fillRect(at, frame.top, frame.right - at, frame.bottom - frame.top);
  context.strokeStyle = theme.ink;
  context.setLineDash([6, 4]);
  stroke(context, at, frame.top, at, frame.bottom);
  context.setLineDash([]);
  context.fillStyle = theme.ink;
  const text = `budget ${figureText(view.x, limit)}`;
  const half = context.measureText(text).width / 2;
  context.textAlign = "center";
  const clear = 8 + context.measureText(yAxis().title).width + 14 + half; // the title of the other axis is on the same line
  context.fillText(text, Math.min(frame.right - half, Math.max(clear, at)), frame.top - 12);
}

function drawFullPrecision(context, frame, y, theme) {
  if (view.y !== "metric" || run.full_precision_metric === null) return;
  const at = y(run.full_precision_metric);
  context.strokeStyle = theme.soft;
  context.setLineDash([2, 3]);
  stroke(context, frame.left, at, frame.right, at);
  context.setLineDash([]);
  context.textAlign = "left";
  haloText(
    context,
    `full precision ${figureText("metric", run.full_precision_metric)}`,
    frame.left + 6,
    at - 6,
    theme.soft,
    theme,
  );
}

/** The front as a staircase: a recipe also answers every budget above its own cost. */
function drawLine(context, line, theme) {
  context.strokeStyle = theme.front;
  context.lineWidth = 1.6;
  context.beginPath();
  line.forEach((place, index) => {
    if (index === 0) context.moveTo(place.x, place.y);
    else {
      context.lineTo(place.x, line[index - 1].y);
      context.lineTo(place.x, place.y);
    }
  });
  context.stroke();
}

/** Marks with what matters most on top, rings, and labels. */
function drawMarks(context, places, improved, frame, theme) {
  const labels = new Labels(context, frame);
  const shown = places.filter(({ point }) => point.kind !== "trial");
  for (const kind of ["front", "uniform", "published"]) {
    for (const place of shown) {
      if (place.point.kind !== kind || place.point.id === run.best_id) continue;
      drawMark(context, kind, place.x, place.y, place.isBelow, theme);
      labels.take(place.x, place.y);
    }
  }
  for (const place of improved) {
    const before = place.point[view.y];
    if (before !== null) drawArrow(context, place.x, drawn.y(Math.max(before, 1e-300)), place.y, theme);
    drawMark(context, place.each.kind, place.x, place.y, place.isBelow, theme);
    labels.take(place.x, place.y);
  }
  const best = shown.find(({ point }) => point.id === run.best_id);
  if (best) {
    drawMark(context, "best", best.x, best.y, best.isBelow, theme);
    labels.take(best.x, best.y, 12);
  }
  for (const { point, x, y } of places) {
    if (point === view.chosen) drawRing(context, x, y, point.id === run.best_id ? 16 : 11, theme.ink, false);
    if (point === view.pinned) drawRing(context, x, y, point.id === run.best_id ? 19 : 14, theme.focus, true);
  }
  for (const { point, x, y } of shown) {
    const isNamed = point.kind !== "front" && !point.label.includes(" g");
    if (isNamed && x >= frame.left && x <= frame.right)
      labels.write(point.label, x, y, theme[COLORS[point.kind]], theme);
  }
}

function drawBox(context, theme) {
  context.strokeStyle = theme.focus;
  context.lineWidth = 1.5;
  context.strokeRect(box.from.x, box.from.y, box.to.x - box.from.x, box.to.y - box.from.y);
}

// ---------------------------------------------------------------- zoom and pan
const zoomBy = (factor, x, y) => zoomTo(zoomed(drawn, factor, x, y));
const panBy = (dx, dy) => zoomTo(panned(drawn, dx, dy));
const zoomToBox = (from, to) => zoomTo(boxed(drawn, from, to));
const zoomAtMiddle = (factor) =>
  zoomBy(factor, (drawn.frame.left + drawn.frame.right) / 2, (drawn.frame.top + drawn.frame.bottom) / 2);

const isOutside = (frame, x, y) =>
  x < frame.left - 1 || x > frame.right + 1 || y < frame.top - 1 || y > frame.bottom + 1;

// ---------------------------------------------------------------- choosing
/** The nearest mark within reach; what is on the front comes before other trials. */
function nearest(x, y, reach) {
  const { frame } = drawn;
  let [found, least] = [null, reach];
  for (const place of [...drawn.places, ...drawn.improved]) {
    if (place.x < frame.left - 8 || place.x > frame.right + 8 || place.y < frame.top - 8 || place.y > frame.bottom + 8)
      continue;
    const far = Math.hypot(place.x - x, place.y - y) + (place.point.kind === "trial" ? 3 : 0);
    if (far < least) [found, least] = [place, far];
  }
  return found;
}

const WALKS = {
  ArrowRight: ["front", 1],
  ArrowLeft: ["front", -1],
  ArrowUp: ["uniform", -1],
  ArrowDown: ["uniform", 1],
  PageDown: [null, 1],
  PageUp: [null, -1],
};

/** Arrow keys walk along the front and the uniform points, page keys along all recipes, by cost. */
function onKey(event) {
  const zoom = zoomKey(event);
  if (zoom) {
    event.preventDefault();
    if (zoom.reset) zoomTo(null);
    else if (zoom.factor) zoomAtMiddle(zoom.factor);
    else panBy(zoom.shift[0] * canvas.clientWidth, zoom.shift[1] * canvas.clientHeight);
    return;
  }
  if (!WALKS[event.key] || event.ctrlKey || event.altKey || event.metaKey || !view.chosen) return;
  event.preventDefault();
  const [kind, step] = WALKS[event.key];
  const rank = (point) => [point[view.x], point.index];
  const after = (a, b) => rank(a)[0] - rank(b)[0] || rank(a)[1] - rank(b)[1];
  const rest = shownPoints().filter(
    (point) => (kind === null || point.kind === kind) && step * after(point, view.chosen) > 0,
  );
  if (!rest.length) return;
  choose(rest.reduce((a, b) => (step * after(b, a) < 0 ? b : a)));
  showTip(drawn.places.find(({ point }) => point === view.chosen));
}

// ---------------------------------------------------------------- wiring
let isDue = false;
/** Draw once before the next frame, however many things change. */
function schedule() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    drawChart();
  });
}

export function startChart() {
  drawKey();
  listen(canvas, {
    zoom: zoomBy,
    pan: panBy,
    box(from, to, isDone) {
      box = isDone ? null : { from, to };
      if (isDone) zoomToBox(from, to);
      else schedule();
    },
    tap(x, y, isTouch) {
      const place = nearest(x, y, isTouch ? REACH.touch : REACH.mouse);
      if (place) choose(place.point);
      showTip(place);
    },
    hover: (x, y) => showTip(nearest(x, y, REACH.mouse)),
    leave: () => showTip(null),
  });
  container.addEventListener("keydown", onKey);
  container.addEventListener("blur", () => showTip(null));
  byName("zoom-in").addEventListener("click", () => zoomAtMiddle(1.6));
  byName("zoom-out").addEventListener("click", () => zoomAtMiddle(1 / 1.6));
  byName("zoom-all").addEventListener("click", () => zoomTo(null));
  onChange(["chosen", "pinned", "axes", "filter", "zoom"], schedule);
  new ResizeObserver(schedule).observe(container);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", schedule);
}
