// Numbers as text, rounded as in autoq's terminal output and tables (autoq/units.py): half to even.

const TAIL = 30;
const PREFIXES = [
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
  [1, ""],
];
export const MISSING = "–";

/** Whether the digits that rounding drops are exactly one half. */
const isHalf = (dropped) => /^50*$/.test(dropped);

/** A number with `decimals` digits after the point. */
export function fixed(value, decimals) {
  const [shown, exact] = [value.toFixed(decimals), value.toFixed(decimals + TAIL)];
  const cut = exact.slice(0, -TAIL).replace(/\.$/, "");
  // JavaScript rounds a half away from zero.
  return isHalf(exact.slice(-TAIL)) && "02468".includes(cut.at(-1)) ? cut : shown;
}

/** The `digits` significant digits of a positive number, and the power of ten of the first. */
function significant(value, digits) {
  const [shown, exact] = [value.toExponential(digits - 1), value.toExponential(digits - 1 + TAIL)];
  const [mantissa, power] = exact.split("e");
  const cut = mantissa.replace(".", "").slice(0, digits);
  const isKept = isHalf(mantissa.slice(-TAIL)) && "02468".includes(cut.at(-1));
  const [rounded, shownPower] = shown.split("e");
  return isKept ? [cut, Number(power)] : [rounded.replace(".", ""), Number(shownPower)];
}

/** A number with `digits` significant digits, with an exponent below 0.0001; trailing zeros are kept if asked for. */
function general(value, digits, keepZeros) {
  if (value === 0) return "0";
  const [found, power] = significant(Math.abs(value), digits);
  const sign = value < 0 ? "-" : "";
  const trimmed = (text) => (keepZeros || !text.includes(".") ? text : text.replace(/\.?0+$/, ""));
  if (power < -4) {
    const mantissa = trimmed(found.length > 1 ? `${found[0]}.${found.slice(1)}` : found);
    return `${sign}${mantissa}e-${String(-power).padStart(2, "0")}`;
  }
  if (power < 0) return sign + trimmed(`0.${"0".repeat(-power - 1)}${found}`);
  const whole = found.slice(0, power + 1).padEnd(power + 1, "0");
  return sign + trimmed(found.length > power + 1 ? `${whole}.${found.slice(power + 1)}` : whole);
}

const rounded = (value, digits) => Number(general(value, digits, false));

/** A number with `digits` significant digits, without trailing zeros. */
export const digitsText = (value, digits = 3) => general(value, digits, false);

/** A discrepancy: two significant digits, trailing zeros kept. */
export function klText(value) {
  if (value <= 0) return "0";
  return rounded(value, 2) >= 10 ? fixed(value, 0) : general(value, 2, true);
}

/** The largest SI prefix that leaves a number, rounded to three digits, at one or more. */
export const prefixFor = (value) => PREFIXES.find(([factor]) => rounded(value, 3) >= factor) ?? [1, ""];

/** An amount with three significant digits in a unit: `BOPs`, `B` or `ns`. */
export function amountText(value, unit) {
  if (unit === "ns") {
    const [factor, name] = value >= 1e6 ? [1e6, "ms"] : [1e3, "us"];
    return `${digitsText(value / factor)} ${name}`;
  }
  const [factor, prefix] = prefixFor(value);
  const name = unit === "BOPs" ? [prefix, "BOPs"].filter(Boolean).join(" ") : prefix + unit;
  return `${digitsText(value / factor)} ${name}`;
}

export const percentText = (value, decimals = 1) => `${fixed(value, decimals)} %`;
export const shareText = (part, whole) => (whole > 0 ? percentText((100 * part) / whole) : MISSING);
export const countText = (value) => value.toLocaleString("en");

/** How one amount differs from another, in words: `7× less`, `12 % more`, `the same`. */
export function ratioText(value, other) {
  if (value === other) return "the same";
  if (value <= 0 || other <= 0) return "";
  const [ratio, word] = value < other ? [other / value, "less"] : [value / other, "more"];
  if (ratio >= 2) return `${digitsText(ratio, 2)}× ${word}`;
  const share = 100 * Math.abs(value / other - 1);
  return share < 0.05 ? "the same" : `${percentText(share)} ${word}`;
}
