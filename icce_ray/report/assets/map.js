// ---- the map: images as points, near where they look alike --------------------------------------------------------

const [MAP_REACH, MAP_STILL, MAP_LABELS, MAP_SLOW] = [14, 160, 60, 22];
/** The map of the page once it is there: what cards, large view and sheets ask for. */
let theMap = null;

/** What the map knows of an image, in the form of the pool of images; undefined before it is unpacked. */
function mapImage(id) {
  const point = theMap?.points.place.get(id);
  if (point === undefined) return undefined;
  const { points, sprites } = theMap;
  const [uri, key] = points.names[point];
  const share = points[certainty]?.[point] ?? 255;
  const whole = key ?? uri;
  return {
    uri: cutName(uri),
    ...(key !== undefined && { key: cutName(key) }),
    ...(whole !== cutName(whole) && { whole }),
    label: points.label[point],
    ...(share < 255 && { share: share / 254 }),
    get picture() { return sprites.picture(point); },
  };
}

/** A name as the page shows it, cut in the middle as Python's `pool.cut` does. */
const cutName = (name) => (name.length > 120 ? `${name.slice(0, 60)}…${name.slice(-60)}` : name);

/** The elements of the map, in `root`; texts are set by `makeMap`. */
function mapElements(root, colourings, hasPictures) {
  const button = (text, title, attributes = {}) => make("button", { type: "button", title, ...attributes }, text);
  const toggle = (text, title) => button(text, title, { "aria-pressed": "false" });
  const by = make("select", { id: "map-by" });
  for (const [value, name] of Object.entries(colourings)) by.append(make("option", { value }, name));
  const parts = {
    by,
    closer: button("+", "Zoom in (key +)", { "aria-label": "Zoom in" }),
    farther: button("−", "Zoom out (key -)", { "aria-label": "Zoom out" }),
    whole: button("⤢", "Show the whole map (key 0)", { "aria-label": "Show the whole map" }),
    lasso: toggle("Lasso", "Draw around images to list them; or hold Shift and drag"),
    listed: button("List images in view", "All images of the part of the map that is seen"),
    pictures: toggle("Pictures", "Show small pictures where there is room"),
    save: button("Save as PNG", "Save what is seen as a picture"),
    canvas: make("canvas", { role: "img" }),
    tiles: make("canvas", { class: "map-tiles", "aria-hidden": "true" }),
    labels: make("div", { class: "map-labels", "aria-hidden": "true" }),
    ring: make("div", { class: "map-ring", hidden: "" }),
    tip: make("div", { class: "map-tip", hidden: "" }),
    said: make("p", { class: "map-said", role: "status" }),
    legend: make("div", { class: "map-legend" }),
    note: make("p", { class: "map-note" }),
    printed: make("canvas", { class: "map-printed", "aria-hidden": "true" }),
  };
  const help = "Arrow keys move, plus and minus zoom, 0 shows the whole map, Enter opens the image in the middle.";
  const name = `Map of images. ${help}`;
  parts.frame = make("div", { class: "map-frame", tabindex: "0", role: "application", "aria-label": name });
  parts.frame.append(parts.canvas, parts.tiles, parts.labels, parts.ring, parts.tip);
  const tools = make("div", { class: "tools map-tools" }, make("label", {}, "Colour by ", by));
  tools.append(parts.lasso, parts.listed);
  if (hasPictures) tools.append(parts.pictures);
  tools.append(parts.save);
  const zoom = make("div", { class: "map-zoom" }, parts.closer, parts.farther, parts.whole);
  const stage = make("div", { class: "map-stage" }, parts.frame, zoom);
  const side = make("div", { class: "map-side" }, parts.legend);
  root.append(tools, parts.printed, make("div", { class: "map-body" }, stage, side), parts.said, parts.note);
  return parts;
}

/** The painter of the map's canvas: WebGL where there is any. */
function mapPainter(parts) {
  if (isWebglFast()) return webglPainter(parts.canvas);
  parts.note.append("Drawn without graphics hardware, as this browser has no fast WebGL. ");
  return pixelPainter(parts.canvas);
}

/** CSS pixels of a point: the more there are the smaller, and larger when people come closer. */
function mapPointSize(n, width, height, depth) {
  const own = 0.55 * Math.sqrt((0.4 * width * height) / Math.max(1, n));
  return Math.max(2, Math.min(9, own)) * Math.max(1, depth) ** 0.35;
}

