// What the pointer is on, in words beside it.

import { run } from "./data.js";
import { byName } from "./dom.js";
import { figureText, lossText } from "./figures.js";
import { nameOf, view, xAxis, yAxis } from "./view.js";

const container = byName("chart");
const canvas = byName("chart-canvas");
const tip = byName("tip");

/** Show the recipe at a place of the chart; null: hide it. */
export function showTip(place) {
  tip.hidden = !place;
  canvas.style.cursor = place ? "pointer" : "";
  if (!place) return;
  const { each, point } = place;
  const lines = [
    each === point ? nameOf(point) : `${point.label}, ${each.kind}`,
    figureText("cost", point.cost),
    lossText(each),
  ];
  if (![view.x, "loss", "kl_nats"].includes(view.y))
    lines.push(`${yAxis().title}: ${figureText(view.y, each[view.y])}`);
  if (view.x !== run.cost.key) lines.push(`${xAxis().title}: ${figureText(view.x, point[view.x])}`);
  if (!point.isFeasible) lines.push("over the budget");
  tip.textContent = lines.join("\n");
  const right = place.x + 14;
  tip.style.left = `${Math.max(0, right + tip.offsetWidth > container.clientWidth ? place.x - tip.offsetWidth - 14 : right)}px`;
  tip.style.top = `${Math.max(0, Math.min(place.y - 10, container.clientHeight - tip.offsetHeight - 4))}px`;
}
