// ---- the images and classes of the page ----------------------------------------------------------------------------
const images = has("images") ? read("images") : {};
const classes = has("classes") ? read("classes") : [];
const kinds = has("kinds") ? read("kinds") : [];
/** What says how sure a label is: confidence or agreement. */
const certainty = has("certainty") ? read("certainty") : "confidence";
const pictured = Object.values(images).some((one) => one.picture);
/** Further images that a part knows by name only, as the map does: functions from an image_id. */
const known = [];
/** What an image or class is called now; corrections take these over. */
const current = {
  nameOf: (label) => classes[label]?.name ?? "",
  classOf: (id) => imageOf(id)?.label,
  /** The class that a class has become, the classes that it has become one with, and images moved to it by hand. */
  classOfLabel: (label) => label,
  groupOf: (label) => [label],
  movedTo: () => [],
};

const imageOf = (id) => images[id] ?? known.map((find) => find(id)).find((one) => one) ?? null;
const fileOf = (id) => imageOf(id)?.key ?? imageOf(id)?.uri ?? `image ${id}`;
const pictureOf = (id) => {
  const picture = imageOf(id)?.picture;
  return picture ? `data:image/webp;base64,${picture}` : null;
};

function titleOf(label) {
  const name = current.nameOf(label);
  return name ? `Class ${label}: ${name}` : `Class ${label}`;
}

/** Images of a class. */
const sizeOf = (label) => current.groupOf(label).reduce((sum, one) => sum + classes[one].size, 0);

/** Ids of one kind that stand for a class, best first; of classes that are merged, in turn. */
function tilesOf(label, kind) {
  const parts = current.groupOf(label).map((one) => classes[one].tiles[kind]);
  const longest = Math.max(...parts.map((ids) => ids.length));
  const ranks = Array.from({ length: longest }, (_, rank) => parts.map((ids) => ids[rank]));
  return ranks.flat().filter((id) => id !== undefined);
}

const colours = new Map();

/** A colour for each class as #rrggbb, clear on light and dark; neighbouring numbers differ most. */
function colourOf(label) {
  if (!colours.has(label)) {
    const hue = (label * 137.508 + 250) * Math.PI / 180;
    colours.set(label, fromOklch([0.66, 0.6, 0.72][label % 3], 0.14, hue));
  }
  return colours.get(label);
}

/** Oklab's lightness, chroma and hue as #rrggbb (Ottosson 2020). */
function fromOklch(lightness, chroma, hue) {
  const [a, b] = [chroma * Math.cos(hue), chroma * Math.sin(hue)];
  const [l, m, s] = [
    lightness + 0.3963377774 * a + 0.2158037573 * b,
    lightness - 0.1055613458 * a - 0.0638541728 * b,
    lightness - 0.0894841775 * a - 1.291485548 * b,
  ].map((root) => root ** 3);
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const bytes = linear.map((value) => {
    const part = Math.min(1, Math.max(0, value));
    return Math.round(255 * (part <= 0.0031308 ? 12.92 * part : 1.055 * part ** (1 / 2.4) - 0.055));
  });
  return `#${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