/** Draws what is seen, now. */
function drawMap(map) {
  const { parts, camera, points, painter } = map;
  const [width, height] = [parts.frame.clientWidth, parts.frame.clientHeight];
  if (!width || !height) return;
  const full = Math.min(2, devicePixelRatio);
  const isCoarse = map.moving && (!painter.isFast || map.cost > MAP_SLOW);
  const density = isCoarse ? Math.min(full, 1) : full;
  const size = [Math.round(width * density), Math.round(height * density)];
  const { canvas } = parts;
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const { scale, left, top } = camera;
  const pixels = mapPointSize(points.n, width, height, camera.depth()) * density;
  painter.draw({ scale: scale * density, left: left * density, top: top * density, size: pixels, round: !isCoarse });
  map.placed = placedLabels(map.colouring.labels, camera, width, height, MAP_LABELS);
  showMapLabels(parts.labels, map.placed);
  parts.tiles.hidden = parts.pictures.getAttribute("aria-pressed") !== "true";
  if (!parts.tiles.hidden) drawMapPictures(map, full);
}

/** Draws with the next frame, once for all changes until then. */
function requestMap(map) {
  map.frame ||= requestAnimationFrame((now) => {
    map.frame = 0;
    if (map.colouring) drawMap(map);
    // Where frames come late, those of a movement have less detail.
    requestAnimationFrame((next) => { if (map.moving) map.cost = 0.7 * map.cost + 0.3 * (next - now); });
  });
}

/** Takes colours anew: of the classes as they are decided, of the theme, of what is highlighted. */
function recolourMap(map) {
  const { points, data, parts, highlighted } = map;
  const [ink, ground] = rgbOf(["--ink", "--ground"].map(colourNamed));
  map.theme = { ink, ground };
  map.colouring = mapColouring(parts.by.value, points, data, map.shown);
  const { colour, column, labels } = map.colouring;
  for (const one of labels) one.short = shortened(one.title.replace(/^Class (\d+): /, ""));
  map.isShown = highlighted.size ? (point) => highlighted.has(column[point]) : () => true;
  const opacity = Math.max(0.5, Math.min(0.92, mapPointSize(points.n, 1000, 700, 1) / 4));
  map.scene = {
    ...points,
    ground,
    colours: mapPaint(points.n, colour, opacity, map.isShown),
    order: mapOrder(points.n, map.isShown),
  };
  map.painter.load(map.scene);
  requestMap(map);
}

/** Colours and legend anew, after another way of colouring was chosen. */
function chooseMapColours(map) {
  map.highlighted.clear();
  relistMap(map);
}

/** Takes the classes of all points as people have decided, then colours and legend. */
function reclassMap(map) {
  const { label, ids } = map.points;
  map.shown = label.map((own, point) => current.classOf(ids[point]) ?? own);
  relistMap(map);
}

/** Colours and legend anew; what was highlighted stays so. */
function relistMap(map) {
  recolourMap(map);
  showMapLegend(map.parts.legend, map.colouring, map.highlighted, (group) => {
    if (group === null) map.highlighted.clear();
    else if (!map.highlighted.delete(group)) map.highlighted.add(group);
    recolourMap(map);
    markMapLegend(map.parts.legend, map.highlighted);
  });
}

/** Lists images by points of the map. */
function listMapImages(map, found, where) {
  map.parts.said.textContent = `${counted(found.length, "image")} ${where}`;
  if (found.length) listImages(`Images ${where}`, found.map((point) => map.points.ids[point]));
}

/** Makes the parts of the map do what they say. */
function connectMap(map) {
  const { parts, camera, grid, points } = map;
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";
  const press = (button, on = !pressed(button)) => {
    button.setAttribute("aria-pressed", String(on));
    parts.frame.classList.toggle("lassoing", pressed(parts.lasso));
  };
  const nearest = (px, py) => grid.nearest(...camera.toMap([px, py]), MAP_REACH / camera.scale, map.isShown);
  let hover = 0;
  steerMap(parts.frame, camera, {
    hover(px, py, isSaid = false) {
      cancelAnimationFrame(hover);
      hover = requestAnimationFrame(() => {
        const point = nearest(px, py);
        if (point !== map.at || isSaid) showMapTip(map, point);
        if (!isSaid) return;
        const { name, lines } = point < 0 ? { name: "No image in the middle", lines: [] } : wordsOfPoint(map, point);
        parts.said.textContent = [name, ...lines].join(", ");
      });
    },
    leave: () => (cancelAnimationFrame(hover), showMapTip(map, -1)),
    click(px, py) {
      const point = nearest(px, py);
      if (point >= 0) enlarge(points.ids[point], [points.ids[point]]);
    },
    isLasso: () => pressed(parts.lasso),
    lasso(path) {
      press(parts.lasso, false);
      listMapImages(map, grid.enclosed(path.map(camera.toMap), map.isShown), "in the lasso");
    },
  });
  parts.by.addEventListener("change", () => chooseMapColours(map));
  parts.closer.addEventListener("click", () => camera.zoom(MAP_ZOOM));
  parts.farther.addEventListener("click", () => camera.zoom(1 / MAP_ZOOM));
  parts.whole.addEventListener("click", camera.fit);
  parts.lasso.addEventListener("click", () => press(parts.lasso));
  parts.listed.addEventListener("click", () => listMapImages(map, grid.inside(camera.box(), map.isShown), "in view"));
  parts.pictures.addEventListener("click", () => (press(parts.pictures), requestMap(map)));
  parts.save.addEventListener("click", () => mapAsPicture(map).toBlob((blob) => saveFile("map.png", blob)));
  map.painter.onRestored(() => recolourMap(map));
  new ResizeObserver(() => (camera.touched ? requestMap(map) : camera.fit())).observe(parts.frame);
  document.addEventListener("decisions", () => reclassMap(map));
  document.addEventListener("theme", () => relistMap(map));
  addEventListener("beforeprint", () => printMap(map));
}

