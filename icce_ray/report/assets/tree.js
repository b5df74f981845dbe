// ---- the tree of the classes: a dendrogram, cut into superclasses --------------------------------------------------
/** Pixels: height of a class, gap between superclasses, width of the lines. Of more classes superclasses are drawn. */
const TREE = { row: 24, gap: 8, width: 150, most: 80, few: 40 };
/** Lowest merges of two classes that are shown, and the distance from which on two classes are no candidates. */
const [CANDIDATES, TOO_FAR] = [5, 0.5];
/** Classes of a superclass that are named where it is drawn as one. */
const NAMED = 5;

/** The merges [one, other, distance] of a run, nearest first, as nodes: classes, then `classes.length` + i. */
function makeTree(merges) {
  const first = classes.length;
  const parts = new Map(merges.map(([one, other, distance], index) => [first + index, { one, other, distance }]));
  const most = merges.length + 1;
  const leaves = new Map();
  const leavesOf = (node) => {
    if (!parts.has(node)) return [node];
    if (!leaves.has(node)) leaves.set(node, [...leavesOf(parts.get(node).one), ...leavesOf(parts.get(node).other)]);
    return leaves.get(node);
  };
  /** The nodes that are left when only the nearest are joined, in the order of the tree. */
  const cutAt = (count) => {
    const lowest = first + most - count;
    const below = (node) => (node < lowest ? [node] : [...below(parts.get(node).one), ...below(parts.get(node).other)]);
    return below(first + merges.length - 1);
  };
  /** {node, labels} of each superclass, in the order of the tree; numbered by their smallest class. */
  const superclasses = (count) => {
    const found = cutAt(count).map((node) => ({ node, labels: leavesOf(node) }));
    const smallest = (one) => one.labels.reduce((a, b) => Math.min(a, b));
    [...found].sort((a, b) => smallest(a) - smallest(b)).forEach((one, number) => Object.assign(one, { number }));
    return found;
  };
  return { merges, parts, most, root: first + merges.length - 1, cutAt, superclasses };
}

/** Rows of the drawing: superclasses, each with the nodes that have a row, and the height of all. */
function rowsOf(tree, count) {
  const drawn = tree.most <= TREE.most ? tree.most : count < tree.most ? count : TREE.few;
  const whole = count < tree.most ? count : drawn;
  const places = new Map();
  let top = 0;
  const groups = tree.superclasses(whole).map((one) => {
    const nodes = drawn > whole ? [...one.labels] : [one.node];
    for (const node of nodes) {
      places.set(node, top + TREE.row / 2);
      top += TREE.row;
    }
    if (whole < drawn) top += TREE.gap;
    return { ...one, nodes };
  });
  return { groups, places, height: top, spaced: whole < drawn };
}

