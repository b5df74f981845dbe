"use strict";
// Everything shown comes from the JSON elements of this page; text is set as text, never as markup.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const percent = (share) => `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`;
  const root = document.documentElement;

  // ---- light and dark ------------------------------------------------------------------------------------------
  const asked = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const setTheme = (dark) => {
    root.dataset.theme = dark ? "dark" : "light";
    button.setAttribute("aria-pressed", String(dark));
    dispatchEvent(new Event("theme"));
  };
  setTheme(asked.matches);
  asked.addEventListener("change", (event) => setTheme(event.matches));
  button.addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));

  // ---- charts: Plotly is unpacked when the first chart comes near the window -------------------------------------
  const figures = read("data-charts");
  let library;
  const plotly = () => {
    library ??= (async () => {
      const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      const source = URL.createObjectURL(new Blob([await new Response(stream).blob()], { type: "text/javascript" }));
      await new Promise((resolve, reject) => {
        const script = make("script", { src: source });
        script.onload = resolve;
        script.onerror = () => reject(new Error("the charts' library could not be unpacked"));
        document.head.append(script);
      });
      URL.revokeObjectURL(source);
      return window.Plotly;
    })();
    return library;
  };
  const colours = () => {
    const style = getComputedStyle(root);
    const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
    return { ink, line, "font.color": ink, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  };
  const axes = (figure) => ["xaxis", "yaxis", "yaxis2"].filter((name) => figure.layout[name]);
  const themed = (figure) => {
    const { ink, line, ...changes } = colours();
    for (const axis of axes(figure)) Object.assign(changes, { [`${axis}.gridcolor`]: line, [`${axis}.zerolinecolor`]: line, [`${axis}.linecolor`]: ink });
    return changes;
  };
  const draw = async (place) => {
    const figure = figures[place.dataset.chart];
    const Plotly = await plotly();
    await Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displayModeBar: false });
    await Plotly.relayout(place, themed(figure));
    place.dataset.drawn = "true";
  };
  const charts = [...document.querySelectorAll("[data-chart]")];
  const nearCharts = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      nearCharts.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "300px" });
  charts.forEach((place) => nearCharts.observe(place));
  addEventListener("theme", () => {
    for (const place of charts) if (place.dataset.drawn) window.Plotly.relayout(place, themed(figures[place.dataset.chart]));
  });

  // ---- the gallery ---------------------------------------------------------------------------------------------
  const box = document.getElementById("cards");
  if (!box) return;
  const classes = read("data-classes");
  const kinds = read("data-kinds");
  const title = (one) => (one.name ? `Class ${one.label}: ${one.name}` : `Class ${one.label}`);
  const doubt = (one) => (one.size ? 1 - (one.agreement ?? one.confidence ?? 1) : -1);

  const large = document.getElementById("large");
  const enlarge = (tile) => {
    const picture = document.getElementById("large-picture");
    picture.hidden = !tile.picture;
    if (tile.picture) {
      picture.src = `data:image/webp;base64,${tile.picture}`;
      picture.alt = tile.key ?? tile.uri;
    }
    document.getElementById("large-name").textContent = tile.key ? `${tile.uri} (${tile.key})` : tile.uri;
    document.getElementById("large-about").textContent = tile.missing ?? `sure to ${percent(tile.share)}`;
    large.showModal();
  };
  document.getElementById("large-close").addEventListener("click", () => large.close());

  const tileOf = (tile) => {
    const name = tile.key ?? tile.uri;
    const open = make("button", { type: "button", title: `${name}, ${percent(tile.share)}` });
    if (tile.picture) {
      open.append(make("img", { src: `data:image/webp;base64,${tile.picture}`, alt: name, decoding: "async" }));
    } else {
      open.className = "text";
      open.textContent = tile.missing ? `${name}: ${tile.missing}` : name;
    }
    open.addEventListener("click", () => enlarge(tile));
    return make("li", {}, open);
  };
  const fill = (card, one) => {
    one.tiles.forEach((tiles, kind) => {
      if (tiles.length) card.append(make("h4", {}, kinds[kind]), make("ul", { class: "tiles" }, ...tiles.map(tileOf)));
    });
  };
  const summary = (one) => {
    const parts = [`${one.size.toLocaleString("en")} images`];
    if (one.agreement !== null) parts.push(`${percent(one.agreement)} of heads agree`);
    if (one.confidence !== null) parts.push(`sure to ${percent(one.confidence)}`);
    return parts.join(", ");
  };
  const cardOf = (one) => {
    const card = make("article", { class: "card", id: `class-${one.label}` }, make("h3", {}, title(one)), make("p", {}, summary(one)));
    if (one.truth) card.append(make("p", {}, `${percent(one.truth.share)} are ${one.truth.class}`));
    if (one.near.length) {
      const near = make("p", {}, "Nearest: ");
      one.near.forEach(([other, chance], index) => {
        near.append(index ? ", " : "", make("a", { href: `#class-${other}` }, title(classes[other])), ` (${percent(chance)})`);
      });
      card.append(near);
    }
    return card;
  };
  const cards = classes.map((one) => ({
    one,
    card: cardOf(one),
    text: [title(one), one.truth?.class ?? "", ...one.tiles.flat().flatMap((tile) => [tile.uri, tile.key ?? ""])].join("\n").toLowerCase(),
  }));
  const byCard = new Map(cards.map((entry) => [entry.card, entry.one]));
  const nearCards = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      nearCards.unobserve(target);
      fill(target, byCard.get(target));
    }
  }, { rootMargin: "600px" });

  const orders = {
    label: (a, b) => a.label - b.label,
    large: (a, b) => b.size - a.size || a.label - b.label,
    small: (a, b) => a.size - b.size || a.label - b.label,
    doubt: (a, b) => doubt(b) - doubt(a) || a.label - b.label,
  };
  const find = document.getElementById("find");
  const sort = document.getElementById("sort");
  const show = () => {
    const text = find.value.trim().toLowerCase();
    const number = text.replace(/^class /, "");  // "0042" is a name, "42" a class
    const exact = classes.some(({ label }) => String(label) === number);
    const fits = ({ one, text: of }) => (exact ? String(one.label) === number : of.includes(text));
    const shown = cards.filter(fits).sort((a, b) => orders[sort.value](a.one, b.one));
    box.replaceChildren(...shown.map((entry) => entry.card));
    document.getElementById("found").textContent =
      `${shown.length.toLocaleString("en")} of ${cards.length.toLocaleString("en")} classes`;
  };
  find.addEventListener("input", show);
  sort.addEventListener("change", show);
  // A link to a class that the search has hidden brings it back.
  addEventListener("hashchange", () => {
    if (!location.hash.startsWith("#class-") || document.querySelector(location.hash)) return;
    find.value = "";
    show();
    document.querySelector(location.hash)?.scrollIntoView();
  });
  show();
  cards.forEach(({ card }) => nearCards.observe(card));
})();
