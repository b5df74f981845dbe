// ---- findings: copies, images far from all, quality trouble, labels that the classes contradict ---------------------
const foundData = has("findings") ? read("findings") : {};
/** Groups shown at first; the others when asked for. */
const GROUPS_AT_ONCE = 40;

/** A part of the panel: heading with a count, a sentence, how to get all of it as a file, and its content. */
function findingPart(id, title, count, about, form, ...content) {
  const command = form && count ? make("p", { class: "about" }, "All of them as a table: ", exportCommand(form)) : "";
  const heading = make("h2", {}, title, " ", make("span", { class: "count" }, count.toLocaleString("en")));
  return make("section", { id: `found-${id}`, class: "finding" }, heading, make("p", { class: "about" }, about), command, ...content);
}

const exportCommand = (form) => make("code", {}, `icce export ${foundData.run} --format ${form} --out ${form}.csv`);

/** Groups of the pairs [one, other, similarity] at a limit: a centre and what is that similar to it, most pairs first. */
function starsOf(pairs, limit) {
  const near = new Map();
  for (const [one, other, similarity] of pairs) {
    if (similarity < limit) continue;
    for (const [from, to] of [[one, other], [other, one]]) {
      if (!near.has(from)) near.set(from, new Map());
      near.get(from).set(to, similarity);
    }
  }
  const taken = new Set();
  const groups = [];
  for (const [centre, around] of [...near].sort((a, b) => b[1].size - a[1].size)) {
    const members = [...around].filter(([id]) => !taken.has(id));
    if (taken.has(centre) || !members.length) continue;
    for (const [id] of [[centre], ...members]) taken.add(id);
    groups.push({ ids: [centre, ...members.map(([id]) => id)], similarity: Math.max(...members.map(([, one]) => one)) });
  }
  return groups.sort((a, b) => b.similarity - a.similarity);
}

/** One group side by side, with a button that lists it. */
function groupOf({ ids, size = ids.length, similarity }) {
  const shown = ids.filter((id) => imageOf(id));
  const list = make("ul", { class: "tiles" }, ...shown.slice(0, 4).map((id) => tileOf(id, shown)));
  const words = similarity === undefined ? "equal files" : `similarity ${similarity.toFixed(2)}`;
  const open = make("button", { type: "button" }, counted(size, "image"));
  open.addEventListener("click", () => listImages(`${counted(size, "image")}, ${words}`, shown));
  return make("article", { class: "group" }, list, make("p", { class: "about" }, open, ` ${words}`));
}

/** A grid that shows some at first and then more; `items` make their elements when they are due. */
function growing(items, label) {
  const grid = make("div", { class: "groups", role: "group", "aria-label": label });
  const more = make("button", { type: "button", class: "more" });
  const extend = () => {
    const at = grid.children.length;
    grid.append(...items.slice(at, at + GROUPS_AT_ONCE).map((item) => item()));
    more.hidden = grid.children.length >= items.length;
    more.textContent = `Show more (${(items.length - grid.children.length).toLocaleString("en")} left)`;
  };
  more.addEventListener("click", extend);
  extend();
  return make("div", {}, grid, more);
}

/** Bars of how similar images are to their nearest, those from the limit on in another colour. */
function similarityBars(counts) {
  const bars = counts.map((count) => {
    const bar = make("i", { style: `height:${count ? Math.max(3, 100 * Math.sqrt(count / Math.max(...counts))) : 0}%` });
    return bar;
  });
  const box = make("div", { class: "similarities", role: "img", "aria-label": "How similar images are to the most similar other one" }, ...bars);
  const mark = (limit) => bars.forEach((bar, at) => bar.classList.toggle("copies", (at + 1) / counts.length > limit));
  return { box, mark };
}

function nearPart(data) {
  const lowest = data.pairs.length ? Math.min(data.limit, data.pairs.at(-1)[2]) : data.limit;
  const slider = make("input", { type: "range", id: "similarity", min: Math.floor(100 * lowest) / 100, max: 1, step: 0.01, value: data.limit });
  const said = make("output", { for: "similarity" });
  const { box, mark } = similarityBars(data.histogram);
  const place = make("div");
  const draw = () => {
    const limit = Number(slider.value);
    const groups = starsOf(data.pairs, limit);
    mark(limit);
    said.textContent = `from ${limit.toFixed(2)} on: ${counted(groups.length, "group")}`;
    place.replaceChildren(growing(groups.map((group) => () => groupOf(group)), "Near-duplicates"));
  };
  slider.addEventListener("input", draw);
  draw();
  const label = make("label", { for: "similarity" }, "Similarity");
  const scale = make("div", { class: "similarity-scale", "aria-hidden": "true" }, make("span", {}, "0: unrelated"), make("span", {}, "1: equal"));
  const about = `Bars: all ${data.compared.toLocaleString("en")} images that were compared, by the similarity to their nearest (heights by the square root of the number). `
    + "To keep another limit, run again with ";
  const setting = make("code", {}, "--set inspect.duplicates=0.8");
  return make("div", {}, make("div", { class: "similarity-box" }, box, scale), make("div", { class: "tools" }, label, slider, said),
    make("p", { class: "about" }, about, setting, "."), place);
}

