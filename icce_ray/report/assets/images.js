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

/** Each far from those before it, also for people who cannot tell red from green, and clear on light and on dark. */
const COLOURS = [
  "#3880d6", "#e18c22", "#bc225c", "#e584fb", "#38a017", "#6cb1ac", "#a7758c", "#2a6f7a",
  "#7e46c6", "#fa5e75", "#8f6b09", "#9f76fa", "#2a7714", "#ba4ab4", "#50a7fc", "#879463",
  "#dc9297", "#ab96d3", "#746996", "#169db7", "#308a75", "#b2ad69", "#e15aae", "#db6700",
];

/** The colour of a class as #rrggbb, clear on light and dark. */
const colourOf = (label) => COLOURS[label % COLOURS.length];
