// Recipes: put together from what they share, to the letter as autoq writes them.

import { literal, run } from "./data.js";

const FLOAT_BITS = 32;
const FIRST_OPTION = 48;

/** Whether the recipe of a point is known. */
export const hasRecipe = (point) => run.form_of[point.index] >= 0;

/** The operands that a recipe quantizes: site, name, and the option as text and data. */
function* operandsOf(point) {
  const form = run.forms[run.form_of[point.index]];
  const chosen = run.choices[point.index];
  for (const [place, operand] of form.operands.entries()) {
    const [site, name] = run.operands[operand];
    const [text, base] = run.options[operand][chosen.charCodeAt(place) - FIRST_OPTION];
    yield { site, name, text, base };
  }
}

/** A JSON string as Python writes it: nothing but ASCII. */
const quoted = (text) =>
  JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

function sitesText(point) {
  const sites = new Map();
  for (const { site, name, text } of operandsOf(point)) {
    if (!sites.has(site)) sites.set(site, []);
    sites.get(site).push(`      ${quoted(name)}: ${text}`);
  }
  const texts = [...sites].map(([site, rows]) => `    ${quoted(site)}: {\n${rows.join(",\n")}\n    }`);
  return texts.length ? `{\n${texts.join(",\n")}\n  }` : "{}";
}

/** The recipe's file. */
export function recipeText(point) {
  const parts = run.forms[run.form_of[point.index]].parts;
  return parts
    .map((part, place) => (place % 2 === 0 ? part : part === "sites" ? sitesText(point) : literal(point, part)))
    .join("");
}

/** What a recipe does to every site of the model: its operands with bits (32 in floating point), and its BOPs. */
export function sitesOf(point) {
  const configs = new Map();
  if (hasRecipe(point)) {
    for (const { site, name, text, base } of operandsOf(point))
      configs.set(`${site}:${name}`, { ...JSON.parse(text), base });
  }
  return run.sites.map((site) => {
    const operands = site.operands.map((name) => {
      const config = configs.get(`${site.name}:${name}`) ?? null;
      return { name, config, bits: config?.bits ?? FLOAT_BITS, groups: config?.groups ?? 1 };
    });
    return { ...site, operands, bops: operands.reduce((product, operand) => product * operand.bits, site.macs) };
  });
}

/** How an operand is quantized, in words. */
export function configText(config) {
  if (!config) return "floating point";
  const parts = [
    `${config.bits} bits`,
    config.hadamard_block > 1 ? `${config.scheme} in blocks of ${config.hadamard_block}` : config.scheme,
  ];
  if (config.granularity && config.granularity !== "tensor") parts.push(`by ${config.granularity}`);
  if (config.groups > 1) parts.push(`${config.groups} groups`);
  if (config.base) parts.push(`log base ${config.base}`);
  return parts.join(", ");
}

const shellQuoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
export const fileName = (id) => `${id.replace(/[^\w.-]+/g, "_")}.json`;

/** The command that writes a recipe: as searched, or as what was made of it. */
export function exportCommand(point, version = null) {
  const named = version === null ? "" : ` --as ${version}`;
  const file = version === null || version === "searched" ? fileName(point.id) : fileName(`${point.id}-${version}`);
  return `autoq export ${shellQuoted(run.directory)} --pick ${shellQuoted(point.id)}${named} -o ${shellQuoted(file)}`;
}
