// Sends a picture to the endpoint and draws what comes back. The least score is applied here, so that moving it asks nothing.
"use strict";

const drop = document.getElementById("drop");
const file = document.getElementById("file");
const threshold = document.getElementById("threshold");
const thresholdValue = document.getElementById("threshold-value");
const status = document.getElementById("status");
const stage = document.getElementById("stage");
const canvas = document.getElementById("picture");
const table = document.getElementById("found");

// Okabe and Ito's palette, which people with any colour blindness can tell apart.
const HUES = ["#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442"];

let shown = null; // the picture and its detections
let asked = 0; // the number of the last question: an answer to an earlier one comes too late

function tell(sentence, isError = false) {
  status.textContent = sentence;
  status.className = isError ? "error" : "";
}

async function detect(picture) {
  const question = ++asked;
  shown = null;
  stage.hidden = table.hidden = true;
  tell(`Looking at ${picture.name} …`);
  const started = performance.now();
  try {
    const response = await fetch("invocations", {
      method: "POST",
      headers: { "Content-Type": picture.type.startsWith("image/") ? picture.type : "application/x-image", Accept: "application/json" },
      body: picture,
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    const bitmap = await createImageBitmap(picture, { imageOrientation: "from-image" });
    if (question !== asked) return;
    shown = { bitmap, answer, milliseconds: Math.round(performance.now() - started) };
    draw();
  } catch (error) {
    if (question === asked) tell(error.message, true);
  }
}

function draw() {
  const { bitmap, answer, milliseconds } = shown;
  const least = Number(threshold.value);
  const rows = answer.scores.map((score, i) => ({ score, label: answer.labels[i], box: answer.boxes[i] })).filter((row) => row.score >= least);
  canvas.width = answer.image_size.width;
  canvas.height = answer.image_size.height;
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(1, Math.sqrt(canvas.width * canvas.height) / 300);
  context.lineWidth = 2 * unit;
  context.font = `${12 * unit}px system-ui, sans-serif`;
  context.textBaseline = "bottom";
  const names = [...new Set(answer.labels)].sort();
  for (const { score, label, box: [x1, y1, x2, y2] } of [...rows].reverse()) {
    const color = HUES[names.indexOf(label) % HUES.length];
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
  tell(`${rows.length} found with a score of ${least.toFixed(2)} or more, in ${milliseconds} ms. Model ${answer.model_version}.`);
}

file.addEventListener("change", () => { if (file.files.length) detect(file.files[0]); });
threshold.addEventListener("input", () => { thresholdValue.value = Number(threshold.value).toFixed(2); if (shown) draw(); });
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) detect(event.dataTransfer.files[0]);
  });
}
