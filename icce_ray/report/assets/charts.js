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

function initCharts() {
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
