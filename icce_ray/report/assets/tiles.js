// ---- small pictures in grids, and moving about in grids by the arrow keys ------------------------------------------
/** Originals of so few pixels are shown with their pixels: smoothing would leave a blur. */
const CRISP = 20;

function showPicture(image, id) {
  image.addEventListener("load", () => image.classList.toggle("crisp", Math.max(image.naturalWidth, image.naturalHeight) <= CRISP));
  image.src = pictureOf(id);
  return image;
}

function describe(id) {
  const one = imageOf(id);
  const parts = [fileOf(id)];
  if (current.classOf(id) !== undefined) parts.push(titleOf(current.classOf(id)));
  if (one?.share !== undefined) parts.push(percent(one.share));
  return parts.join(", ");
}

/** Functions that further parts call with the button of each tile. */
const tileTools = [];

/** `<li>` with a button that opens the image large, among `ids`. */
function tileOf(id, ids = [id]) {
  const open = make("button", { type: "button", title: describe(id), "data-image": id });
  if (pictureOf(id)) {
    open.append(showPicture(make("img", { alt: fileOf(id), decoding: "async" }), id));
  } else {
    open.className = "text";
    const missing = imageOf(id)?.missing;
    open.textContent = missing ? `${fileOf(id)}: ${missing}` : fileOf(id);
  }
  open.addEventListener("click", () => enlarge(id, ids));
  tileTools.forEach((tool) => tool(open));
  return make("li", {}, open);
}

/** Tiles made at once; the others come when asked for. */
const AT_ONCE = 300;

/** `<ul>` of tiles of images, of which those that the page does not know are left out. */
function gridOf(ids, label) {
  const shown = ids.filter((id) => imageOf(id));
  const list = make("ul", { class: "tiles", "aria-label": label });
  const more = make("button", { type: "button", class: "more" });
  let made = 0;
  const extend = () => {
    list.append(...shown.slice(made, made + AT_ONCE).map((id) => tileOf(id, shown)));
    made = Math.min(shown.length, made + AT_ONCE);
    more.textContent = `Show more (${(shown.length - made).toLocaleString("en")} left)`;
    more.hidden = made >= shown.length;
    list.dispatchEvent(new Event("extended"));
  };
  more.addEventListener("click", () => {
    const next = made;
    extend();
    list.children[next]?.querySelector("button").focus();
  });
  roving(list, "button");
  extend();
  return make("div", {}, list, more);
}

/** One stop of the tab key for all `selector` in a box; arrows, Home and End move between them. */
function roving(box, selector) {
  const items = () => [...box.querySelectorAll(selector)].filter((one) => !one.closest("[hidden]"));
  let stop = null;
  const settle = () => {
    const every = items();
    if (!every.includes(stop)) stop = every[0] ?? null;
    for (const one of every) one.tabIndex = one === stop ? 0 : -1;
  };
  const columns = (every) => {
    const top = every[0].getBoundingClientRect().top;
    const next = every.findIndex((one) => Math.abs(one.getBoundingClientRect().top - top) > 2);
    return next < 0 ? every.length : next;
  };
  box.addEventListener("focusin", (event) => {
    const one = event.target.closest(selector);
    if (!one || one === stop) return;
    if (stop) stop.tabIndex = -1;
    stop = one;
    stop.tabIndex = 0;
  });
  box.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !event.target.matches(selector)) return;
    const every = items();
    const at = every.indexOf(event.target);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(every), ArrowUp: -columns(every) }[event.key];
    const to = { Home: 0, End: every.length - 1 }[event.key] ?? at + step;
    if (Number.isNaN(to)) return;
    event.preventDefault();
    event.stopPropagation();
    every[Math.min(every.length - 1, Math.max(0, to))].focus();
  });
  box.addEventListener("extended", settle);
  settle();
  return settle;
}
