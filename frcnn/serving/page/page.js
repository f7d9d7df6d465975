// Sends an image to the endpoint and draws the detections. Minimum scores are applied here: changing them sends no request.
"use strict";

const drop = document.getElementById("drop");
const file = document.getElementById("file");
const perClass = document.getElementById("per-class");
const perClassValues = document.getElementById("per-class-values");
const threshold = document.getElementById("threshold");
const thresholdValue = document.getElementById("threshold-value");
const status = document.getElementById("status");
const stage = document.getElementById("stage");
const canvas = document.getElementById("image");
const table = document.getElementById("detections");

const NAMES_SHOWN = 20; // of classes with their minimum score

let settings = null; // a promise of the classes by name, with their colors and minimum scores
let current = null; // the image and its detections
let lastRequest = 0; // responses to earlier requests are discarded
let changed = false; // whether the user has set a minimum score

function showStatus(message, isError = false) {
  status.textContent = message;
  status.className = isError ? "error" : "";
}

async function fetchSettings() {
  const response = await fetch("page/settings.json");
  const result = await response.json();
  if (!response.ok) throw new Error(result.error);
  const stored = result.classes.filter((entry) => entry.score_threshold !== null);
  document.getElementById("own-scores").hidden = !stored.length;
  if (stored.length) {
    const more = stored.length > NAMES_SHOWN ? ", …" : "";
    const shown = stored.slice(0, NAMES_SHOWN).map((entry) => `${entry.name} ${entry.score_threshold}`).join(", ");
    perClassValues.textContent = `${shown}${more} (${result.goal})`;
  }
  if (!changed) {
    perClass.checked = stored.length > 0;
    // The lowest one, so that moving to the slider hides nothing.
    threshold.value = stored.length ? Math.min(...stored.map((entry) => entry.score_threshold)) : result.score_threshold;
    showMinimum();
  }
  return new Map(result.classes.map((entry) => [entry.name, entry]));
}

function loadSettings() {
  settings ??= fetchSettings().catch((error) => {
    settings = null; // such as while the model is being loaded: the next image tries again
    throw error;
  });
  return settings;
}

function showMinimum() {
  thresholdValue.value = perClass.checked ? "not used" : Number(threshold.value).toFixed(2);
  if (current) draw();
}

async function detect(image) {
  const request = ++lastRequest;
  current = null;
  stage.hidden = table.hidden = true;
  showStatus(`Detecting objects in ${image.name} …`);
  const started = performance.now();
  try {
    const classes = await loadSettings();
    const response = await fetch("invocations?score_threshold=0", {
      method: "POST",
      headers: { "Content-Type": image.type.startsWith("image/") ? image.type : "application/x-image", Accept: "application/json" },
      body: image,
    });
    const result = await response.json();
    if (!response.ok) throw new Error(result.error);
    const bitmap = await createImageBitmap(image, { imageOrientation: "from-image" });
    if (request !== lastRequest) return;
    current = { bitmap, result, classes, milliseconds: Math.round(performance.now() - started) };
    draw();
  } catch (error) {
    if (request === lastRequest) showStatus(error.message, true);
  }
}

function draw() {
  const { bitmap, result, classes, milliseconds } = current;
  const minimum = Number(threshold.value);
  const rows = result.scores
    .map((score, i) => ({ score, label: result.labels[i], box: result.boxes[i], style: classes.get(result.labels[i]) }))
    .filter((row) => row.score >= (perClass.checked ? row.style.score_threshold : minimum));
  canvas.width = result.image_size.width;
  canvas.height = result.image_size.height;
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(1, Math.sqrt(canvas.width * canvas.height) / 300);
  context.lineWidth = 2 * unit;
  context.font = `${12 * unit}px system-ui, sans-serif`;
  context.textBaseline = "bottom";
  for (const { score, label, style, box: [x1, y1, x2, y2] } of [...rows].reverse()) {
    context.strokeStyle = style.color;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const caption = `${label} ${score.toFixed(2)}`;
    const top = Math.max(y1, 16 * unit);
    context.fillStyle = style.color;
    context.fillRect(x1, top - 16 * unit, context.measureText(caption).width + 6 * unit, 16 * unit);
    context.fillStyle = style.text_color;
    context.fillText(caption, x1 + 3 * unit, top - unit);
  }
  table.tBodies[0].replaceChildren(...rows.map(({ score, label, box }) => {
    const row = document.createElement("tr");
    for (const text of [label, score.toFixed(3), ...box.map((side) => side.toFixed(1))]) row.insertCell().textContent = text;
    return row;
  }));
  stage.hidden = table.hidden = false;
  const condition = perClass.checked ? "at least the minimum score of their class" : `a score of at least ${minimum.toFixed(2)}`;
  showStatus(`${rows.length} detections with ${condition}, in ${milliseconds} ms. Model ${result.model_version}.`);
}

file.addEventListener("change", () => { if (file.files.length) detect(file.files[0]); });
perClass.addEventListener("change", () => { changed = true; showMinimum(); });
threshold.addEventListener("input", () => { changed = true; perClass.checked = false; showMinimum(); });
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) detect(event.dataTransfer.files[0]);
  });
}
loadSettings().catch((error) => showStatus(error.message, true));
