"use strict";
(() => {
  const the = id => document.getElementById(id);
  const data = JSON.parse(the("data").textContent), canvas = the("canvas"), cells = document.createElement("canvas");
  let view, band;                     // shown
  let zoom = 1, left = 0, top = 0;    // screen pixels per cell; the cell (column, row) at the upper left corner
  const pointers = new Map();

  function fail(reason) {
    the("trouble").textContent = "The map cannot be shown (" + reason + "); a picture (.png) lies beside this page.";
    the("trouble").hidden = false;
    document.documentElement.dataset.state = "failed";
  }
  addEventListener("error", event => fail(event.message));
  addEventListener("unhandledrejection", event => fail(String(event.reason)));

  function add(parent, kind, text) {
    const element = document.createElement(kind);
    element.textContent = text;
    parent.append(element);
    return element;
  }

  // --- values: code 0 is missing, others are steps on a linear or an inverse hyperbolic sine scale

  async function unpack(packed, width, height) {
    const bytes = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(plain).arrayBuffer());
    const count = width * height, codes = new Uint16Array(count);
    if (planes.length !== 2 * count) throw new Error("the page is damaged");
    for (let i = 0; i < count; i++) {
      const folded = planes[i] << 8 | planes[count + i];
      codes[i] = (folded >> 1 ^ -(folded & 1)) + (i % width ? codes[i - 1] : 0);
    }
    return codes;
  }

  function valueOf(band, code) {
    const place = code ? band.start + band.step * (code - 1) : NaN;
    return band.curve ? band.curve * Math.sinh(place) : place;
  }

  function shown(value) {
    if (Number.isNaN(value)) return "no value";
    const size = Math.abs(value);
    const text = size < 1e-6 ? "0" : size >= 999.5 ? Math.round(size).toLocaleString("en") : String(Number(size.toPrecision(3)));
    return (value < 0 && text !== "0" ? "−" : "") + text;
  }

  // --- colours

  const hex = (ramp, k) => data.palettes[ramp.colours].substr(6 * k, 6);

  function paint() {
    const ramp = band.ramp, brush = cells.getContext("2d"), shades = new Uint32Array(1 << 16);
    [cells.width, cells.height] = [view.width, view.height];
    const image = brush.createImageData(view.width, view.height), pixels = new Uint32Array(image.data.buffer);
    const place = ramp && (ramp.log ? value => Math.log(Math.max(value, ramp.low) / ramp.low) / Math.log(ramp.high / ramp.low)
      : value => (value - ramp.low) / (ramp.high - ramp.low));
    for (let i = 0; ramp && i < pixels.length; i++) {
      const code = band.values[i];
      if (code && !shades[code]) {
        const k = Math.min(255, Math.max(0, Math.floor(256 * place(valueOf(band, code)))));
        const [r, g, b] = [0, 2, 4].map(at => parseInt(hex(ramp, k).substr(at, 2), 16));
        shades[code] = (255 << 24 | b << 16 | g << 8 | r) >>> 0;
      }
      pixels[i] = shades[code];
    }
    brush.putImageData(image, 0, 0);
  }

  function explain() {
    const legend = the("legend"), ramp = band.ramp;
    legend.replaceChildren();
    add(legend, "strong", band.name + (band.unit ? " (" + band.unit + ")" : ""));
    add(legend, "div", band.meaning).className = "soft";
    if (!ramp) return add(legend, "div", "no cell has a value");
    const bar = add(legend, "div", ""), ticks = add(legend, "div", ""), stops = Array.from({length: 33}, (_, k) => "#" + hex(ramp, Math.min(255, 8 * k)));
    [bar.className, ticks.className] = ["bar", "ticks"];
    const [below, middle, above] = ["i", "i", "i"].map(kind => add(bar, kind, ""));
    if (ramp.extend === "min" || ramp.extend === "both") below.style.background = stops[0];
    if (ramp.extend === "max" || ramp.extend === "both") above.style.background = stops[32];
    middle.style.background = "linear-gradient(to right," + stops.join(",") + ")";
    for (const [at, text] of ramp.ticks) add(ticks, "span", text).style.left = 100 * at + "%";
    const note = add(legend, "div", ramp.note + "; ");
    note.className = "soft";
    add(note, "span", "").className = "key";
    note.append(" no value");
  }

  // --- profiles: their measured values in the colours of the prediction; white on other bands

  const spot = ([col, row]) => [(col - left) * zoom, (row - top) * zoom * view.aspect];

  function shade(value) {
    const ramp = band.ramp;
    const alike = view.bands[0].name === "prediction" && ["prediction", "lower", "upper"].includes(band.name);
    if (value === null || !ramp || !alike) return "#fff";
    const share = ramp.log ? Math.log(Math.max(value, ramp.low) / ramp.low) / Math.log(ramp.high / ramp.low) : (value - ramp.low) / (ramp.high - ramp.low);
    return "#" + hex(ramp, Math.min(255, Math.max(0, Math.floor(256 * share))));
  }

  function mark(brush) {
    brush.lineWidth = 1.5;
    brush.strokeStyle = "#000";
    for (const profile of view.profiles) {
      brush.fillStyle = shade(data.profiles.values[profile[2]]);
      brush.beginPath();
      brush.arc(...spot(profile), 4, 0, 2 * Math.PI);
      brush.fill();
      brush.stroke();
    }
  }

  function nearest(x, y) {          // the profile within 7 pixels of a place on the screen
    let found, best = 49;
    for (const profile of view.profiles ?? []) {
      const [across, down] = spot(profile), far = (across - x) ** 2 + (down - y) ** 2;
      if (far <= best) [found, best] = [profile[2], far];
    }
    return found;
  }

  // --- places

  function degrees(across, down) {
    const grid = view.degrees;
    if (!grid.lattice) return [grid.x[0] + across * (grid.x[1] - grid.x[0]), grid.y[0] + down * (grid.y[1] - grid.y[0])];
    const last = grid.side - 1, row = Math.min(Math.floor(down * last), last - 1), col = Math.min(Math.floor(across * last), last - 1);
    const v = down * last - row, u = across * last - col, sum = [0, 0, 0];
    for (const [i, j, weight] of [[0, 0, (1 - v) * (1 - u)], [0, 1, (1 - v) * u], [1, 0, v * (1 - u)], [1, 1, v * u]]) {
      const from = 3 * ((row + i) * grid.side + col + j);
      for (let k = 0; k < 3; k++) sum[k] += weight * (grid.lattice[from + k] ?? NaN);
    }
    return [Math.atan2(sum[1], sum[0]) * 180 / Math.PI, Math.atan2(sum[2], Math.hypot(sum[0], sum[1])) * 180 / Math.PI];
  }

  const label = (degree, letters) => Math.abs(degree).toFixed(view.places) + "° " + letters[degree < 0 ? 1 : 0];

  function read(x, y) {             // of the screen
    const reading = the("reading"), col = Math.floor(left + x / zoom), row = Math.floor(top + y / (zoom * view.aspect));
    reading.replaceChildren();
    if (col < 0 || row < 0 || col >= view.width || row >= view.height) return;
    const [lon, lat] = degrees((left + x / zoom) / view.width, (top + y / (zoom * view.aspect)) / view.height);
    add(reading, "span", Number.isNaN(lon + lat) ? "off the Earth" : label(lat, "NS") + ", " + label((lon + 540) % 360 - 180, "EW")).append("  ");
    for (const each of view.bands) {
      const value = valueOf(each, each.values[row * view.width + col]);
      add(reading, each === band ? "strong" : "span", each.name + " " + shown(value) + (each.unit && !Number.isNaN(value) ? " " + each.unit : "")).append("  ");
    }
    readProfile(x, y);
  }

  function readProfile(x, y) {
    const k = the("profiles").checked ? nearest(x, y) : undefined;
    if (k === undefined) return;
    const value = data.profiles.values[k];
    add(the("reading"), "span", "profile " + data.profiles.ids[k] + ": measured " + (value === null ? "nothing" : shown(value) + " " + data.profiles.unit));
  }

  // --- zoom and pan

  const size = () => [canvas.clientWidth, canvas.clientHeight];
  const fitted = () => Math.min(size()[0] / view.width, size()[1] / (view.height * view.aspect));

  function draw() {
    const [width, height] = size(), ratio = devicePixelRatio || 1, brush = canvas.getContext("2d");
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    brush.scale(ratio, ratio);
    brush.imageSmoothingEnabled = false;
    const box = [-left * zoom, -top * zoom * view.aspect, view.width * zoom, view.height * zoom * view.aspect];
    brush.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--none");
    brush.fillRect(...box);
    brush.drawImage(cells, ...box);
    if (the("profiles").checked) mark(brush);
    the("scale").hidden = !view.metres;
    if (view.metres) {
      const longest = 0.25 * width / zoom * view.metres, power = 10 ** Math.floor(Math.log10(longest));
      const length = power * (longest >= 5 * power ? 5 : longest >= 2 * power ? 2 : 1);
      the("scale").firstChild.style.width = length / view.metres * zoom + "px";
      the("scale").lastChild.textContent = length >= 1000 ? (length / 1000).toLocaleString("en") + " km" : Number(length.toPrecision(1)) + " m";
    }
    Object.assign(document.documentElement.dataset, {zoom: zoom / fitted(), left, top});
  }

  function fit() {
    zoom = fitted();
    [left, top] = [(view.width - size()[0] / zoom) / 2, (view.height - size()[1] / (zoom * view.aspect)) / 2];
    draw();
  }

  function pan(dx, dy) {            // pixels
    left = Math.min(view.width, Math.max(-size()[0] / zoom, left - dx / zoom));
    top = Math.min(view.height, Math.max(-size()[1] / (zoom * view.aspect), top - dy / (zoom * view.aspect)));
    draw();
  }

  function zoomBy(factor, x = size()[0] / 2, y = size()[1] / 2) {    // the place under (x, y) stays there
    const next = Math.min(Math.max(64, fitted()), Math.max(fitted() / 2, zoom * factor));
    left += x / zoom - x / next;
    top += (y / zoom - y / next) / view.aspect;
    zoom = next;
    pan(0, 0);
  }

  const at = event => [event.clientX - canvas.getBoundingClientRect().left, event.clientY - canvas.getBoundingClientRect().top];

  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    zoomBy(Math.exp(-0.0015 * event.deltaY * (event.deltaMode ? 30 : 1)), ...at(event));
    read(...at(event));
  }, {passive: false});
  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
  });
  canvas.addEventListener("pointermove", event => {
    const before = pointers.get(event.pointerId), now = at(event);
    if (before) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) zoomBy(Math.hypot(now[0] - other[0], now[1] - other[1]) / (Math.hypot(before[0] - other[0], before[1] - other[1]) || 1), ...other);
      else pan(now[0] - before[0], now[1] - before[1]);
      pointers.set(event.pointerId, now);
    }
    read(...now);
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, event => pointers.delete(event.pointerId));
  canvas.addEventListener("keydown", event => {
    const [width, height] = size(), step = {ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
    if (step) pan(step[0] * width / 10, step[1] * height / 10);
    else if (event.key === "+" || event.key === "=") zoomBy(1.5);
    else if (event.key === "-") zoomBy(1 / 1.5);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
    read(width / 2, height / 2);
  });
  the("in").addEventListener("click", () => zoomBy(1.5));
  the("out").addEventListener("click", () => zoomBy(1 / 1.5));
  the("fit").addEventListener("click", fit);

  // --- what is shown is in the address: #map=0&band=sd&profiles=1

  async function show() {
    const asked = new URLSearchParams(location.hash.slice(1)), before = view;
    const next = data.views[Number(asked.get("map"))] ?? data.views[0];
    await Promise.all(next.bands.map(async each => each.values ??= await unpack(each.codes, next.width, next.height)));
    view = next;
    band = view.bands.find(each => each.name === asked.get("band")) ?? view.bands[0];
    the("map").value = data.views.indexOf(view);
    the("profiles").checked = Boolean(data.profiles) && asked.get("profiles") === "1";
    if (view !== before) {
      the("band").replaceChildren();
      for (const each of view.bands) add(the("band"), "option", each.name);
    }
    the("band").value = band.name;
    canvas.setAttribute("aria-label", "Map of " + band.name + ", " + view.title);
    paint();
    explain();
    if (before && ["width", "height", "aspect"].every(name => view[name] === before[name])) draw();
    else fit();
    Object.assign(document.documentElement.dataset, {state: "drawn", map: data.views.indexOf(view), band: band.name});
  }

  if (data.profiles) {
    the("profiles-choice").hidden = false;
    the("profiles-choice").lastElementChild.textContent = data.profiles.ids.length.toLocaleString("en") + " profiles" + (data.profiles.unit ? " (measured, " + data.profiles.unit + ")" : "");
    the("profiles").addEventListener("change", () => ask());
  }
  data.views.forEach((each, k) => add(the("map"), "option", each.title).value = k);
  the("map-choice").hidden = data.views.length < 2;
  const ask = () => location.replace("#" + new URLSearchParams({map: the("map").value, band: the("band").value, ...(the("profiles").checked ? {profiles: 1} : {})}));
  the("map").addEventListener("change", ask);
  the("band").addEventListener("change", ask);
  addEventListener("hashchange", show);
  addEventListener("resize", () => view && fit());
  show();
})();
