"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures"), dark = read("dark");
  const night = window.matchMedia("screen and (prefers-color-scheme: dark)");
  const config = { displayModeBar: false, responsive: true, displaylogo: false };

  // Figures use the exact colour texts of the palette, so colours can be swapped in any figure.
  const themed = (value, colours) => {
    if (typeof value === "string") return colours[value] ?? value;
    if (Array.isArray(value)) return value.map((item) => themed(item, colours));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, colours)]));
    return value;
  };
  const draw = (colours, width) => {
    for (const [key, figure] of Object.entries(figures)) {
      const { data, layout } = themed(figure, colours);
      Plotly.react(key, data, width ? { ...layout, width } : { ...layout, autosize: true }, config);
    }
  };
  const screen = () => draw(night.matches ? dark : {});
  screen();
  night.addEventListener("change", screen);
  // What is folded on the screen is open on paper, and folded again afterwards.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const item of opened) item.open = true;
  });
  window.addEventListener("afterprint", () => { for (const item of opened) item.open = false; });
  // Width of A4 without margins, in CSS pixels: plots get this width before printing.
  window.addEventListener("beforeprint", () => draw({}, 700));
  window.addEventListener("afterprint", screen);
})();
