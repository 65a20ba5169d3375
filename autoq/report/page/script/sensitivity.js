// The heat map of sensitivities: what each operand costs alone, by bits; blocks first, operands on demand.

import { blockOf } from "./anatomy.js";
import { run } from "./data.js";
import { byName, fillTable, make, makeButton } from "./dom.js";
import { klText } from "./numbers.js";
import { hasRecipe, sitesOf } from "./recipes.js";
import { onChange, view } from "./view.js";

const open = new Set();

export function startSensitivity() {
  byName("sensitivity-section").hidden = run.sensitivity === null;
  if (run.sensitivity === null) return;
  byName("sensitivity-note").textContent = run.sensitivity.note;
  onChange(["chosen"], draw);
}

/** Rows by block: an operand has a loss at each of the widths, null where it is not offered. */
function blocks() {
  const found = new Map();
  for (const { site, operand, losses } of run.sensitivity.rows) {
    const name = blockOf(site);
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({ site, operand, losses });
  }
  return [...found];
}

/** The sum over a block: what it loses if all its operands have these bits, as far as losses add up. */
const total = (rows) =>
  run.sensitivity.bits.map((_, place) => {
    const losses = rows.map((row) => row.losses[place]).filter((loss) => loss !== null);
    return losses.length ? losses.reduce((sum, loss) => sum + loss, 0) : null;
  });

function draw() {
  const bits = chosenBits();
  const all = run.sensitivity.rows.flatMap((row) => row.losses).concat(blocks().flatMap(([, rows]) => total(rows)));
  const known = all.filter((loss) => loss !== null && loss > 0);
  const scale = [Math.log10(Math.min(...known)), Math.log10(Math.max(...known))];
  const columns = [
    { title: "Block" },
    ...run.sensitivity.bits.map((width) => ({ title: `${width} bits`, isNumber: true })),
  ];
  const rows = blocks().flatMap(([name, operands]) => [
    lossRow(foldButton(name), total(operands), scale, null, "block"),
    ...(open.has(name)
      ? operands.map((row) =>
          lossRow(shortName(name, row), row.losses, scale, bits.get(`${row.site}:${row.operand}`), "site"),
        )
      : []),
  ]);
  fillTable(byName("sensitivity"), columns, rows);
}

const shortName = (block, { site, operand }) =>
  `${site.startsWith(`${block}.`) ? site.slice(block.length + 1) : site}:${operand}`;

function foldButton(name) {
  return makeButton(
    name,
    () => {
      if (!open.delete(name)) open.add(name);
      draw();
      [...byName("sensitivity").querySelectorAll("button")].find((each) => each.textContent === name)?.focus();
    },
    { class: "fold", "aria-expanded": String(open.has(name)) },
  );
}

/** Bits of every operand of the chosen recipe. */
function chosenBits() {
  if (!view.chosen || !hasRecipe(view.chosen)) return new Map();
  return new Map(
    sitesOf(view.chosen).flatMap((site) =>
      site.operands.map((operand) => [`${site.name}:${operand.name}`, operand.bits]),
    ),
  );
}

function lossRow(name, losses, [low, high], chosen, kind) {
  const cells = losses.map((loss, place) => {
    if (loss === null) return make("td", { class: "number soft" }, "–");
    const cell = make(
      "td",
      { class: run.sensitivity.bits[place] === chosen ? "number heat taken" : "number heat" },
      klText(loss),
    );
    const heat = loss > 0 && high > low ? (Math.log10(loss) - low) / (high - low) : 0;
    cell.style.setProperty("--heat", `${Math.round(100 * heat)}%`);
    if (run.sensitivity.bits[place] === chosen)
      cell.setAttribute("aria-label", `${klText(loss)}, the chosen recipe's bits`);
    return cell;
  });
  return make("tr", { class: kind }, make("th", { scope: "row" }, name), ...cells);
}
