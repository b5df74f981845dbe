// ---- charts: Plotly is unpacked when the first chart comes near the window -----------------------------------------
const figures = has("charts") ? read("charts") : {};
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif";
/** Pixels of a chart in a file: least width, height of its title, and pixels of a PNG for each. */
const FILE = { width: 800, title: 40, scale: 2 };
let library;

function plotly() {
  library ??= (async () => {
    const packed = Uint8Array.from(atob(element("plotly").textContent), (c) => c.charCodeAt(0));
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
}

/** What a chart's layout takes from the page. */
function themed(figure) {
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map(colourNamed);
  const changes = {
    "font.family": FONT, "font.size": 13, "font.color": ink,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",  // a finger scrolls the page
  };
  for (const axis of ["xaxis", "yaxis", "yaxis2"].filter((name) => figure.layout[name])) {
    const own = { gridcolor: line, zerolinecolor: line, linecolor: soft, "tickfont.color": soft, "tickfont.size": 12 };
    for (const [name, value] of Object.entries(own)) changes[`${axis}.${name}`] = value;
  }
  return changes;
}

async function drawChart(place) {
  const figure = figures[place.dataset.chart];
  const Plotly = await plotly();
  const { data, layout } = structuredClone(figure);  // Plotly writes into what it is given
  await Plotly.newPlot(place, data, layout, { responsive: true, displayModeBar: false });
  await Plotly.relayout(place, themed(figure));
  place.dataset.drawn = "true";
}

// ---- figures as files ----------------------------------------------------------------------------------------------
/** The chart with its title and the page's ground as the text of an SVG file, as wide as it is shown. */
async function chartFile(place, title) {
  const { data, layout } = structuredClone(figures[place.dataset.chart]);
  const Plotly = await plotly();
  const height = layout.height + FILE.title;
  const width = layout.yaxis?.scaleanchor ? height : Math.max(FILE.width, place.clientWidth);
  const stage = make("div");  // never in the page: what is shown stays as it is
  const margin = { ...layout.margin, t: layout.margin.t + FILE.title };
  const across = { x: 0, xref: "paper", xanchor: "left" };
  const down = { y: 1, yref: "container", yanchor: "top", pad: { t: 14 } };
  const heading = { text: title, font: { size: 16 }, ...across, ...down };
  await Plotly.newPlot(stage, data, { ...layout, width, height, margin, title: heading }, { staticPlot: true });
  const ground = colourNamed("--ground");
  await Plotly.relayout(stage, { ...themed({ layout }), paper_bgcolor: ground, plot_bgcolor: ground });
  const address = await Plotly.toImage(stage, { format: "svg", width, height });
  Plotly.purge(stage);
  return decodeURIComponent(address.slice(address.indexOf(",") + 1));
}

/** The text of an SVG file as a PNG. */
async function pngOf(text) {
  const picture = make("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}` });
  await picture.decode();
  const [width, height] = [picture.naturalWidth, picture.naturalHeight].map((side) => FILE.scale * side);
  const canvas = make("canvas", { width, height });
  canvas.getContext("2d").drawImage(picture, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Buttons that save a figure as SVG and PNG; `text` gives the text of its SVG file when it is asked for. */
function fileButtons(name, title, text) {
  const kinds = { svg: (svg) => new Blob([svg], { type: "image/svg+xml" }), png: pngOf };
  const buttons = Object.entries(kinds).map(([kind, made]) => {
    const word = kind.toUpperCase();
    const button = make("button", { type: "button", "aria-label": `Save ${title} as ${word}` }, word);
    button.addEventListener("click", async () => saveFile(`${name}.${kind}`, await made(await text())));
    return button;
  });
  return make("p", { class: "files" }, "Save as ", ...buttons);
}

function initCharts() {
  const places = [...document.querySelectorAll("[data-chart]")];
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      drawChart(target);
    }
  }, { rootMargin: "300px" });
  for (const place of places) {
    const [section, name] = [place.closest("section").id, place.dataset.chart];
    const title = place.closest("figure").querySelector("h3").textContent;
    const file = section === name ? name : name.startsWith("sweep-") ? name : `${section}-${name}`;
    place.closest("figure").append(fileButtons(`icce-${file}`, title, () => chartFile(place, title)));
    near.observe(place);
  }
  document.addEventListener("theme", () => {
    for (const place of places.filter((one) => one.dataset.drawn)) {
      window.Plotly.relayout(place, themed(figures[place.dataset.chart]));
    }
  });
}
