// Comfort only: theme, filter, reading values off a chart. The page is whole without it.
"use strict";
(() => {
  const button = (text, onclick) => {
    const b = document.createElement("button");
    b.type = "button";
    b.textContent = text;
    b.addEventListener("click", () => onclick(b));
    return b;
  };
  const root = document.documentElement;

  const tools = document.getElementById("tools");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const theme = button(dark() ? "Light" : "Dark", (b) => {
    root.dataset.theme = dark() ? "light" : "dark";
    b.textContent = dark() ? "Light" : "Dark";
  });
  theme.title = "Change the colours";
  tools.append(theme);

  const filter = document.getElementById("filter");
  if (filter) {
    const samples = [...document.querySelectorAll("#samples details.sample")];
    const choices = [["All", null], ["Status changed", "changed"], ["Last model not correct", "wrong-last"]];
    const buttons = choices.map(([text, kind]) => {
      const chosen = samples.filter((s) => !kind || s.dataset.kinds.split(" ").includes(kind));
      return button(`${text} (${chosen.length})`, (b) => {
        buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === b)));
        samples.forEach((s) => { s.hidden = !chosen.includes(s); });
      });
    });
    buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(i === 0)));
    const open = button("Open all", (b) => {
      const opening = samples.some((s) => !s.open && !s.hidden);
      samples.forEach((s) => { s.open = opening; });
      b.textContent = opening ? "Close all" : "Open all";
    });
    filter.append(...buttons, open);
  }

  const scale = (text) => {
    const [low, high, start, end, log, percent] = text.split(" ").map(Number);
    const back = (pixel) => {
      const t = (pixel - start) / (end - start);
      return log ? Math.pow(10, Math.log10(low) + t * (Math.log10(high) - Math.log10(low))) : low + t * (high - low);
    };
    return { start, end, back, show: (pixel) => {
      const value = back(pixel) * (percent ? 100 : 1);
      return (Math.abs(value) < high * 1e-3 && !log ? "0" : String(Number(value.toPrecision(3)))) + (percent ? " %" : "");
    } };
  };
  for (const chart of document.querySelectorAll("svg.chart[data-x]")) {
    const x = scale(chart.dataset.x), y = scale(chart.dataset.y);
    const lines = [...chart.querySelectorAll("polyline[data-name]")].map((line) => ({
      name: line.dataset.name,
      points: line.getAttribute("points").split(" ").map((p) => p.split(",").map(Number)),
    }));
    const cross = document.createElementNS("http://www.w3.org/2000/svg", "path");
    cross.setAttribute("class", "cross");
    chart.append(cross);
    const reading = document.createElement("p");
    reading.className = "reading";
    const plot = document.createElement("div");
    plot.className = "plot";
    chart.replaceWith(plot);
    plot.append(chart, reading);
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const at = (event.clientX - box.left) * chart.viewBox.baseVal.width / box.width;
      let nearest = null;
      for (const { points } of lines) for (const p of points) if (nearest === null || Math.abs(p[0] - at) < Math.abs(nearest - at)) nearest = p[0];
      if (nearest === null) return;
      cross.setAttribute("d", `M${nearest} ${y.start}V${y.end}`);
      const values = lines.map(({ name, points }) => {
        const hit = points.find((p) => Math.abs(p[0] - nearest) < 0.06);
        return hit ? `${name} ${y.show(hit[1])}` : null;
      });
      reading.textContent = `at ${Math.round(x.back(nearest))}: ${values.filter(Boolean).join(", ")}`;
    });
    chart.addEventListener("pointerleave", () => { cross.removeAttribute("d"); reading.textContent = ""; });
  }
})();
