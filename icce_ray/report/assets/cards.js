// ---- the gallery: a card for each class ------------------------------------------------------------------------------
/** Functions from a class's number to an element that its card shows at the bottom, or null. */
const cardTools = [];
/** Pictures of a cover, by how many there are; one of nine is large, which those of a few pixels are not made for. */
const COVERS = has("icons") && read("icons") ? [12, 6, 4, 3, 2, 1] : [9, 6, 4, 3, 2, 1];

const LARGEST = Math.max(1, ...classes.map(({ size }) => size));

/** Puts headings between the cards that are shown, from their entries to elements; null where there are none. */
let arrangeCards = null;

const doubt = (one) => (one.size ? 1 - (one.agreement ?? one.confidence ?? 1) : -1);

function coverOf(one) {
  const ids = [...new Set([...tilesOf(one.label, 0), ...tilesOf(one.label, 2)])].filter((id) => pictureOf(id));
  return ids.slice(0, COVERS.find((count) => count <= ids.length) ?? 0);
}

function fillCover(card, one) {
  const cover = card.querySelector(".cover");
  const ids = coverOf(one);
  if (cover.dataset.images === String(ids)) return;
  cover.dataset.images = ids;
  cover.className = `cover of-${ids.length}`;
  cover.replaceChildren(...ids.map((id) => showPicture(make("img", { alt: "", decoding: "async" }), id)));
}

function bar(name, share, text, kind) {
  const fill = make("span", { class: "bar", "data-kind": kind }, make("i", { style: `width:${100 * share}%` }));
  return [make("dt", {}, name), make("dd", { class: "track" }, fill), make("dd", {}, text)];
}

/** A figure of a class, of classes that are merged the mean over their images; null where none has it. */
function meanOf(label, name) {
  const known = current.groupOf(label).map((one) => classes[one]).filter((one) => one.size && one[name] !== null);
  const images = known.reduce((sum, { size }) => sum + size, 0);
  return images ? known.reduce((sum, one) => sum + one.size * one[name], 0) / images : null;
}

function figuresOf(one) {
  const size = sizeOf(one.label);
  const list = make("dl", { class: "bars" }, ...bar("images", Math.min(1, size / LARGEST), size.toLocaleString("en"), "size"));
  const name = one.agreement !== null ? "agreement" : "confidence";
  const sure = meanOf(one.label, name);
  if (sure !== null) list.append(...bar(name, sure, percent(sure), "sure"));
  return list;
}

function nearOf(one) {
  const near = make("p", { class: "near" }, "Nearest: ");
  const others = one.near.map(([label, chance]) => [current.classOfLabel(label), chance]).filter(([label]) => label !== one.label);
  others.forEach(([other, chance], index) => {
    near.append(index ? ", " : "", make("a", { href: `#class-${other}` }, titleOf(other)), ` ${percent(chance)}`);
  });
  return near;
}

/** Write names and figures of a card anew; its cover and its tools stay as they are. */
function renew(card, one) {
  const open = card.querySelector(".cover");
  open.setAttribute("aria-label", `Open ${titleOf(one.label)}, ${counted(sizeOf(one.label), "image")}`);
  const dot = make("i", { class: "dot", style: `background:${colourOf(one.label)}` });
  const parts = [make("h3", {}, dot, titleOf(one.label)), figuresOf(one)];
  if (one.truth && current.groupOf(one.label).length === 1) parts.push(make("p", {}, `${percent(one.truth.share)} are ${one.truth.class}`));
  if (one.near.length) parts.push(nearOf(one));
  card.querySelector(".body").replaceChildren(...parts);
  card.hidden = current.classOfLabel(one.label) !== one.label;
  if (open.dataset.images) fillCover(card, one);
}

function cardOf(one) {
  const open = make("button", { type: "button", class: "cover", "data-class": one.label });
  open.addEventListener("click", () => openClass(one.label));
  const tools = cardTools.map((tool) => tool(one.label)).filter((tool) => tool);
  const card = make("article", { class: "card", id: `class-${one.label}` }, open, make("div", { class: "body" }), ...tools);
  renew(card, one);
  return card;
}

