"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  let chosen = 0;
  let plotly = null;

  // Theme: the system's until one is chosen; a page opened from disk may have no storage.
  const stored = () => { try { return localStorage.getItem("isic-theme"); } catch { return null; } };
  const dark = () => {
    const set = document.documentElement.dataset.theme;
    return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  if (stored()) document.documentElement.dataset.theme = stored();
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("isic-theme", document.documentElement.dataset.theme); } catch { /* no storage */ }
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  // The style sheet is light on paper, but the body map must be drawn again.
  let onScreen;
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details.more:not([open])")];
    folded.forEach((details) => { details.open = true; });
    onScreen = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    draw();
  });
  addEventListener("afterprint", () => {
    folded.forEach((details) => { details.open = false; });
    if (onScreen) document.documentElement.dataset.theme = onScreen;
    else delete document.documentElement.dataset.theme;
    draw();
  });

  // Operating points.
  const showPoint = (point) => {
    const threshold = point.threshold === null ? "below every score" : `score ${Number(point.threshold).toPrecision(3)} or higher`;
    $("roc-status").textContent =
      `Flagging lesions with ${threshold} finds ${percent(point.tpr)} of the malignant ones and flags ${percent(point.fpr, 2)} of the benign, ` +
      `${Math.round(point.fpr * data.benign).toLocaleString("en")} of ${data.benign.toLocaleString("en")} lesions.`;
  };
  $("roc-pick").addEventListener("change", (event) => showPoint(data.operating[event.target.value]));
  if (data.operating.length) showPoint(data.operating[$("roc-pick").value]);

  // Patients.
  const tiles = data.tiles;
  const tile = (lesion) => {
    if (!tiles[lesion.id]) return element("span", "no tile", "tile absent");
    const image = element("img", undefined, "tile");
    image.src = tiles[lesion.id];
    image.alt = "";
    return image;
  };
  const showLesion = (lesion) => {
    const box = $("lesion-status");
    box.replaceChildren(
      element("p", `${lesion.id}: ${lesion.diagnosis}`),
      element("p", `Rank ${lesion.rank} of ${lesion.of}, score ${lesion.score}; ${percent(lesion.top, 2)} of all lesions score at least as high.`),
      element("p", `${lesion.diameter ?? "?"} mm, ${lesion.site}, fold ${lesion.fold}.`),
    );
    for (const button of $("tiles").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.id === lesion.id));
  };
  const show = (number) => {
    if (!data.patients.length) return;
    chosen = (number + data.patients.length) % data.patients.length;
    const patient = data.patients[chosen];
    $("patient").value = String(chosen);
    const thinned = patient.drawn < patient.n ? ` ${patient.drawn} of them are drawn, the highest scored among them.` : "";
    $("patient-status").textContent =
      `${patient.id}: ${patient.n} lesions, ${patient.sex}, ${patient.age ?? "age missing"}, ${patient.hospital}. ` +
      `${patient.found} of ${patient.ranks.length} malignant in the top 15.${thinned}`;
    const items = patient.lesions.map((lesion) => {
      const item = element("li");
      const button = element("button", undefined, lesion.target ? "malignant" : "");
      button.type = "button";
      button.dataset.id = lesion.id;
      button.setAttribute("aria-pressed", "false");
      button.append(tile(lesion), element("span", lesion.target ? `${lesion.rank}, malignant` : String(lesion.rank)));
      button.addEventListener("click", () => showLesion(lesion));
      item.append(button);
      return item;
    });
    $("tiles").replaceChildren(...items);
    $("lesion-status").replaceChildren(element("p", "Choose a lesion, here or on the map.", "mute"));
    drawMap();
  };
  if (data.patients.length) {
    $("patient").addEventListener("change", (event) => show(Number(event.target.value)));
    $("before").addEventListener("click", () => show(chosen - 1));
    $("after").addEventListener("click", () => show(chosen + 1));
    show(0);
  }

  // Interactive pictures.
  const options = { displayModeBar: false, responsive: true };
  const plotLayout = (more) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 58, r: 16, t: 12, b: 96 },
    font: { family: css("sans"), size: 13, color: css("ink") }, hoverlabel: { font: { family: css("sans") } },
    legend: { orientation: "h", y: -0.2, yanchor: "top", x: 0 }, ...more,
  });
  const axis = (title, more) => ({ title: { text: title }, gridcolor: css("grid"), zeroline: false, linecolor: css("muted"), ...more });

  function drawRoc() {
    if (!data.roc.length) return;
    const x = data.roc.map((point) => point.fpr), y = data.roc.map((point) => point.tpr);
    const top = y.map((value) => Math.max(value, 0.8));
    const folds = data.folds.map((fold) => ({
      x: fold.fpr, y: fold.tpr, mode: "lines", line: { color: css("muted"), width: 1 }, name: `fold ${fold.fold}`, opacity: 0.75, hoverinfo: "name", showlegend: false,
    }));
    const traces = [
      { x: [0, 1], y: [0.8, 0.8], mode: "lines", line: { color: css("red"), dash: "dash", width: 1.2 }, name: "80 % sensitivity", hoverinfo: "skip" },
      { x, y: top, mode: "lines", fill: "tonexty", fillcolor: dark() ? "rgba(108,182,245,.3)" : "rgba(11,98,168,.22)", line: { width: 0 }, name: `pAUC ${data.pauc.toFixed(4)}`, hoverinfo: "skip" },
      ...folds,
      { x, y, customdata: data.roc, mode: "lines+markers", marker: { size: 5 }, line: { color: css("blue"), width: 2.5 }, name: "pooled",
        hovertemplate: "finds %{y:.1%}<br>flags %{x:.2%} of benign<extra></extra>" },
    ];
    const layout = plotLayout({
      xaxis: axis("benign lesions flagged (share)", { range: [0, 1] }), yaxis: axis("malignant lesions found (share)", { range: [0, 1.01] }), hovermode: "closest",
    });
    plotly.react("roc-live", traces, layout, options);
    if (!$("roc-live").dataset.bound) {
      $("roc-live").dataset.bound = "yes";
      $("roc-live").on("plotly_click", (event) => { const point = event.points.at(-1).customdata; if (point) showPoint(point); });
    }
  }

  function drawMap() {
    if (!plotly || !data.patients.length) return;
    const patient = data.patients[chosen], map = patient.map;
    const { outline, width, bottom, top } = data.body;
    const known = (name) => map[name].filter((value) => value !== null);
    // The axes include the outline and every lesion outside it.
    const wide = Math.max(width, ...known("x").map((value) => Math.abs(value) + 40));
    const low = Math.min(bottom, ...known("y").map((value) => value - 40)), high = Math.max(top, ...known("y").map((value) => value + 40));
    const closed = [...outline, outline[0]];
    const traces = [0, 1].map((side) => ({
      x: closed.map((point) => point[0]), y: closed.map((point) => point[1]), mode: "lines", fill: "toself", fillcolor: css("raised"), hoverinfo: "skip", showlegend: false,
      line: { color: css("edge"), width: 1.2, shape: "spline", smoothing: 0.6 }, xaxis: side ? "x2" : "x", yaxis: "y", type: "scatter",
    }));
    let scale = true;
    for (const side of [0, 1]) for (const malignant of [0, 1]) {
      const members = map.x.map((_, i) => i).filter((i) => map.b[i] === side && map.t[i] === malignant).sort((a, b) => map.v[b] - map.v[a]);
      if (!members.length) continue;
      traces.push({
        x: members.map((i) => map.x[i]), y: members.map((i) => map.y[i]), customdata: members.map((i) => map.r[i]), mode: "markers", showlegend: false,
        xaxis: side ? "x2" : "x", yaxis: "y", type: "scatter",
        marker: {
          size: members.map((i) => (malignant ? 9 : 3) + 1.1 * Math.min(map.d[i], 9)), color: members.map((i) => -map.v[i]), cmin: 0, cmax: Math.max(2, data.deepest), opacity: 0.95,
          colorscale: [[0, css("cool")], [0.35, "#d9a521"], [0.65, "#d1521c"], [1, css("hot")]],
          line: { color: malignant ? css("ink") : css("paper"), width: malignant ? 2.5 : 0.6 }, showscale: scale,
          colorbar: { orientation: "h", title: { text: "share of all lesions that score at least as high", side: "top", font: { size: 12 } }, tickvals: [0, 1, 2, 3, 4], ticktext: ["all", "10 %", "1 %", "0.1 %", "0.01 %"], thickness: 9, len: 0.8, y: -0.02, yanchor: "top", outlinewidth: 0 },
        },
        hovertemplate: `rank %{customdata} of ${patient.n}${malignant ? ", malignant" : ""}<extra></extra>`,
      });
      scale = false;
    }
    const bare = { showgrid: false, zeroline: false, showticklabels: false, title: { text: "" } };
    const across = { ...bare, range: [-wide, wide], constrain: "domain", scaleanchor: "y" };
    const layout = plotLayout({
      margin: { l: 4, r: 4, t: 26, b: 70 }, hovermode: "closest",
      annotations: [["front", "x domain"], ["back", "x2 domain"]].map(([text, xref]) => ({
        text, x: 0.5, y: 1, xref, yref: "paper", yanchor: "bottom", showarrow: false, font: { color: css("muted"), size: 12 },
      })),
      xaxis: { ...across, domain: [0, 0.49] }, xaxis2: { ...across, domain: [0.51, 1] }, yaxis: { ...bare, range: [low, high] },
    });
    plotly.react("map-live", traces, layout, options);
    if (!$("map-live").dataset.bound) {
      $("map-live").dataset.bound = "yes";
      $("map-live").on("plotly_click", (event) => {
        const rank = event.points[0].customdata, lesion = new Map(data.patients[chosen].lesions.map((lesion) => [lesion.rank, lesion])).get(rank);
        if (lesion) showLesion(lesion);
        else $("lesion-status").replaceChildren(element("p", `Rank ${rank} of ${data.patients[chosen].n}. Only the top 15 and the malignant lesions have details here; isic explain has them for any lesion.`));
      });
    }
  }

  function draw() {
    if (!plotly) return;
    drawRoc();
    drawMap();
  }

  // plotly.js is compressed from five megabytes to less than two. Without it the static figures stay.
  async function load() {
    const bytes = Uint8Array.from(atob($("plotly").textContent.trim()), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    plotly = window.Plotly;
    if (data.roc.length) {
      const figure = $("figure-roc");
      figure.classList.add("has-live");
      figure.querySelector(".static").style.display = "none";
      $("roc-live").hidden = false;
    }
    draw();
    document.documentElement.dataset.ready = "yes";
  }
  if ("DecompressionStream" in window) load();
  else document.documentElement.dataset.ready = "static";
})();
