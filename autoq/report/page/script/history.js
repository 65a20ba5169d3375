// The best within the budget after every evaluation.

import { colors, drawAxes, labelWidth, openCanvas, tickText } from "./canvas.js";
import { points, run } from "./data.js";
import { byName } from "./dom.js";
import { lossText } from "./figures.js";
import { drawDots } from "./marks.js";
import { makeScale, spanOf } from "./scale.js";
import { onChange } from "./view.js";

const trials = points.filter((point) => point.kind !== "published");

/** Evaluations that found something better than all before them, within the budgets. */
function records() {
  const found = [];
  trials.forEach((point, place) => {
    if (point.isFeasible && (!found.length || point.loss < found.at(-1).point.loss)) found.push({ point, place });
  });
  return found;
}

function draw() {
  const { context, width, height } = openCanvas(byName("history-canvas"));
  if (!width || !trials.length) return;
  const theme = colors();
  const isLog = trials.some((point) => point.loss > 0);
  const frame = { top: 26, bottom: height - 44, right: width - 12 };
  const y = makeScale(
    spanOf(
      trials.map((point) => point.loss),
      isLog,
    ),
    isLog,
    frame.bottom,
    frame.top,
  );
  frame.left = labelWidth(context, y, tickText, frame.bottom - frame.top);
  const x = makeScale([0, trials.length + 1], false, frame.left, frame.right);
  drawAxes(
    context,
    frame,
    { scale: x, text: tickText, title: "evaluations" },
    { scale: y, text: tickText, title: run.loss.axis },
    theme,
  );
  const places = trials.map((point, place) => ({ point, x: x(place + 1), y: y(point.loss) }));
  drawDots(
    context,
    places.filter(({ point }) => point.isFeasible),
    theme,
  );
  context.strokeStyle = theme.front;
  context.lineWidth = 2;
  context.beginPath();
  const best = records();
  best.forEach(({ point, place }, index) => {
    if (index === 0) context.moveTo(x(place + 1), y(point.loss));
    else {
      context.lineTo(x(place + 1), y(best[index - 1].point.loss));
      context.lineTo(x(place + 1), y(point.loss));
    }
  });
  if (best.length) context.lineTo(frame.right, y(best.at(-1).point.loss));
  context.stroke();
}

export function startHistory() {
  const best = records().at(-1);
  byName("history-section").hidden = !best;
  if (!best) return;
  const found = `After ${best.place + 1} of ${trials.length} evaluations nothing better was found: ${best.point.label}, ${lossText(best.point)}.`;
  byName("history-note").textContent =
    `Line: the least ${run.loss.title} within the budget so far; dots: evaluations within it. ${found}`;
  byName("history-canvas").setAttribute("aria-label", found);
  onChange(["axes"], draw);
  new ResizeObserver(draw).observe(byName("history-canvas").parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