/** The contact sheet of a class. */
function openClass(label) {
  const parts = kinds.map((title, kind) => ({ title, ids: tilesOf(label, kind) }));
  parts.unshift({ title: "moved here", ids: current.movedTo(label) });
  parts.push(borderOf(label));
  const own = (ids) => ids.filter((id) => current.classOf(id) === label);
  if (classes[label].true.length > 1) parts.push(...classes[label].true.map(([name, ids]) => ({ title: `true class ${name}`, ids: own(ids) })));
  openSheet(titleOf(label), parts.filter(({ ids, sides }) => sides ?? ids.length), label);
}

/** Images of the class that could be of the nearest one, beside those of that one. */
function borderOf(label) {
  const [near, mine, theirs] = classes[label].border ?? [label, [], []];
  const other = current.classOfLabel(near);
  if (other === label) return { ids: [] };
  const side = (of, to, ids) => ({ title: `${titleOf(of)}, but perhaps ${titleOf(to)}`, ids: ids.filter((id) => current.classOf(id) === of) });
  return { title: `border to ${titleOf(other)}`, sides: [side(label, other, mine), side(other, label, theirs)] };
}

/** Draw the contact sheet of a class again, as it is now, at the place where it was. */
function renewSheet() {
  const sheet = element("sheet");
  if (!sheet.open || shownClass === null) return;
  const [top, held] = [sheet.scrollTop, document.activeElement?.dataset.image];
  openClass(current.classOfLabel(shownClass));
  sheet.scrollTop = top;
  if (held) sheet.querySelector(`[data-image="${held}"]`)?.focus();
}

function initCards() {
  const box = element("cards");
  const filesOf = (one) => one.tiles.flat().flatMap((id) => [images[id]?.uri ?? "", images[id]?.key ?? ""]);
  const textOf = (one, files) => [titleOf(one.label), one.truth?.class ?? "", files].join("\n").toLowerCase();
  const cards = classes.map((one) => {
    const files = filesOf(one).join("\n");
    return { one, card: cardOf(one), files, text: textOf(one, files) };
  });
  root.dataset.density = classes.length > 300 ? "dense" : classes.length > 60 ? "close" : "wide";
  const nearCards = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      nearCards.unobserve(target);
      fillCover(target, classes[Number(target.id.replace("class-", ""))]);
    }
  }, { rootMargin: "600px" });
  const orders = {
    label: (a, b) => a.label - b.label,
    large: (a, b) => b.size - a.size || a.label - b.label,
    small: (a, b) => a.size - b.size || a.label - b.label,
    doubt: (a, b) => doubt(b) - doubt(a) || a.label - b.label,
  };
  const [find, sort] = [element("find"), element("sort")];
  const settle = roving(box, ".cover");
  const show = () => {
    const text = find.value.trim().toLowerCase();
    const number = text.replace(/^class /, "");  // "0042" is a name, "42" a class
    const exact = classes.some(({ label }) => String(label) === number);
    const fits = ({ one, text: of }) => (exact ? current.groupOf(one.label).map(String).includes(number) : of.includes(text));
    const shown = cards.filter(fits).sort((a, b) => orders[sort.value](a.one, b.one));
    box.replaceChildren(...(arrangeCards ? arrangeCards(shown) : shown.map(({ card }) => card)));
    settle();
    count();
  };
  const count = () => {
    const every = cards.filter(({ card }) => !card.hidden);
    const seen = every.filter(({ card }) => card.isConnected).length;
    element("found").textContent = `${seen.toLocaleString("en")} of ${counted(every.length, "class", "classes")}`;
  };
  element("tools").addEventListener("submit", (event) => event.preventDefault());
  find.addEventListener("input", show);
  sort.addEventListener("change", show);
  document.addEventListener("arrange", show);
  // A link to a class that the search has hidden brings it back.
  addEventListener("hashchange", () => {
    if (!location.hash.startsWith("#class-")) return;
    const named = Number(location.hash.replace("#class-", ""));
    const label = current.classOfLabel(named);
    if (label !== named) location.replace(`#class-${label}`);  // the class has become another one
    if (element(`class-${label}`)) return;
    find.value = "";
    show();
    follow();
  });
  addEventListener("beforeprint", () => cards.forEach(({ card, one }) => fillCover(card, one)));
  document.addEventListener("decisions", () => {
    for (const entry of cards) {
      renew(entry.card, entry.one);
      entry.text = textOf(entry.one, entry.files);
    }
    settle();  // a card that is merged into another one is no stop
    count();
    renewSheet();
  });
  show();
  cards.forEach(({ card }) => nearCards.observe(card));
}
