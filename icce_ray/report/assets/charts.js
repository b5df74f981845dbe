// ---- charts: Plotly is unpacked when the first chart comes near the window -----------------------------------------
const figures = has("charts") ? read("charts") : {};
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

function themed(figure) {
  const [ink, line] = [colourNamed("--ink"), colourNamed("--line")];
  const changes = { "font.color": ink, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  for (const axis of ["xaxis", "yaxis", "yaxis2"].filter((name) => figure.layout[name])) {
    Object.assign(changes, { [`${axis}.gridcolor`]: line, [`${axis}.zerolinecolor`]: line, [`${axis}.linecolor`]: ink });
  }
  return changes;
}

async function drawChart(place) {
  const figure = figures[place.dataset.chart];
  const Plotly = await plotly();
  await Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  await Plotly.relayout(place, themed(figure));
  place.dataset.drawn = "true";
}

/** The chart as a file, with black ink on white as for paper; twice as many pixels as it takes here. */
async function saveChart(name, format) {
  const Plotly = await plotly();
  const { data, layout } = figures[name];
  const paper = { ...layout, width: 900, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff", font: { ...layout.font, color: "#1a1d21" } };
  const url = await Plotly.toImage({ data, layout: paper }, { format, width: 900, height: layout.height, scale: format === "png" ? 2 : 1 });
  saveFile(`${name}.${format}`, blobOf(url));
}

/** The content of a `data:` address; none is fetched. */
function blobOf(url) {
  const [head, body] = [url.slice(5, url.indexOf(",")), url.slice(url.indexOf(",") + 1)];
  const text = head.endsWith(";base64") ? atob(body) : decodeURIComponent(body);
  const bytes = head.endsWith(";base64") ? Uint8Array.from(text, (one) => one.charCodeAt(0)) : text;
  return new Blob([bytes], { type: head.split(";")[0] });
}

function initCharts() {
  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => saveChart(button.dataset.of, button.dataset.save));
  }
  const places = [...document.querySelectorAll("[data-chart]")];
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      drawChart(target);
    }
  }, { rootMargin: "300px" });
  places.forEach((place) => near.observe(place));
  document.addEventListener("theme", () => {
    for (const place of places) if (place.dataset.drawn) window.Plotly.relayout(place, themed(figures[place.dataset.chart]));
  });
}
