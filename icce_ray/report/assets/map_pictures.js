// ---- small pictures of the map: cut out of sheets, shown beside the pointer and on the map ------------------------

const [MAP_TILE, MAP_TILE_GAP] = [40, 6];

/** The pictures of the sheets of `data-map`; `draw(context, point, left, top, side)` is false for a point without. */
const mapSprites = ({ sprites }) => {
  const slots = new Map((sprites?.points ?? []).map((point, slot) => [point, slot]));
  const bitmaps = [];
  const { side, across } = sprites ?? {};
  const ready = Promise.all((sprites?.sheets ?? []).map(async (sheet, place) => {
    const bytes = Uint8Array.from(atob(sheet), (c) => c.charCodeAt(0));
    bitmaps[place] = await createImageBitmap(new Blob([bytes], { type: "image/webp" }));
  }));
  const has = (point) => slots.has(point);
  const draw = (context, point, left, top, size) => {
    const slot = slots.get(point);
    const bitmap = bitmaps[Math.floor(slot / across ** 2)];
    if (slot === undefined || !bitmap) return false;
    const [column, row] = [slot % across, Math.floor((slot % across ** 2) / across)];
    context.drawImage(bitmap, column * side, row * side, side, side, left, top, size, size);
    return true;
  };
  const canvas = make("canvas", { width: side ?? 1, height: side ?? 1 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const files = new Map();
  /** WebP in base64, as the pool of images has it; undefined where there is none. */
  const picture = (point) => {
    if (!files.has(point)) {
      context.clearRect(0, 0, side, side);
      if (!draw(context, point, 0, 0, side)) return undefined;
      files.set(point, canvas.toDataURL("image/webp", 0.9).split(",")[1]);
    }
    return files.get(point);
  };
  return { ready, has, draw, picture, count: slots.size, side };
};

/** Draws a picture into each square of the map that has one, that nearest to its middle, framed in its colour. */
const drawMapPictures = ({ parts, points, grid, camera, sprites, scene, isShown }, density) => {
  const canvas = parts.tiles;
  const [width, height] = [parts.frame.clientWidth, parts.frame.clientHeight];
  [canvas.width, canvas.height] = [width * density, height * density];
  const context = canvas.getContext("2d");
  context.scale(density, density);
  const each = MAP_TILE + MAP_TILE_GAP;
  const cell = each / camera.scale;
  const [left, top, right, bottom] = camera.box();
  const best = new Map();
  // Squares stand still on the map while people pan.
  for (const point of grid.inside([left, top, right, bottom], (one) => sprites.has(one) && isShown(one))) {
    const [column, row] = [points.x[point] / cell, points.y[point] / cell];
    const key = Math.floor(row) * 2 ** 20 + Math.floor(column);
    const away = ((column % 1) - 0.5) ** 2 + ((row % 1) - 0.5) ** 2;
    if (away >= (best.get(key)?.away ?? Infinity)) continue;
    best.set(key, { point, away, column: Math.floor(column), row: Math.floor(row) });
  }
  for (const { point, column, row } of best.values()) {
    const x = camera.left + (column + 0.5) * each - MAP_TILE / 2;
    const y = camera.top + (row + 0.5) * each - MAP_TILE / 2;
    context.fillStyle = cssOf([...scene.colours.subarray(4 * point, 4 * point + 3)]);
    context.fillRect(x - 2, y - 2, MAP_TILE + 4, MAP_TILE + 4);
    sprites.draw(context, point, x, y, MAP_TILE);
  }
};

/** The map as it is seen, with the names of classes, on a canvas of its own. */
function mapAsPicture(map) {
  const { parts } = map;
  drawMap(map);
  const [width, height] = [parts.frame.clientWidth, parts.frame.clientHeight];
  const canvas = make("canvas", { width: parts.canvas.width, height: parts.canvas.height });
  const context = canvas.getContext("2d");
  context.drawImage(parts.canvas, 0, 0);
  if (!parts.tiles.hidden) context.drawImage(parts.tiles, 0, 0, canvas.width, canvas.height);
  context.scale(canvas.width / width, canvas.height / height);
  const { ink, ground } = map.theme;
  drawMapLabels(context, map.placed, cssOf(ink), cssOf(ground));
  return canvas;
}

/** Draws the whole map for paper, black on white: pages are printed while the map itself may be hidden. */
function printMap(map) {
  const { points, parts } = map;
  const [width, height, density] = [700, 460, 2];
  Object.assign(parts.printed, { width: width * density, height: height * density });
  const place = { clientWidth: width, clientHeight: height };
  const camera = mapCamera(place, map.extent, () => {});
  camera.fit();
  const painter = pixelPainter(parts.printed);
  const ground = [255, 255, 255];
  const colours = mapPaint(points.n, map.colouring.colour, 0.9, () => true);
  painter.load({ ...points, colours, order: map.scene.order, ground });
  const { scale, left, top } = camera;
  const size = mapPointSize(points.n, width, height, 1);
  painter.draw({ scale: scale * density, left: left * density, top: top * density, size: size * density, round: true });
  const context = parts.printed.getContext("2d");
  context.scale(density, density);
  drawMapLabels(context, placedLabels(map.colouring.labels, camera, width, height, 60), "#000", "#fff");
}
