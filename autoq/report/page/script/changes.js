// What one recipe does otherwise than another, in words.

import { ROLES, partsOf } from "./anatomy.js";
import { run } from "./data.js";
import { figureText } from "./figures.js";
import { fixed, klText, ratioText } from "./numbers.js";

const MOST_NAMED = 3;

/** Operands of two recipes side by side; an operand that only one of them quantizes has 32 bits in the other. */
function pairs(point, other) {
  const theirs = new Map(
    partsOf(other).flatMap((site) => site.operands.map((operand) => [`${site.name}:${operand.name}`, operand])),
  );
  return partsOf(point)
    .flatMap((site) => site.operands.map((mine) => ({ mine, theirs: theirs.get(`${site.name}:${mine.name}`) })))
    .filter((pair) => pair.theirs);
}

/** Sentences on figures, on bits by role, on where most changed, on groups and schemes. */
export function changesOf(point, other) {
  const both = pairs(point, other);
  return [figures(point, other), ...ROLES.map((role) => bits(role, both)), extremes(both), kinds(both)].filter(Boolean);
}

function figures(point, other) {
  const parts = [
    `${run.loss.title} ${ratioText(point.loss, other.loss) || "differs"} (${klText(point.loss)} against ${klText(other.loss)})`,
  ];
  for (const { key, title } of run.costs) {
    if (point[key] !== null && other[key] !== null) parts.push(`${title} ${ratioText(point[key], other[key])}`);
  }
  if (point.metric !== null && other.metric !== null)
    parts.push(
      `${run.metric.title} ${figureText("metric", point.metric)} against ${figureText("metric", other.metric)}`,
    );
  return `${parts.join("; ")}.`;
}

function bits({ key, title }, both) {
  const mine = both.filter((pair) => pair.mine.role === key);
  if (!mine.length) return null;
  const average = (side) => mine.reduce((sum, pair) => sum + pair[side].bits, 0) / mine.length;
  const [fewer, more] = [1, -1].map(
    (sign) => mine.filter((pair) => sign * (pair.theirs.bits - pair.mine.bits) > 0).length,
  );
  if (!fewer && !more) return `${title}: the same bits everywhere, ${fixed(average("mine"), 1)} on average.`;
  const counts = !more ? `${fewer} have fewer` : !fewer ? `${more} have more` : `${fewer} have fewer and ${more} more`;
  return `${title}: ${fixed(average("mine"), 1)} bits on average against ${fixed(average("theirs"), 1)}; of ${mine.length}, ${counts}.`;
}

function extremes(both) {
  const change = (pair) => pair.mine.bits - pair.theirs.bits;
  const text = ({ mine, theirs }) => `${mine.site}:${mine.name} ${mine.bits} (${theirs.bits})`;
  const list = (sign) =>
    both
      .filter((pair) => sign * change(pair) > 0)
      .sort((a, b) => sign * (change(b) - change(a)))
      .slice(0, MOST_NAMED)
      .map(text);
  const [more, fewer] = [list(1), list(-1)];
  const parts = [
    more.length ? `most given: ${more.join(", ")}` : null,
    fewer.length ? `most taken: ${fewer.join(", ")}` : null,
  ].filter(Boolean);
  if (!parts.length) return null;
  const joined = parts.join("; ");
  return `${joined[0].toUpperCase()}${joined.slice(1)}.`;
}

/** Count what is quantized otherwise, whatever its bits. */
function kinds(both) {
  const changed = both.filter(
    ({ mine, theirs }) => mine.config && theirs.config && mine.config.scheme !== theirs.config.scheme,
  );
  const counts = new Map();
  for (const { mine, theirs } of changed) {
    const name = `${mine.config.scheme} in place of ${theirs.config.scheme}`;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const groups = ["mine", "theirs"].map((side) => both.filter((pair) => pair[side].groups > 1).length);
  const parts = [...counts].map(([name, count]) => `${count} × ${name}`);
  if (groups[0] || groups[1]) parts.push(`${groups[0]} operands in groups against ${groups[1]}`);
  return parts.length ? `Schemes: ${parts.join(", ")}.` : null;
}
