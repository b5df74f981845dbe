// ---- what every part uses: elements, data, words, light and dark, tabs ---------------------------------------------
const root = document.documentElement;
const element = (id) => document.getElementById(id);
const has = (name) => element(`data-${name}`) !== null;
const read = (name) => JSON.parse(element(`data-${name}`).textContent);

/** An element with attributes and children; `undefined` and `false` leave an attribute out. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** A share in words: what is not quite all is never 100 %, what is not quite nothing never 0 %. */
function percent(share) {
  if (share > 0.9995 && share < 1) return "> 99.9 %";
  if (share > 0 && share < 0.005) return "< 1 %";
  return `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`;
}

const counted = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** Offer a Blob as a download of this name. */
function saveFile(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** One colour of the style sheet, as it is in light or dark now. */
const colourNamed = (name) => getComputedStyle(root).getPropertyValue(name).trim();

function initTheme() {
  const asked = matchMedia("(prefers-color-scheme: dark)");
  const button = element("theme");
  const set = (dark) => {
    root.dataset.theme = dark ? "dark" : "light";
    button.setAttribute("aria-pressed", String(dark));
    document.dispatchEvent(new Event("theme"));
  };
  set(asked.matches);
  asked.addEventListener("change", (event) => set(event.matches));
  button.addEventListener("click", () => set(root.dataset.theme !== "dark"));
  let before = root.dataset.theme;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    set(false);  // ink on paper
  });
  addEventListener("afterprint", () => set(before === "dark"));
}

// ---- tabs: a panel is shown by its tab, or by a link to anything in it ------------------------------------------------
const tabs = () => [...document.querySelectorAll("[role=tab]")];
const panelOf = (tab) => element(tab.getAttribute("aria-controls"));

/** Show the panel with this name, as `classes`; parts that draw only what is seen listen to the event `panel`. */
function showPanel(name) {
  for (const tab of tabs()) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    panelOf(tab).hidden = !chosen;
  }
  document.dispatchEvent(new CustomEvent("panel", { detail: name }));
}

/** Bring what the address names into view, in whichever panel it is. */
function follow() {
  const target = location.hash.length > 1 ? element(decodeURIComponent(location.hash.slice(1))) : null;
  const panel = target?.closest("[role=tabpanel]");
  if (!panel) return;
  if (panel.hidden) showPanel(panel.id.replace("panel-", ""));
  if (panel.firstElementChild === target) scrollTo(0, 0);
  else target.scrollIntoView();
}

function initTabs() {
  const list = document.querySelector("[role=tablist]");
  const choose = (tab) => {
    const name = tab.id.replace("tab-", "");
    history.replaceState(null, "", `#${panelOf(tab).querySelector("section[id]")?.id ?? name}`);
    showPanel(name);
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) choose(tab);
  });
  list.addEventListener("keydown", (event) => {
    const every = tabs();
    const at = every.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: every.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const tab = every[(to + every.length) % every.length];
    choose(tab);
    tab.focus();
  });
  showPanel(tabs()[0].id.replace("tab-", ""));
  addEventListener("hashchange", follow);
}