/** Highlights a class, or rings an image, as `#map-class-3` and `#map-image-12` ask. */
function followMapLink(map) {
  const [, kind, digits] = /^#map-(class|image)-(\d+)$/.exec(location.hash) ?? [];
  const { points, camera, highlighted, parts } = map;
  if (!kind) return;
  const number = Number(digits);
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  showPanel("map");
  scrollTo(0, 0);
  parts.by.value = "class";
  highlighted.clear();
  if (kind === "class") highlighted.add(current.classOfLabel(number));
  relistMap(map);
  const wanted = kind === "class" ? map.isShown : (point) => points.ids[point] === number;
  const found = map.grid.inside(map.extent, wanted);
  if (!found.length) {
    parts.said.textContent = "It is not among the images of the map.";
    return;
  }
  camera.show(middleOf(points, found));
  if (kind === "image") showMapTip(map, found[0]);
  parts.frame.focus({ preventScroll: true });
}

/** The rectangle that holds all but the outermost tenth of some points, on each side. */
function middleOf({ x, y }, found) {
  const [xs, ys] = [x, y].map((column) => found.map((point) => column[point]).sort((a, b) => a - b));
  const [low, high] = [Math.floor(found.length / 10), Math.ceil(found.length * 0.9) - 1];
  return [xs[low], ys[low], xs[Math.max(low, high)], ys[Math.max(low, high)]];
}

/** Builds the map in `root`. */
function makeMap(root, data, points) {
  const sprites = mapSprites(data);
  const parts = mapElements(root, mapColourings(points), sprites.count > 0);
  const ends = (column) => column.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [65535, 0]);
  const [[left, right], [top, bottom]] = [ends(points.x), ends(points.y)];
  const map = { data, points, sprites, parts, extent: [left, top, right, bottom], highlighted: new Set(), at: -1 };
  Object.assign(map, { grid: mapGrid(points), painter: mapPainter(parts), moving: false, cost: 0, placed: [] });
  let timer;
  map.camera = mapCamera(parts.frame, map.extent, () => {
    map.moving = true;
    clearTimeout(timer);
    timer = setTimeout(() => {
      map.moving = false;
      requestMap(map);
    }, MAP_STILL);
    if (map.at >= 0) showMapTip(map, -1);
    requestMap(map);
  });
  const [shown, all] = [data.images, data.of].map((count) => count.toLocaleString("en"));
  parts.canvas.setAttribute("aria-label", `Scatter of ${shown} images; those near each other look alike to the model.`);
  const which = shown === all ? `All ${all} images` : `${shown} of ${all} images, drawn at random`;
  parts.note.append(`${which}. Those near each other look alike to the model; how far groups lie apart says little.`);
  const withPicture = sprites.count === data.images ? "All" : sprites.count.toLocaleString("en");
  if (sprites.count) parts.note.append(` ${withPicture} have a small picture here.`);
  return map;
}

// Cards and the large view lead to the map, at first only by the address.
const linkToMap = (to) => make("a", { class: "map-link", href: `#map-${to}` }, "Show on map");
cardTools.push((label) => (has("map") ? linkToMap(`class-${label}`) : null));
largeTools.push((id) => (theMap?.points.place.has(id) ? linkToMap(`image-${id}`) : null));

/** Builds the map of the page in #map from #data-map, in its own time. */
async function initMap() {
  const data = read("map");
  const points = await unpackedMap(data);
  const map = makeMap(document.getElementById("map"), data, points);
  theMap = map;
  known.push(mapImage);
  connectMap(map);
  reclassMap(map);
  const follow = () => followMapLink(map);
  addEventListener("hashchange", follow);
  follow();
  await map.sprites.ready;
  requestMap(map);
}
