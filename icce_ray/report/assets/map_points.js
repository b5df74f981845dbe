// ---- the points of the map: unpacked, found again by place, counted by class --------------------------------------

/** Bytes of a base64 text that gzip has packed. */
const unpackedBytes = async (text) => {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
};

/**
 * The columns of the map by name, as Python's `report/map_data.py` packs them, each of `n` numbers: `ids` (ascending),
 * `x` and `y` (0 to 65535, one scale for both), `label`, and where there are any `confidence`, `agreement` (0 to 254,
 * 255 is none) and `truth` (65535 is none); `names` has [uri] or [uri, key].
 */
const unpackedMap = async (data) => {
  const kinds = { uint32: Uint32Array, uint16: Uint16Array, uint8: Uint8Array };
  const [buffer, names] = await Promise.all([unpackedBytes(data.packed), unpackedBytes(data.names)]);
  const points = { n: data.images, names: JSON.parse(new TextDecoder().decode(names)) };
  let offset = 0;
  for (const [name, kind] of data.columns) {
    points[name] = new kinds[kind](buffer, offset, data.images);
    offset += points[name].byteLength;
  }
  points.ids = new Float64Array(data.images);
  points.gaps.reduce((sum, gap, place) => (points.ids[place] = sum + gap), 0);
  points.place = new Map(Array.from(points.ids, (id, place) => [id, place]));
  return points;
};

/** Points by place: squares of a grid over 0 to 65535, the points of each one after the other in `order`. */
const mapGrid = ({ n, x, y }) => {
  const across = Math.max(1, Math.min(256, Math.ceil(Math.sqrt(n / 4))));
  const square = (value) => Math.floor((value * across) / 65536);
  const starts = new Uint32Array(across * across + 1);
  const order = new Uint32Array(n);
  for (let point = 0; point < n; point++) starts[square(y[point]) * across + square(x[point]) + 1] += 1;
  for (let cell = 0; cell < across * across; cell++) starts[cell + 1] += starts[cell];
  const next = starts.slice();
  for (let point = 0; point < n; point++) order[next[square(y[point]) * across + square(x[point])]++] = point;
  const within = (value) => Math.max(0, Math.min(across - 1, square(value)));

  /** Calls `visit` with each point of the squares that touch a rectangle. */
  const each = ([left, top, right, bottom], visit) => {
    if (right < 0 || bottom < 0 || left > 65535 || top > 65535) return;
    for (let row = within(top); row <= within(bottom); row++) {
      const [from, to] = [starts[row * across + within(left)], starts[row * across + within(right) + 1]];
      for (let place = from; place < to; place++) visit(order[place]);
    }
  };
  /** The points inside a rectangle, ascending. */
  const inside = (box, accept = () => true) => {
    const [left, top, right, bottom] = box;
    const found = [];
    each(box, (point) => {
      const within = x[point] >= left && x[point] <= right && y[point] >= top && y[point] <= bottom;
      if (within && accept(point)) found.push(point);
    });
    return found.sort((a, b) => a - b);
  };
  /** The points inside a polygon of [x, y], by the even-odd rule, ascending. */
  const enclosed = (corners, accept = () => true) => {
    const [xs, ys] = [corners.map(([value]) => value), corners.map(([, value]) => value)];
    const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    return inside(box, (point) => {
      let odd = false;
      for (let one = 0, other = xs.length - 1; one < xs.length; other = one++) {
        if (ys[one] > y[point] === ys[other] > y[point]) continue;
        const share = (y[point] - ys[one]) / (ys[other] - ys[one]);
        if (x[point] < xs[one] + share * (xs[other] - xs[one])) odd = !odd;
      }
      return odd && accept(point);
    });
  };
  /** The accepted point nearest to a place, at most `reach` away; -1 if there is none. */
  const nearest = (px, py, reach, accept = () => true) => {
    let [best, least] = [-1, reach * reach];
    each([px - reach, py - reach, px + reach, py + reach], (point) => {
      const away = (x[point] - px) ** 2 + (y[point] - py) ** 2;
      if (away <= least && accept(point)) [best, least] = [point, away];
    });
    return best;
  };
  return { inside, enclosed, nearest };
};

/** Numbers of the groups in a column, largest group first: [{ group, count, x, y }], at the densest spot of each. */
const mapGroups = ({ n, x, y }, column, none = -1) => {
  const members = new Map();
  for (let point = 0; point < n; point++) {
    if (column[point] === none) continue;
    if (!members.has(column[point])) members.set(column[point], []);
    members.get(column[point]).push(point);
  }
  const groups = [...members];
  const found = groups.map(([group, points]) => ({ group, count: points.length, ...densestSpot({ x, y }, points) }));
  return found.sort((a, b) => b.count - a.count || a.group - b.group);
};

/** Mean place of the points in the 3 x 3 squares, of 48 x 48, that hold the most of them. */
const densestSpot = ({ x, y }, points) => {
  const across = 48;
  const cellOf = (point) => Math.floor((y[point] * across) / 65536) * across + Math.floor((x[point] * across) / 65536);
  const counts = new Map();
  for (const point of points) {
    const cell = cellOf(point);
    for (const row of [-across, 0, across]) {
      for (const step of [-1, 0, 1]) {
        // The square itself counts a little more: of equal neighbourhoods the one whose middle has points.
        counts.set(cell + row + step, (counts.get(cell + row + step) ?? 0) + (row || step ? 1 : 1.001));
      }
    }
  }
  const [best] = [...counts].reduce((one, other) => (other[1] > one[1] ? other : one));
  const near = points.filter((point) => {
    const away = Math.abs(cellOf(point) - best);
    return [0, 1, across - 1, across, across + 1].includes(away);
  });
  const mean = (values) => near.reduce((sum, point) => sum + values[point], 0) / near.length;
  return { x: mean(x), y: mean(y) };
};

/** For each true class the class that holds most of its images, each class once: both then share a colour. */
const mapMatches = ({ n, label, truth }) => {
  const counts = new Map();
  for (let point = 0; point < n; point++) {
    if (truth[point] === 65535) continue;
    const key = truth[point] * 2 ** 32 + label[point];
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const [matches, taken] = [new Map(), new Set()];
  for (const [key] of [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0])) {
    const [one, other] = [Math.floor(key / 2 ** 32), key % 2 ** 32];
    if (matches.has(one) || taken.has(other)) continue;
    matches.set(one, other);
    taken.add(other);
  }
  return matches;
};
