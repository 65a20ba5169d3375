// A recipe by parts of the model: blocks, roles of operands, where its bit operations go.

import { sitesOf } from "./recipes.js";

const PRODUCTS = new Set(["matmul", "bmm", "einsum"]);

export const ROLES = [
  { key: "weight", title: "Weights" },
  { key: "input", title: "Activations" },
  { key: "product", title: "Attention" },
];

/** `blocks.3` of `blocks.3.attn.qkv`: the innermost numbered module that a site is in, or the site itself. */
export const blockOf = (name) => name.match(/^(?:.*\.)?\d+(?=\.)/)?.[0] ?? name;

/** What an operand is: a weight, the input of a layer, or an operand of an attention product. */
const roleOf = (site, operand) => (PRODUCTS.has(site.op) ? "product" : operand.name === "weight" ? "weight" : "input");

/** Whether a site is left in floating point and costs nothing: norms, softmax, sums and outputs that no scheme quantizes. */
const isLeftOut = (site) => site.macs === 0 && site.operands.every((operand) => operand.config === null);

const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);

/** A recipe site by site, each with its block and its operands' roles; what is left out is not among them. */
export function partsOf(point) {
  const sites = sitesOf(point).filter((site) => !isLeftOut(site));
  return sites.map((site) => ({
    ...site,
    block: blockOf(site.name),
    operands: site.operands.map((operand) => ({ ...operand, site: site.name, role: roleOf(site, operand) })),
  }));
}

/** Blocks in network order: their sites, the mean bits of each role, their bit operations. */
export function blocksOf(sites) {
  const blocks = new Map();
  for (const site of sites) {
    if (!blocks.has(site.block)) blocks.set(site.block, { name: site.block, sites: [], bops: 0 });
    const block = blocks.get(site.block);
    block.sites.push(site);
    block.bops += site.bops;
  }
  for (const block of blocks.values()) block.bits = meanBits(block.sites);
  return [...blocks.values()];
}

/** Mean bits of each role over sites; null where there is no such operand. */
export const meanBits = (sites) =>
  Object.fromEntries(
    ROLES.map(({ key }) => [
      key,
      mean(
        sites.flatMap((site) => site.operands.filter((operand) => operand.role === key).map((operand) => operand.bits)),
      ),
    ]),
  );

export const COST_PARTS = [
  "embedding",
  "attention layers",
  "attention products",
  "MLP and other layers",
  "head",
  "groups and transforms",
];

/** The part of the model that a site belongs to, by structure: layers beside a product of activations are attention's. */
function partNames(sites) {
  const layers = sites.filter((site) => site.operands.some((operand) => operand.name === "weight"));
  const parents = new Set(sites.filter((site) => PRODUCTS.has(site.op)).map((site) => parentOf(site.name)));
  return new Map(
    sites.map((site) => {
      if (PRODUCTS.has(site.op)) return [site.name, "attention products"];
      if (site === layers[0]) return [site.name, "embedding"];
      if (site === layers.at(-1)) return [site.name, "head"];
      return [site.name, parents.has(parentOf(site.name)) ? "attention layers" : "MLP and other layers"];
    }),
  );
}

const parentOf = (name) => name.split(".").slice(0, -1).join(".");

/** Bit operations of a recipe by part of the model. */
export function costParts(point) {
  const sites = sitesOf(point);
  const names = partNames(sites);
  const found = Object.fromEntries(COST_PARTS.map((part) => [part, 0]));
  for (const site of sites) found[names.get(site.name)] += site.bops;
  found["groups and transforms"] = point.group_bops ?? 0;
  return found;
}

/** How many sites of the model a recipe leaves in floating point without cost. */
export const countLeftOut = (point) => sitesOf(point).filter(isLeftOut).length;
