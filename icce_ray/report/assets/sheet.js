// ---- dialogs: the contact sheet of many images, and one image large ------------------------------------------------
/** Functions from an image_id to an element that the large view shows below its figures, or null. */
const largeTools = [];
/** Functions from a class's number, or null of other images, to an element that the contact sheet shows above them. */
const sheetTools = [];
let shownClass = null;
let shownLarge = { id: null, ids: [] };

/** Open the contact sheet with parts of the form {title, note, ids}, or {title, note, sides: [{title, ids}, ...]}. */
function openSheet(title, parts, label = null) {
  const [above, shown] = [element("sheet-tools"), sheetTools.map((tool) => tool(label)).filter((tool) => tool)];
  if (shown.some((tool, at) => above.children[at] !== tool)) above.replaceChildren(...shown);
  shownClass = label;
  const body = element("sheet-body");
  body.replaceChildren();
  for (const part of parts) {
    const section = make("section", {}, make("h3", {}, part.title));
    if (part.note) section.append(make("p", { class: "about" }, part.note));
    if (part.ids) section.append(gridOf(part.ids, part.title));
    if (part.sides) {
      const side = (one) => make("div", {}, make("h4", {}, one.title), one.ids.length ? gridOf(one.ids, one.title) : make("p", { class: "about" }, "None among those looked at."));
      section.append(make("div", { class: "sides" }, ...part.sides.map(side)));
    }
    if (part.element) section.append(part.element);
    body.append(section);
  }
  element("sheet-title").textContent = title;
  if (!element("sheet").open) element("sheet").showModal();
  body.parentElement.scrollTop = 0;
}

/** Open the contact sheet with any images. */
function listImages(title, ids) {
  openSheet(title, [{ title: counted(ids.length, "image"), ids }]);
}

function fact(name, ...value) {
  return [make("dt", {}, name), make("dd", {}, ...value)];
}

function chip(label) {
  return make("span", { class: "chip" }, make("i", { style: `background:${colourOf(label)}` }), titleOf(label));
}

function facts(id) {
  const one = imageOf(id);
  const list = make("dl", { class: "facts" });
  if (one.key !== undefined) list.append(...fact("path", one.uri));
  const label = current.classOf(id);
  if (label !== undefined) list.append(...fact("class", chip(label)));
  if (one.share !== undefined) list.append(...fact(certainty, percent(one.share)));
  if (one.second) list.append(...fact("runner-up", chip(one.second[0]), ` ${percent(one.second[1])}`));
  return list;
}

/** Show one image large; previous and next go through `ids`. */
function enlarge(id, ids = [id]) {
  shownLarge = { id, ids };
  const [at, source] = [ids.indexOf(id), pictureOf(id)];
  const picture = element("large-picture");
  picture.hidden = !source;
  element("large-none").hidden = Boolean(source);
  element("large-none").textContent = imageOf(id).missing ?? "There was no room for a picture of it on this page.";
  if (source) showPicture(picture, id).alt = fileOf(id);
  element("large-name").textContent = fileOf(id);
  element("large-about").replaceChildren(facts(id));
  element("large-place").textContent = ids.length > 1 ? `${(at + 1).toLocaleString("en")} of ${ids.length.toLocaleString("en")}` : "";
  element("large-previous").disabled = at <= 0;
  element("large-next").disabled = at >= ids.length - 1;
  element("large-tools").replaceChildren(...largeTools.map((tool) => tool(id)).filter((one) => one));
  const near = (imageOf(id).near ?? []).map(([other]) => other).filter((other) => imageOf(other));
  element("large-near").replaceChildren(...(near.length ? [make("h3", {}, "Nearest images"), gridOf(near, "Nearest images")] : []));
  if (!element("large").open) element("large").showModal();
}

function step(by) {
  const { id, ids } = shownLarge;
  const next = ids[ids.indexOf(id) + by];
  if (next !== undefined) enlarge(next, ids);
}

/** Small originals are enlarged as far as one still sees what they show: all of a screen would be a wall of squares. */
function limitSize() {
  const picture = element("large-picture");
  const most = `${Math.max(192, 12 * Math.max(picture.naturalWidth, picture.naturalHeight))}px`;
  [picture.style.maxWidth, picture.style.maxHeight] = [most, most];
}

function initSheet() {
  element("large-picture").addEventListener("load", limitSize);
  for (const dialog of [element("sheet"), element("large")]) {
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();  // beside it
    });
  }
  element("large-previous").addEventListener("click", () => step(-1));
  element("large-next").addEventListener("click", () => step(1));
  element("large").addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") || event.target.closest(".tiles")) return;
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  });
  document.addEventListener("decisions", () => {
    if (element("large").open) enlarge(shownLarge.id, shownLarge.ids);
  });
}
