// One axis: values to pixels and back, and its ticks.

const SHAPES = {
  log: { to: Math.log10, from: (place) => 10 ** place },
  linear: { to: (value) => value, from: (place) => place },
};

/** The span of values with some air around them, in the axis's own units (logarithms on a logarithmic axis). */
export function spanOf(values, isLog) {
  const { to } = SHAPES[isLog ? "log" : "linear"];
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (isLog && value <= 0) continue;
    low = Math.min(low, to(value));
    high = Math.max(high, to(value));
  }
  if (low > high) [low, high] = isLog ? [-1, 0] : [0, 1];
  const spread = high - low;
  const air = isLog ? Math.max(0.06 * spread, spread < 0.3 ? 0.1 : 0) : 0.06 * spread || 0.1 * Math.abs(high) || 1;
  return [low - air, high + air];
}

/** A scale from `span` to the pixels from `start` to `end`. */
export function makeScale(span, isLog, start, end) {
  const { to, from } = SHAPES[isLog ? "log" : "linear"];
  const [low, high] = span;
  const place = (value) => start + (((isLog && value <= 0 ? low : to(value)) - low) / (high - low)) * (end - start);
  place.valueAt = (pixel) => from(low + ((pixel - start) / (end - start)) * (high - low));
  place.isLog = isLog;
  place.span = span;
  place.ticks = (most) => (isLog ? logTicks(low, high, most) : linearTicks(low, high, most));
  return place;
}

function linearTicks(low, high, most) {
  const rough = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  // Counted, not added up: 0.1 + 0.2 is no tick.
  for (let index = Math.ceil(low / step); index * step <= high; index += 1)
    ticks.push(Number((index * step).toPrecision(12)));
  return ticks;
}

/** Ticks at 1, 2 and 5, fewer where these are too many; as on a linear axis where a zoom leaves too few of them. */
function logTicks(low, high, most) {
  const ticksAt = (steps) => {
    const ticks = [];
    for (let power = Math.floor(low); power <= high; power += 1)
      ticks.push(...steps.map((step) => Number(`${step}e${power}`)));
    return ticks.filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
  };
  const fine = ticksAt([1, 2, 5]);
  if (fine.length < 3) return linearTicks(10 ** low, 10 ** high, most);
  if (fine.length <= most) return fine;
  const powers = ticksAt([1]);
  const thinned = (ticks) => ticks.filter((_, place) => place % Math.ceil(ticks.length / Math.max(2, most)) === 0);
  return powers.length < 2 ? thinned(fine) : thinned(powers);
}
