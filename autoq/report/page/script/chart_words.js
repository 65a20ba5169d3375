// The words around the chart: how many recipes it shows, and the key.

import { points, run } from "./data.js";
import { byName, make } from "./dom.js";
import { figureText, lossText } from "./figures.js";
import { SHAPES } from "./marks.js";
import { countText } from "./numbers.js";
import { isMeasured, nameOf, toggleKind, view, xAxis, yAxis } from "./view.js";

/** Say how many of the `shown` points are drawn, `outside` of them beyond the zoom, and what hides the others. */
export function describe(container, shown, outside) {
  const unmeasured = points.filter((point) => !isMeasured(point)).length;
  const filtered = points.length - unmeasured - shown.length;
  const hidden = [
    unmeasured ? `${countText(unmeasured)} were not measured for this` : null,
    filtered ? `${countText(filtered)} hidden by the filter` : null,
    outside ? `${countText(outside)} outside the zoom` : null,
  ].filter(Boolean);
  const why = hidden.length ? `: ${hidden.join(", ")}` : "";
  byName("shown").textContent =
    `${countText(shown.length - outside)} of ${countText(points.length)} recipes shown${why}.`;
  const chosen = view.chosen
    ? `${nameOf(view.chosen)}, ${figureText("cost", view.chosen.cost)}, ${lossText(view.chosen)}`
    : "none";
  container.setAttribute("aria-label", `Recipes by ${xAxis().title} and ${yAxis().title}. Chosen: ${chosen}.`);
}

/** The key, whose entries show and hide what they stand for. */
export function drawKey() {
  const entries = [
    ["front", "Pareto front"],
    ["uniform", "uniform bits"],
    ["published", "published methods"],
    ["trial", "other trials"],
  ];
  const present = entries.filter(([kind]) => points.some((point) => point.kind === kind));
  const buttons = present.map(([kind, text]) => keyEntry(kind, text, kind));
  if (run.improved.length) {
    const kinds = [...new Set(run.improved.map((found) => found.kind))];
    buttons.push(keyEntry(kinds[0], `${kinds.join(", ")} after the search`, "improved"));
  }
  byName("key").replaceChildren(...buttons);
  byName("best-note").hidden = run.best_id === null;
}

function keyEntry(kind, text, toggles) {
  const sample = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  sample.setAttribute("viewBox", "-9 -9 18 18");
  sample.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[kind]);
  path.setAttribute("class", `mark-${kind}`);
  sample.append(path);
  const button = make(
    "button",
    { type: "button", "aria-pressed": String(!view.hidden.has(toggles)), "data-kind": toggles },
    sample,
    text,
  );
  button.addEventListener("click", () => {
    toggleKind(toggles);
    button.setAttribute("aria-pressed", String(!view.hidden.has(toggles)));
  });
  return button;
}
