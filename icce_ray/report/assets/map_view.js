// ---- moving over the map: drag, wheel, two fingers, keys; and drawing a lasso -------------------------------------

const MAP_KEYS = {
  ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
};
const [MAP_PADDING, MAP_CLICK, MAP_STEP, MAP_ZOOM, MAP_CLOSEST] = [28, 5, 60, 1.35, 64];

/**
 * What of the map is seen: `left` and `top`, CSS pixels of its origin, and `scale`, pixels per unit. `moved()` is
 * called after each change.
 */
const mapCamera = (frame, [left, top, right, bottom], moved) => {
  const camera = { left: 0, top: 0, scale: 1, touched: false };
  let whole = 1;
  const fit = () => {
    const [width, height] = [frame.clientWidth, frame.clientHeight];
    const room = Math.min(MAP_PADDING, width / 8, height / 8);
    whole = Math.min((width - 2 * room) / Math.max(1, right - left), (height - 2 * room) / Math.max(1, bottom - top));
    whole = Math.max(whole, 1e-6);
    camera.scale = whole;
    camera.left = width / 2 - ((left + right) / 2) * whole;
    camera.top = height / 2 - ((top + bottom) / 2) * whole;
    camera.touched = false;
    moved();
  };
  const pan = (across, down) => {
    camera.left += across;
    camera.top += down;
    camera.touched = true;
    moved();
  };
  /** Zooms by a factor; the place under (px, py) stays where it is. */
  const zoom = (factor, px = frame.clientWidth / 2, py = frame.clientHeight / 2) => {
    const scale = Math.max(whole / 2, Math.min(whole * MAP_CLOSEST, camera.scale * factor));
    camera.left = px - ((px - camera.left) * scale) / camera.scale;
    camera.top = py - ((py - camera.top) * scale) / camera.scale;
    camera.scale = scale;
    camera.touched = true;
    moved();
  };
  /** Shows a rectangle of the map, with as much again around it. */
  const show = ([x0, y0, x1, y1]) => {
    const [width, height] = [frame.clientWidth, frame.clientHeight];
    const fits = 0.5 * Math.min(width / Math.max(1, x1 - x0), height / Math.max(1, y1 - y0));
    camera.scale = Math.max(whole, Math.min(whole * 8, fits));
    camera.left = width / 2 - ((x0 + x1) / 2) * camera.scale;
    camera.top = height / 2 - ((y0 + y1) / 2) * camera.scale;
    camera.touched = true;
    moved();
  };
  const toMap = ([px, py]) => [(px - camera.left) / camera.scale, (py - camera.top) / camera.scale];
  const box = () => [...toMap([0, 0]), ...toMap([frame.clientWidth, frame.clientHeight])];
  const depth = () => camera.scale / whole;
  return Object.assign(camera, { fit, pan, zoom, show, toMap, box, depth });
};

/** Lets people move over `frame`. `on` has hover(px, py), leave(), click(px, py), lasso(path) and isLasso(). */
const steerMap = (frame, camera, on) => {
  const fingers = new Map();
  let [path, travelled, drag] = [null, 0, null];
  const at = ({ clientX, clientY }) => {
    const box = frame.getBoundingClientRect();
    return [clientX - box.left - frame.clientLeft, clientY - box.top - frame.clientTop];
  };
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("class", "map-lasso");
  drawing.setAttribute("aria-hidden", "true");
  drawing.append(line);
  frame.append(drawing);
  const showPath = () => line.setAttribute("points", (path ?? []).map((corner) => corner.join(",")).join(" "));
  const middle = () => {
    const [one, other] = [...fingers.values()];
    return [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2, Math.hypot(one[0] - other[0], one[1] - other[1])];
  };

  frame.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    frame.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    travelled = fingers.size > 1 ? Infinity : 0;
    path = fingers.size === 1 && (event.shiftKey || on.isLasso()) ? [at(event)] : null;
    drag = fingers.size === 2 ? middle() : at(event);
    showPath();
    on.leave();
  });
  frame.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return on.hover(...at(event));
    const [before, now] = [fingers.get(event.pointerId), at(event)];
    travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
    fingers.set(event.pointerId, now);
    if (path) {
      path.push(now);
      return showPath();
    }
    if (fingers.size === 2) {
      const [px, py, apart] = middle();
      camera.pan(px - drag[0], py - drag[1]);
      camera.zoom(apart / Math.max(1, drag[2]), px, py);
      drag = [px, py, apart];
    } else if (fingers.size === 1 && travelled > MAP_CLICK) {
      camera.pan(now[0] - drag[0], now[1] - drag[1]);
      drag = now;
    }
  });
  const lift = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    const corners = path;
    path = null;
    showPath();
    drag = [...fingers.values()][0] ?? null;
    if (event.type !== "pointerup") return;
    if (corners?.length > 2 && travelled > MAP_CLICK) on.lasso(corners);
    else if (travelled <= MAP_CLICK) on.click(...at(event));
  };
  frame.addEventListener("pointerup", lift);
  frame.addEventListener("pointercancel", lift);
  frame.addEventListener("pointerleave", on.leave);
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 24 : 1;
    camera.zoom(Math.exp(Math.max(-240, Math.min(240, -event.deltaY * lines)) / 400), ...at(event));
  }, { passive: false });
  frame.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== frame) return;
    const centre = [frame.clientWidth / 2, frame.clientHeight / 2];
    const move = MAP_KEYS[event.key];
    if (move) camera.pan(...move.map((part) => part * (event.shiftKey ? MAP_STEP / 6 : MAP_STEP)));
    else if (event.key === "+" || event.key === "=") camera.zoom(MAP_ZOOM);
    else if (event.key === "-") camera.zoom(1 / MAP_ZOOM);
    else if (event.key === "0") camera.fit();
    else if (event.key === "Enter") return on.click(...centre);
    else return;
    event.preventDefault();
    on.hover(...centre, true);
  });
};
