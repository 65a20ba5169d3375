// The chosen recipe: figures beside those of another, what changed, downloads, commands.

import { hasRecipe, exportCommand, fileName, recipeText } from "./recipes.js";
import { changesOf } from "./changes.js";
import { improvedFrom, run } from "./data.js";
import { byName, fillTable, make, makeButton } from "./dom.js";
import { FIGURES, figureText } from "./figures.js";
import { ratioText } from "./numbers.js";
import { onChange, pin, reference, view } from "./view.js";

const COSTS = new Set([
  "bops",
  "weight_bytes",
  "activation_bytes",
  "latency_ns",
  "kl_nats",
  "loss",
  "labelled_kl_nats",
  "calibration_kl_nats",
]);

export function startRecipePanel() {
  onChange(["chosen", "pinned"], draw);
}

function draw() {
  const [point, other] = [view.chosen, reference()];
  byName("recipe").hidden = !point;
  if (!point) return;
  const best = point.id === run.best_id ? ", chosen by the search" : "";
  byName("recipe-title").textContent = `Recipe: ${point.label}${best}`;
  drawActions(point, other);
  drawFigures(point, other);
  drawChanges(point, other);
}

function drawActions(point, other) {
  byName("actions").replaceChildren(
    ...(hasRecipe(point)
      ? [makeButton("Download recipe", () => download(point), { id: "download", class: "main" })]
      : []),
    view.pinned === point
      ? makeButton("Unpin", () => pin(null), { id: "pin", "aria-pressed": "true" })
      : makeButton("Pin to compare", () => pin(point), { id: "pin", "aria-pressed": "false" }),
    ...(view.pinned && view.pinned !== point
      ? [
          makeButton(`Unpin ${view.pinned.label}`, () => pin(null), { id: "unpin" }),
          makeButton(`Download ${view.pinned.label}`, () => download(other), { id: "download-pinned" }),
        ]
      : []),
  );
  const versions = improvedFrom(point).map((found) => found.kind);
  const commands = versions.length ? ["searched", ...versions] : [null];
  byName("commands").replaceChildren(...commands.map((version) => commandLine(exportCommand(point, version), version)));
}

/** A command to copy. */
function commandLine(text, version) {
  const [code, said] = [make("code", {}, text), make("span", { role: "status", class: "soft" })];
  const name = version === null ? "Copy export command" : `Copy command: ${version}`;
  return make(
    "p",
    { class: "command" },
    makeButton(name, () => copy(code, said)),
    code,
    said,
  );
}

async function copy(code, said) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    said.textContent = "copied";
  } catch {
    // No clipboard without permission: leave the command selected, ready for Ctrl-C.
    getSelection().selectAllChildren(code);
    said.textContent = "press Ctrl-C";
  }
}

function download(point) {
  const address = URL.createObjectURL(new Blob([recipeText(point)], { type: "application/json" }));
  make("a", { href: address, download: fileName(point.id) }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** Figures of the recipe, of what was made of it, and of what it is compared with. */
function drawFigures(point, other) {
  const versions = improvedFrom(point);
  const columns = [
    { title: "Figure" },
    { title: versions.length ? `${point.label}, as searched` : point.label, isNumber: true },
    ...versions.map((found) => ({ title: found.kind, isNumber: true })),
    ...(other && other !== point
      ? [
          { title: `${other.label}${view.pinned ? ", pinned" : ""}`, isNumber: true },
          { title: "Difference", isNumber: true },
        ]
      : []),
  ];
  const isCost = (key) => ["bops", "group_bops", "weight_bytes", "activation_bytes", "latency_ns"].includes(key);
  // Most recipes have no groups: a row of zeros says nothing.
  const isTold = (key, value) => value !== null && value !== undefined && (key !== "group_bops" || value > 0);
  const rows = FIGURES.filter(({ key }) => [point, other].some((each) => each && isTold(key, each[key]))).map(({ key, title }) => {
    const cells = [
      figureText(key, point[key]),
      ...versions.map((found) => figureText(key, isCost(key) ? point[key] : found[key])),
    ];
    if (other && other !== point) cells.push(figureText(key, other[key]), differenceText(key, point[key], other[key]));
    return make(
      "tr",
      { "data-figure": key },
      make("th", { scope: "row" }, title),
      ...cells.map((cell) => make("td", { class: "number" }, cell)),
    );
  });
  fillTable(byName("figures"), columns, rows);
}

function differenceText(key, value, other) {
  if (value === null || other === null) return "";
  if (COSTS.has(key)) return ratioText(value, other);
  if (key === "group_bops") return "";
  const change = value - other;
  if (Math.abs(change) < 1e-9) return "the same";
  const unit = key === "sqnr_db" ? "dB" : key === "agreement_percent" || run.metric.is_percentage ? "points" : "";
  const size = unit ? `${Math.abs(change).toFixed(1)} ${unit}` : figureText(key, Math.abs(change));
  return `${size} ${change > 0 ? "more" : "less"}`;
}

function drawChanges(point, other) {
  const isThere = other && other !== point && hasRecipe(point) && hasRecipe(other);
  byName("changes").hidden = !isThere;
  if (!isThere) return;
  byName("changes-title").textContent = view.pinned
    ? `What differs from ${other.label}, pinned`
    : `What changed against ${other.label}, the baseline at this cost`;
  byName("changes-list").replaceChildren(...changesOf(point, other).map((sentence) => make("li", {}, sentence)));
}
