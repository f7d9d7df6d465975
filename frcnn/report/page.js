// Filters of the examples, the choice of a class for the curves, and sortable tables. Without it everything is shown.
"use strict";

const filters = document.getElementById("filters");
const shown = document.getElementById("shown");
const examples = [...document.querySelectorAll(".example")];

function applyFilters() {
  const wanted = [...new FormData(filters)].filter(([, value]) => value !== "");
  let count = 0;
  for (const example of examples) {
    example.hidden = !wanted.every(([name, value]) => example.dataset[name] === value);
    count += !example.hidden;
  }
  shown.textContent = `${count} of ${examples.length} examples`;
}

function filterBy(values) {
  filters.reset();
  for (const [name, value] of Object.entries(values)) filters.elements[name].value = value;
  applyFilters();
  document.getElementById("examples").scrollIntoView();
  filters.elements[Object.keys(values)[0]].focus({ preventScroll: true });
}

filters.addEventListener("change", applyFilters);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(applyFilters)); // after the fields have their first values again
for (const button of document.querySelectorAll("[data-filter-kind]")) {
  button.addEventListener("click", () => filterBy({ kind: button.dataset.filterKind }));
}
for (const button of document.querySelectorAll("[data-filter-object]")) {
  button.addEventListener("click", () => filterBy({ object: button.dataset.filterObject, detected: button.dataset.filterDetected }));
}
applyFilters();

const curveClass = document.getElementById("curve-class");
curveClass.addEventListener("change", () => {
  for (const group of document.querySelectorAll("[data-curves]")) group.hidden = group.dataset.curves !== curveClass.value;
});

for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") !== "descending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const value = (row) => { const cell = row.cells[column]; return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value); };
    const rows = [...table.tBodies[0].rows].sort((a, b) => (value(a) > value(b) ? 1 : value(a) < value(b) ? -1 : 0) * (descending ? -1 : 1));
    table.tBodies[0].append(...rows);
  }));
}