function duplicatesPart(data) {
  const how = data.chosen ? "as it was set" : "found from how similar all images are to their nearest";
  const sample = data.compared < data.images ? ` Near ones were sought among ${data.compared.toLocaleString("en")} images that were drawn, exact ones among all.` : "";
  const witness = data.hashed ? "" : " Pictures had no hashes, so that more images that are merely alike are among them; --redo embed measures hashes.";
  const about = `${counted(data.exact, "image")} with an equal one, ${counted(data.near, "image")} with a near one (similarity from ${data.limit.toFixed(2)} on, ${how}), in ${counted(data.groups, "group")}.${sample}${witness}`;
  const content = [];
  if (data.exact_groups.length) {
    content.push(make("h3", {}, "Exact copies"), growing(data.exact_groups.map((group) => () => groupOf(group)), "Exact copies"));
  }
  content.push(make("h3", {}, "Near copies"), nearPart(data));
  return findingPart("duplicates", "Duplicates", data.exact + data.near, about, "duplicates", ...content);
}

/** Tiles with a line of words below each. */
function captioned(rows, label) {
  const ids = rows.map(([id]) => id).filter((id) => imageOf(id));
  const items = rows.filter(([id]) => imageOf(id)).map(([id, ...words]) => () =>
    make("article", { class: "captioned" }, make("ul", { class: "tiles" }, tileOf(id, ids)), make("p", { class: "about" }, ...words)));
  return growing(items, label);
}

function outliersPart(data) {
  if (data.skipped) return findingPart("outliers", "Outliers", 0, `Not sought: ${data.skipped}.`, null);
  const about = `Images far from all others: ${data.limit} or more standard deviations farther than is usual. The farthest first.`;
  return findingPart("outliers", "Outliers", data.flagged, about, "outliers",
    captioned(data.found.map(([id, score]) => [id, `${score.toFixed(1)} deviations`]), "Outliers"));
}

function labelsPart(data) {
  const about = "Images whose class and neighbours stand for another label than the one they were given; share of heads that agree.";
  const words = ([id, given, suggested, agreement]) => [id, make("s", {}, given), " → ", make("strong", {}, suggested), ` ${percent(agreement)}`];
  return findingPart("labels", "Suspicious labels", data.flagged, about, "label-issues", captioned(data.found.map(words), "Suspicious labels"));
}

/** What each problem means, and what its figure is. */
const problemWords = {
  blank: ["Blank", "contrast"],
  dark: ["Dark", "brightness of the brightest hundredth"],
  bright: ["Bright", "brightness of the darkest hundredth"],
  blurred: ["Blurred", "sharpness"],
  small: ["Small", "pixels a side"],
  narrow: ["Narrow", "shorter side by the longer one"],
};

function qualityPart(data) {
  const unmeasured = data.unmeasured ? ` ${counted(data.unmeasured, "image")} were not measured: features from elsewhere, or of an earlier version (--redo embed measures those).` : "";
  const content = Object.entries(data.problems).filter(([, one]) => one.images).flatMap(([name, one]) => {
    const [title, figure] = problemWords[name] ?? [name, "value"];
    const short = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });
    const sense = name === "bright" ? "above" : "below";
    return [
      make("h3", {}, title, " ", make("span", { class: "count" }, one.images.toLocaleString("en"))),
      make("p", { class: "about" }, `${figure} ${sense} ${short(one.limit)}`),
      captioned(one.found.map(([id, value]) => [id, short(value)]), title),
    ];
  });
  const about = `Images that are blank, dark, bright, blurred, small or narrow for this collection; the worst of each.${unmeasured}`;
  return findingPart("quality", "Quality", data.flagged, about, "quality", ...content);
}

/** Parts by their data, in the order in which they stand. */
const findingParts = { duplicates: duplicatesPart, outliers: outliersPart, quality: qualityPart, labels: labelsPart };

function initFindings() {
  const there = Object.entries(findingParts).filter(([name]) => foundData[name]);
  element("findings-parts").replaceChildren(...there.map(([name, part]) => part(foundData[name])));
  const links = [...document.querySelectorAll(".finding > h2")].map((heading) =>
    make("a", { href: `#${heading.parentElement.id}` }, heading.textContent));
  element("findings-contents").replaceChildren(...links);
  if (!foundData.labels) {
    const hint = make("p", { class: "about" }, "With labels of your own, suspicious ones are found: ", make("code", {}, `icce evaluate ${foundData.run} --labels labels.csv`));
    element("findings-parts").append(hint);
  }
}
