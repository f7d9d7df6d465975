// Sends an image to the endpoint and draws the detections. The minimum score is applied here: moving it sends no request.
"use strict";

const drop = document.getElementById("drop");
const file = document.getElementById("file");
const threshold = document.getElementById("threshold");
const thresholdValue = document.getElementById("threshold-value");
const status = document.getElementById("status");
const stage = document.getElementById("stage");
const canvas = document.getElementById("image");
const table = document.getElementById("detections");

// Color-blind safe palette of Okabe and Ito (2008).
const COLORS = ["#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442"];

let current = null; // the image and its detections
let lastRequest = 0; // responses to earlier requests are discarded

function showStatus(message, isError = false) {
  status.textContent = message;
  status.className = isError ? "error" : "";
}

async function detect(image) {
  const request = ++lastRequest;
  current = null;
  stage.hidden = table.hidden = true;
  showStatus(`Detecting objects in ${image.name} …`);
  const started = performance.now();
  try {
    const response = await fetch("invocations?score_threshold=0", {
      method: "POST",
      headers: { "Content-Type": image.type.startsWith("image/") ? image.type : "application/x-image", Accept: "application/json" },
      body: image,
    });
    const result = await response.json();
    if (!response.ok) throw new Error(result.error);
    const bitmap = await createImageBitmap(image, { imageOrientation: "from-image" });
    if (request !== lastRequest) return;
    current = { bitmap, result, milliseconds: Math.round(performance.now() - started) };
    draw();
  } catch (error) {
    if (request === lastRequest) showStatus(error.message, true);
  }
}

function draw() {
  const { bitmap, result, milliseconds } = current;
  const minimum = Number(threshold.value);
  const rows = result.scores.map((score, i) => ({ score, label: result.labels[i], box: result.boxes[i] })).filter((row) => row.score >= minimum);
  canvas.width = result.image_size.width;
  canvas.height = result.image_size.height;
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(1, Math.sqrt(canvas.width * canvas.height) / 300);
  context.lineWidth = 2 * unit;
  context.font = `${12 * unit}px system-ui, sans-serif`;
  context.textBaseline = "bottom";
  const names = [...new Set(result.labels)].sort();
  for (const { score, label, box: [x1, y1, x2, y2] } of [...rows].reverse()) {
    const color = COLORS[names.indexOf(label) % COLORS.length];
    context.strokeStyle = color;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const caption = `${label} ${score.toFixed(2)}`;
    const top = Math.max(y1, 16 * unit);
    context.fillStyle = color;
    context.fillRect(x1, top - 16 * unit, context.measureText(caption).width + 6 * unit, 16 * unit);
    context.fillStyle = "black";
    context.fillText(caption, x1 + 3 * unit, top - unit);
  }
  table.tBodies[0].replaceChildren(...rows.map(({ score, label, box }) => {
    const row = document.createElement("tr");
    for (const text of [label, score.toFixed(3), ...box.map((side) => side.toFixed(1))]) row.insertCell().textContent = text;
    return row;
  }));
  stage.hidden = table.hidden = false;
  showStatus(`${rows.length} detections with a score of at least ${minimum.toFixed(2)}, in ${milliseconds} ms. Model ${result.model_version}.`);
}

file.addEventListener("change", () => { if (file.files.length) detect(file.files[0]); });
threshold.addEventListener("input", () => { thresholdValue.value = Number(threshold.value).toFixed(2); if (current) draw(); });
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) detect(event.dataTransfer.files[0]);
  });
}