const svgOf = (tag, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

/** The lines of the tree as an SVG element of the colours of now, those above the cut dashed. */
function linesOf(tree, count, { places, height }) {
  // Half by distance, half by order: late merges are all far, and their order is what a cut goes by.
  const hidden = tree.most - places.size;  // merges below what is drawn
  const nearest = hidden ? tree.merges[hidden - 1][2] : 0;
  const span = tree.merges.at(-1)[2] - nearest || 1;
  const order = (node) => (node - classes.length - hidden + 1) / (places.size - 1);
  const late = (node) => 0.5 * ((tree.parts.get(node).distance - nearest) / span + order(node));
  const across = (node) => Math.round(2 + (TREE.width - 2) * (1 - late(node)));
  const cutting = count < tree.most ? tree.root + 2 - count : Infinity;
  const [ink, soft] = [colourNamed("--ink"), colourNamed("--soft")];
  const lines = svgOf("g", { fill: "none", "stroke-width": 1.5 });
  const walk = (node) => {
    if (places.has(node)) return { x: TREE.width, y: places.get(node) };
    const { one, other } = tree.parts.get(node);
    const [a, b, x] = [walk(one), walk(other), across(node)];
    const above = node >= cutting ? { stroke: soft, "stroke-dasharray": "3 3" } : { stroke: ink };
    lines.append(svgOf("path", { d: `M${a.x} ${a.y}H${x}V${b.y}H${b.x}`, "data-node": node, ...above }));
    return { x, y: (a.y + b.y) / 2 };
  };
  walk(tree.root);
  return svgOf("svg", { width: TREE.width, height, viewBox: `0 0 ${TREE.width} ${height}` }, lines);
}

/** The largest classes by name. */
function namesOf(labels) {
  const largest = [...labels].sort((a, b) => classes[b].size - classes[a].size || a - b).slice(0, NAMED);
  const names = largest.map((label) => current.nameOf(label) || String(label));
  return [...names, ...(labels.length > NAMED ? ["…"] : [])].join(", ");
}
const nodeTitle = ({ labels }, node) =>
  (node < classes.length ? titleOf(node) : `${counted(labels.length, "class", "classes")}: ${namesOf(labels)}`);
const nodeColour = ({ labels }) =>
  colourOf(labels.reduce((a, b) => (classes[b].size > classes[a].size ? b : a)));

/** The tree with its names and background as an SVG of its own, for a file. */
function treeFile(tree, count) {
  const rows = rowsOf(tree, count);
  const svg = linesOf(tree, count, rows);
  const texts = svgOf("g", { fill: colourNamed("--ink"), "font-family": FONT, "font-size": 13 });
  let longest = 0;
  for (const group of rows.groups) {
    for (const node of group.nodes) {
      const text = [...nodeTitle(group, node)].slice(0, 80).join("");
      longest = Math.max(longest, [...text].length);
      const labels = node < classes.length ? [node] : group.labels;
      const y = rows.places.get(node);
      const dot = svgOf("circle", { cx: TREE.width + 10, cy: y, r: 5, fill: nodeColour({ labels }) });
      texts.append(dot, svgOf("text", { x: TREE.width + 22, y: y + 4.5 }, text));
    }
  }
  const [width, height] = [TREE.width + 40 + Math.ceil(7.6 * longest), rows.height + 2 * TREE.gap];
  svg.append(texts);
  svg.prepend(svgOf("rect", { x: -TREE.gap, y: -TREE.gap, width, height, fill: colourNamed("--ground") }));
  const frame = { width, height, viewBox: `${-TREE.gap} ${-TREE.gap} ${width} ${height}` };
  for (const [name, value] of Object.entries(frame)) svg.setAttribute(name, value);
  return new XMLSerializer().serializeToString(svg);
}

/** Every number of superclasses up to 50, then ever fewer: a slider of 1,000 steps can hardly be set. */
function stopsOf(most) {
  const stops = [1];
  while (stops.at(-1) < most) stops.push(Math.min(most, Math.max(stops.at(-1) + 1, Math.floor(1.04 * stops.at(-1)))));
  return stops;
}

/** Names in the order of the drawing, each in the row of its line: a list of superclasses with lists of classes. */
function listOf(rows, isCut) {
  const rowOf = (group, node) => {
    const labels = node < classes.length ? [node] : group.labels;
    const href = labels.length > 1 && isCut ? `#superclass-${group.number}` : `#class-${labels[0]}`;
    const dot = make("i", { class: "dot", style: `background:${nodeColour({ labels })}` });
    const title = nodeTitle(group, node);
    return make("li", {}, make("a", { href, title, "data-labels": labels.join(" ") }, dot, title));
  };
  const kind = { class: rows.spaced ? "leaves spaced" : "leaves", "aria-label": isCut ? "Superclasses" : "Classes" };
  return make("ul", kind, ...rows.groups.map((group) => {
    const own = group.nodes.map((node) => rowOf(group, node));
    if (!isCut || own.length < 2) return own[0];
    const name = `Superclass ${group.number}, ${counted(group.labels.length, "class", "classes")}`;
    return make("li", {}, make("ul", { "aria-label": name }, ...own));
  }));
}

/** Pairs of single classes that are joined lowest: may be one class, split in two. */
function candidatesOf(tree) {
  const single = ([one, other]) => Math.max(one, other) < classes.length;
  const pairs = tree.merges.filter((merge) => single(merge) && merge[2] < TOO_FAR);
  return pairs.slice(0, CANDIDATES).map(([one, other]) => {
    const chance = classes[one].near.find(([label]) => label === other)?.[1];
    const linkTo = (label) => make("a", { href: `#class-${label}` }, titleOf(label));
    const words = [linkTo(one), " and ", linkTo(other)];
    if (chance !== undefined) words.push(`: heads put ${percent(chance)} of their images together`);
    return make("li", {}, ...words, ...mergeButton(one, other));
  });
}

/** The button that merges two classes, where decisions can be made; a word where they are merged already. */
function mergeButton(one, other) {
  if (typeof decisions === "undefined" || !decisions) return [];
  if (decisions.classOfLabel(one) === decisions.classOfLabel(other)) return [" (merged)"];
  if (decisions.isRejected(one) || decisions.isRejected(other)) return [];
  const label = `Merge ${titleOf(one)} and ${titleOf(other)}`;
  const button = make("button", { type: "button", "aria-label": label }, "Merge");
  const said = `Classes ${one} and ${other} are merged.`;
  button.addEventListener("click", () => {
    const row = button.closest("li");
    const [list, place] = [row.parentElement, [...row.parentElement.children].indexOf(row)];
    corrections.decide({ type: "merge", labels: [one, other] }, said);
    list.children[place].querySelector("a").focus();  // the button has gone
  });
  return [" ", button];
}

/** Cards below headings of their superclasses, in the order of the numbers; those of empty classes last. */
function headed(groups, entries) {
  const numbers = new Map(groups.flatMap(({ number, labels }) => labels.map((label) => [label, number])));
  const byNumber = new Map();
  for (const { one, card } of entries) {
    const number = numbers.get(one.label) ?? groups.length;
    byNumber.set(number, [...(byNumber.get(number) ?? []), card]);
  }
  const heading = (number) => {
    const own = groups.find((one) => one.number === number);
    if (!own) return make("h3", { class: "superclass" }, "Classes without images");
    const images = own.labels.reduce((sum, label) => sum + classes[label].size, 0);
    const about = `${counted(own.labels.length, "class", "classes")}, ${counted(images, "image")}`;
    const attributes = { class: "superclass", id: `superclass-${number}` };
    return make("h3", attributes, `Superclass ${number} `, make("small", {}, about));
  };
  return [...byNumber.keys()].sort((a, b) => a - b).flatMap((number) => [heading(number), ...byNumber.get(number)]);
}

/** Mark the cards of the name that the pointer is on. */
function lightCards(event) {
  const name = event.type === "pointerleave" ? null : event.target.closest("[data-labels]");
  for (const card of document.querySelectorAll(".card.lit")) card.classList.remove("lit");
  for (const label of name?.dataset.labels.split(" ") ?? []) element(`class-${label}`)?.classList.add("lit");
}

function initTree() {
  const { merges, missing } = read("tree");
  const box = element("tree");
  if (!merges?.length) {
    if (missing) box.append(make("p", { class: "about" }, missing));
    return;
  }
  const tree = makeTree(merges);
  const stops = stopsOf(tree.most);
  const last = stops.length - 1;
  const slider = make("input", { type: "range", id: "superclasses", min: 0, max: last, value: last });
  const [drawing, pairs] = [make("div", { class: "drawing" }), make("ul", { class: "pairs" })];
  const shown = make("output", { for: "superclasses" });
  const count = () => stops[Number(slider.value)];
  const draw = () => {
    const [rows, isCut] = [rowsOf(tree, count()), count() < tree.most];
    const words = isCut ? counted(count(), "superclass", "superclasses") : "each class by itself";
    shown.textContent = words;
    slider.setAttribute("aria-valuetext", words);
    const lines = linesOf(tree, count(), rows);
    lines.setAttribute("aria-hidden", "true");
    drawing.replaceChildren(lines, listOf(rows, isCut));
    pairs.replaceChildren(...candidatesOf(tree));
  };
  const cut = () => {
    draw();
    arrangeCards = count() < tree.most ? headed.bind(null, tree.superclasses(count())) : null;
    document.dispatchEvent(new Event("arrange"));
  };
  slider.addEventListener("input", cut);
  drawing.addEventListener("pointerover", lightCards);
  drawing.addEventListener("pointerleave", lightCards);
  document.addEventListener("decisions", draw);
  document.addEventListener("theme", draw);
  draw();
  const about = make("p", { class: "about" }, "Classes that heads mix, or mix with the same others, are joined first.");
  const likely = make("div", {}, make("h3", {}, "May be one class"), pairs);
  likely.hidden = !pairs.childElementCount;
  const wide = matchMedia("(min-width: 80rem)");
  const details = make("details", { open: wide.matches }, make("summary", {}, "Tree of the classes"), about,
    make("p", { class: "cut" }, make("label", { for: "superclasses" }, "Superclasses"), slider, shown),
    drawing, fileButtons("icce-classes-tree", "the tree", async () => treeFile(tree, count())), likely);
  wide.addEventListener("change", () => (details.open = wide.matches));
  box.append(details);
}
