// What the reader has chosen: recipe, pin, axes, filters, zoom. Drawings subscribe to changes.

import { baselineFor, byCost, byId, front, improvedFrom, points, run } from "./data.js";

export const view = {
  chosen: null,
  pinned: null,
  x: run.axes.x[0].key,
  y: run.axes.y[0].key,
  isLog: true,
  hidden: new Set(),
  hidesDear: false,
  zoom: null,
};

const listeners = [];

/** Call `draw` whenever one of `names` changes: chosen, pinned, axes, filter, zoom. */
export const onChange = (names, draw) => listeners.push([names, draw]);

function changed(...names) {
  for (const [wanted, draw] of listeners) if (names.some((name) => wanted.includes(name))) draw();
}

/** What the chosen recipe is compared with: what is pinned, else a baseline at its cost. */
export const reference = () => view.pinned ?? (view.chosen && baselineFor(view.chosen));

export function choose(point) {
  if (!point || point === view.chosen) return;
  view.chosen = point;
  remember();
  changed("chosen");
}

export function pin(point) {
  view.pinned = point;
  remember();
  changed("pinned");
}

export function setAxes(values) {
  Object.assign(view, values);
  view.zoom = null;
  changed("axes");
}

export function toggleKind(kind) {
  if (!view.hidden.delete(kind)) view.hidden.add(kind);
  changed("filter");
}

export function hideDear(isHidden) {
  view.hidesDear = isHidden;
  changed("filter");
}

export function zoomTo(zoom) {
  view.zoom = zoom;
  changed("zoom");
}

export const xAxis = () => run.axes.x.find((axis) => axis.key === view.x);
export const yAxis = () => run.axes.y.find((axis) => axis.key === view.y);

/** The points that have figures for both axes and that no filter hides. */
export const shownPoints = () =>
  points.filter((point) => isMeasured(point) && !view.hidden.has(point.kind) && !(view.hidesDear && !point.isFeasible));

export const isMeasured = (point) => Number.isFinite(point[view.x]) && Number.isFinite(point[view.y]);

/** The recipes that no other within the budgets beats in the chosen axes, cheapest first. */
export function frontOf(shown) {
  const sign = yAxis().is_lower_better ? 1 : -1;
  const rivals = shown.filter((point) => point.isFeasible && point.kind !== "published");
  rivals.sort((a, b) => a[view.x] - b[view.x] || sign * (a[view.y] - b[view.y]));
  const found = [];
  for (const point of rivals) if (!found.length || sign * (point[view.y] - found.at(-1)[view.y]) < 0) found.push(point);
  return found;
}

/** Improved recipes that are drawn: cost is that of the recipe as searched. */
export const shownImproved = () =>
  run.improved.filter(
    (found) =>
      Number.isFinite(found[view.y]) && !view.hidden.has("improved") && Number.isFinite(byId.get(found.id)[view.x]),
  );

/** Chosen and pinned recipe are in the page's address, so that it can be passed on. */
function remember() {
  const parts = [view.chosen?.id ?? "", ...(view.pinned ? [view.pinned.id] : [])];
  history.replaceState(null, "", `#${parts.map(encodeURIComponent).join("/")}`);
}

/** Take over what the address names, or the recipe that the search chose. */
export function readAddress() {
  let ids = [];
  try {
    ids = location.hash.slice(1).split("/").map(decodeURIComponent);
  } catch {
    // Not an address of this page's.
  }
  view.pinned = byId.get(ids[1]) ?? null;
  const best = byId.get(run.best_id);
  view.chosen = byId.get(ids[0]) ?? best ?? front[0] ?? byCost[0] ?? null;
  changed("chosen", "pinned");
}

/** The id of a point with what was made of it: what a reader hears. */
export const nameOf = (point) =>
  [
    point.label,
    point.id === run.best_id ? "chosen by the search" : null,
    ...improvedFrom(point).map((found) => found.kind),
  ]
    .filter(Boolean)
    .join(", ");
