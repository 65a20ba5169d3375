// Bits by block, sites on demand; what differs from the recipe beside it is marked.

import { ROLES, blocksOf, countLeftOut, meanBits, partsOf } from "./anatomy.js";
import { byName, fillTable, make, makeButton, setBar } from "./dom.js";
import { fixed, shareText } from "./numbers.js";
import { configText, hasRecipe } from "./recipes.js";
import { onChange, reference, view } from "./view.js";

const open = new Set();
const WIDEST = 8;

export function startBlocks() {
  onChange(["chosen", "pinned"], draw);
  byName("open-blocks").addEventListener("click", () => {
    const blocks = blocksOf(partsOf(view.chosen)).map((block) => block.name);
    const areOpen = blocks.every((name) => open.has(name));
    for (const name of blocks)
      if (areOpen) open.delete(name);
      else open.add(name);
    draw();
  });
}

function draw() {
  const [point, other] = [view.chosen, reference()];
  const isThere = point !== null && hasRecipe(point);
  byName("blocks-section").hidden = !isThere;
  if (!isThere) return;
  const sites = partsOf(point);
  const blocks = blocksOf(sites);
  const beside =
    other && other !== point && hasRecipe(other) ? new Map(partsOf(other).map((site) => [site.name, site])) : null;
  const total = sites.reduce((sum, site) => sum + site.bops, 0);
  const most = Math.max(...blocks.map((block) => block.bops)) / total;
  const columns = [
    { title: "Block" },
    ...ROLES.map(({ title }) => ({ title, isNumber: true })),
    { title: "BOPs", isNumber: true },
  ];
  const rows = blocks.flatMap((block) => [
    blockRow(block, beside, total, most),
    ...(open.has(block.name) ? block.sites.map((site) => siteRow(site, beside, total, most)) : []),
  ]);
  rows.push(meanRow(sites));
  fillTable(byName("blocks"), columns, rows);
  const left = countLeftOut(point);
  byName("blocks-note").textContent = [
    "Mean bits of a block's operands; a bar is the share of 8 bits, of the largest block for BOPs.",
    left ? `${left} norms, softmax operations, sums and outputs are left in floating point and not listed.` : "",
    beside ? `Bits that differ from ${other.label} are marked, its own in brackets.` : "",
  ]
    .filter(Boolean)
    .join(" ");
  byName("open-blocks").textContent = blocks.every((block) => open.has(block.name))
    ? "Close all blocks"
    : "Open all blocks";
}

function blockRow(block, beside, total, most) {
  const theirs = beside && meanBits(block.sites.map((site) => beside.get(site.name)).filter(Boolean));
  const button = makeButton(
    block.name,
    () => {
      if (!open.delete(block.name)) open.add(block.name);
      draw();
      [...byName("blocks").querySelectorAll("button")].find((each) => each.textContent === block.name)?.focus();
    },
    { class: "fold", "aria-expanded": String(open.has(block.name)) },
  );
  const cells = ROLES.map(({ key }) => bitsCell(block.bits[key], theirs?.[key]));
  return make(
    "tr",
    { class: "block" },
    make("th", { scope: "row" }, button),
    ...cells,
    shareCell(block.bops, total, most),
  );
}

function bitsCell(bits, theirs) {
  if (bits === null || bits === undefined) return make("td", { class: "number soft" }, "–");
  const differs = theirs !== undefined && theirs !== null && Math.abs(bits - theirs) > 0.05;
  const cell = make("td", { class: differs ? "number differs" : "number" }, bits >= 31.95 ? "32" : fixed(bits, 1));
  if (differs) cell.append(make("small", {}, ` (${fixed(theirs, 1)})`));
  return setBar(cell, bits / WIDEST);
}

const shareCell = (bops, total, most) =>
  setBar(make("td", { class: "number" }, shareText(bops, total)), bops / total / most);

/** A site: an operand a line, under the role that it has. */
function siteRow(site, beside, total, most) {
  const theirs = beside?.get(site.name);
  const cells = ROLES.map(({ key }) => {
    const operands = site.operands.filter((operand) => operand.role === key);
    return make(
      "td",
      { class: "number" },
      ...operands.map((operand) =>
        operandLine(
          operand,
          theirs?.operands.find((each) => each.name === operand.name),
        ),
      ),
    );
  });
  const short = site.name.startsWith(`${site.block}.`) ? site.name.slice(site.block.length + 1) : site.name;
  return make(
    "tr",
    { class: "site", "data-site": site.name },
    make("th", { scope: "row" }, short),
    ...cells,
    shareCell(site.bops, total, most),
  );
}

function operandLine(operand, theirs) {
  const differs = theirs && theirs.bits !== operand.bits;
  const extras = [
    operand.groups > 1 ? `${operand.groups} groups` : null,
    operand.config?.base ? `base ${operand.config.base}` : null,
  ].filter(Boolean);
  const name = operand.role === "product" ? `${operand.name} ` : "";
  const text = `${name}${operand.bits}${differs ? ` (${theirs.bits})` : ""}`;
  return make(
    "div",
    { class: differs ? "differs" : null, title: configText(operand.config) },
    text,
    extras.length ? make("small", {}, ` ${extras.join(", ")}`) : null,
  );
}

function meanRow(sites) {
  const bits = meanBits(sites);
  return make(
    "tr",
    { class: "total" },
    make("th", { scope: "row" }, "all"),
    ...ROLES.map(({ key }) => make("td", { class: "number" }, bits[key] === null ? "–" : fixed(bits[key], 1))),
    make("td", { class: "number" }, "100.0 %"),
  );
}
