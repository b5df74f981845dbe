// ---- start: only this part does anything by itself -------------------------------------------------------------------
initTheme();
initTabs();
if (classes.length) initSheet();
// Corrections take over names before anything shows them.
if (classes.length && has("run")) corrections.init();
if (classes.length) initCards();
if (typeof initTree === "function" && has("tree")) initTree();
if (typeof initMap === "function" && has("map")) initMap();
if (typeof initFindings === "function" && has("findings")) initFindings();
initCharts();
follow();
