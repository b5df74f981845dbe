// ---- what the colours of the map say --------------------------------------------------------------------------------

const MAP_UNKNOWN = [139, 146, 154];
/** From little to much: orange asks for a look, blue is calm; told apart by the colour-blind, on light and on dark. */
const MAP_RAMP = [[217, 72, 1], [245, 160, 60], [160, 165, 175], [90, 145, 205], [33, 94, 168]];
const MAP_DIMMED = 18;

/** Red, green and blue of CSS colours, as the browser takes them. */
const rgbOf = (colours) => {
  const canvas = make("canvas", { width: Math.max(1, colours.length), height: 1 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  colours.forEach((colour, place) => {
    context.fillStyle = colour;
    context.fillRect(place, 0, 1, 1);
  });
  const { data } = context.getImageData(0, 0, canvas.width, 1);
  return colours.map((_, place) => [...data.slice(4 * place, 4 * place + 3)]);
};
const cssOf = (rgb) => `rgb(${rgb.join(" ")})`;
const onRamp = (share) => {
  const place = Math.max(0, Math.min(0.9999, share)) * (MAP_RAMP.length - 1);
  const [low, part] = [Math.floor(place), place % 1];
  return MAP_RAMP[low].map((value, at) => Math.round(value + part * (MAP_RAMP[low + 1][at] - value)));
};

/** The ways to colour the map of these points: { id: name }. */
const mapColourings = (points) => ({
  class: "class",
  ...(points.truth && { truth: "true class" }),
  ...(points.confidence && { confidence: "confidence" }),
  ...(points.agreement && { agreement: "agreement of the heads" }),
});

/** Colours by a share: { colour: by point [r, g, b], low, high }; the ramp starts where 2 % of the points lie below. */
const byShare = (column) => {
  const known = column.filter((value) => value < 255).sort();
  const [low, high] = [known[Math.floor(known.length * 0.02)] ?? 0, known.at(-1) ?? 254];
  const ramp = Array.from({ length: 255 }, (_, value) => onRamp((value - low) / Math.max(1, high - low)));
  return { colour: (point) => ramp[column[point]] ?? MAP_UNKNOWN, low: low / 254, high: high / 254 };
};

/** Colours by group: { colour: by point [r, g, b], groups: with title and colour }. */
const byGroup = (column, groups, titles, css) => {
  const rgb = rgbOf(groups.map(({ group }) => css(group)));
  const known = new Map(groups.map(({ group }, place) => [group, rgb[place]]));
  return {
    colour: (point) => known.get(column[point]) ?? MAP_UNKNOWN,
    groups: groups.map((one, place) => ({ ...one, title: titles(one.group), css: cssOf(rgb[place]) })),
  };
};

/** RGBA bytes of all points; those that `isShown` refuses are hardly there. */
const mapPaint = (n, colour, opacity, isShown) => {
  const bytes = new Uint8Array(4 * n);
  for (let point = 0; point < n; point++) {
    const rgb = colour(point);
    for (let part = 0; part < 3; part++) bytes[4 * point + part] = rgb[part];
    bytes[4 * point + 3] = isShown(point) ? Math.round(255 * opacity) : MAP_DIMMED;
  }
  return bytes;
};

/** The order of drawing: mixed, so that no class lies on top of all others, those that are shown last. */
const mapOrder = (n, isShown) => {
  const mixed = Uint32Array.from({ length: n }, (_, place) => place);
  let seed = 12345;
  for (let place = n - 1; place > 0; place--) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((seed / 2 ** 32) * (place + 1));
    [mixed[place], mixed[other]] = [mixed[other], mixed[place]];
  }
  return Uint32Array.from([...mixed.filter((point) => !isShown(point)), ...mixed.filter(isShown)]);
};

/** What a way of colouring says of these points; `shown` are their classes as people have decided. */
function mapColouring(by, points, data, shown) {
  const name = mapColourings(points)[by];
  if (by === "confidence" || by === "agreement") {
    const unknown = points[by].reduce((sum, value) => sum + (value === 255), 0);
    const labels = byGroup(shown, mapGroups(points, shown), titleOf, colourOf).groups;
    return { by, name, unknown, labels, column: shown, ...byShare(points[by]) };
  }
  const isTruth = by === "truth";
  const column = isTruth ? points.truth : shown;
  const matches = isTruth ? mapMatches({ ...points, label: shown }) : null;
  // A true class has the colour of the class that holds most of it.
  const css = isTruth ? (group) => (matches.has(group) ? colourOf(matches.get(group)) : cssOf(MAP_UNKNOWN)) : colourOf;
  const titles = isTruth ? (group) => data.truth[group] : titleOf;
  const { groups, colour } = byGroup(column, mapGroups(points, column, isTruth ? 65535 : -1), titles, css);
  return { by, name, column, colour, groups, labels: groups };
}
