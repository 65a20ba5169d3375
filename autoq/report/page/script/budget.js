// The budget slider: the best recipe of the front within what one is ready to pay.

import { front, run } from "./data.js";
import { byName } from "./dom.js";
import { figureText, lossText } from "./figures.js";
import { choose, onChange, view } from "./view.js";

const STEPS = 1000;

export function startBudget() {
  const isUseful = front.length > 1;
  byName("budget").hidden = !isUseful;
  if (!isUseful) return;
  const [low, high] = [front[0].cost, Math.max(front.at(-1).cost, run.budget ?? 0)];
  const slider = byName("budget-slider");
  slider.max = String(STEPS);
  const costAt = (place) => low * (high / low) ** (place / STEPS);
  const show = (cost, point) => {
    const text = `${figureText("cost", cost)}: ${point.label}, ${lossText(point)} at ${figureText("cost", point.cost)}`;
    byName("budget-text").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  slider.addEventListener("input", () => {
    const cost = costAt(Number(slider.value));
    const point = front.filter((each) => each.cost <= cost * (1 + 1e-9)).at(-1);
    choose(point);
    show(cost, point);
  });
  onChange(["chosen"], () => {
    if (document.activeElement === slider || !view.chosen?.isOnFront) return;
    const cost = view.chosen === front.at(-1) ? high : view.chosen.cost;
    slider.value = String(Math.ceil((STEPS * Math.log(cost / low)) / Math.log(high / low)));
    show(cost, view.chosen);
  });
}
