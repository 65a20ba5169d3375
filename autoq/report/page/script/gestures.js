// Zoom and pan of a drawing: wheel with Ctrl, drag, Shift and drag, pinch, double click, keys.

const CLICK = 6;
const STEP = 1.4;

/**
 * Listen on `element` and call `actions`: zoom(factor, x, y), pan(dx, dy), box(from, to, isDone), tap(x, y, isTouch),
 * hover(x, y) and leave(), with places in pixels of the element.
 */
export function listen(element, actions) {
  const held = new Map();
  let [start, moved, box] = [null, false, false];
  const place = (event) => {
    const frame = element.getBoundingClientRect();
    return { x: event.clientX - frame.left, y: event.clientY - frame.top };
  };
  const pair = () => {
    const [a, b] = held.values();
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
  };

  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    held.set(event.pointerId, place(event));
    start = place(event);
    [moved, box] = [held.size > 1, event.shiftKey];
    if (event.pointerType === "mouse") element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    const to = place(event);
    if (!held.has(event.pointerId)) return event.pointerType === "mouse" && actions.hover(to.x, to.y);
    if (Math.hypot(to.x - start.x, to.y - start.y) > CLICK) moved = true;
    const [from, before] = [held.get(event.pointerId), held.size === 2 ? pair() : null];
    held.set(event.pointerId, to);
    if (before) {
      const after = pair();
      actions.pan(after.x - before.x, after.y - before.y);
      actions.zoom(after.apart / before.apart, after.x, after.y);
    } else if (moved && box) actions.box(start, to, false);
    else if (moved && event.pointerType === "mouse") actions.pan(to.x - from.x, to.y - from.y);
    return undefined;
  });
  const release = (event) => {
    if (!held.delete(event.pointerId)) return;
    const to = place(event);
    if (box && moved) actions.box(start, to, true);
    else if (!moved && event.type === "pointerup") actions.tap(to.x, to.y, event.pointerType === "touch");
  };
  element.addEventListener("pointerup", release);
  element.addEventListener("pointercancel", release);
  element.addEventListener("pointerleave", () => actions.leave());
  element.addEventListener("dblclick", (event) => {
    const { x, y } = place(event);
    actions.zoom(STEP * STEP, x, y);
  });
  // Without Ctrl the wheel scrolls the page; pinching a touchpad comes as a wheel with Ctrl.
  element.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const { x, y } = place(event);
      actions.zoom(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.002)), x, y);
    },
    { passive: false },
  );
}

/** What a key does to zoom and pan: a factor or a shift as a share of the drawing; null for other keys. */
export function zoomKey(event) {
  if (event.key === "+" || event.key === "=") return { factor: STEP };
  if (event.key === "-") return { factor: 1 / STEP };
  if (event.key === "0" || event.key === "Escape") return { reset: true };
  const shift = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
  return event.shiftKey && shift ? { shift } : null;
}
