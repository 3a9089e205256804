
"use strict";
const table = document.querySelector("table:is(.all, .wide)");
const body = table.tBodies[0];
const rows = [...body.rows];
const heads = [...table.tHead.rows[0].cells];
const natural = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

// the value to sort by, null where there is none
function value(row, column, numeric) {
  const cell = row.cells[column];
  const text = cell.dataset.v ?? cell.textContent.trim();
  if (!numeric) return text || null;
  const number = parseFloat(text);
  return Number.isNaN(number) ? null : number;
}

function sort(column) {
  const head = heads[column];
  const numeric = head.classList.contains("n");
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keys = new Map(rows.map((row) => [row, value(row, column, numeric)]));
  rows.sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (x === null || y === null) return (x === null) - (y === null); // last, whichever way
    return (down ? -1 : 1) * (numeric ? x - y : natural.compare(x, y));
  });
  body.append(...rows);
}

heads.forEach((head, column) => {
  if (!("sort" in head.dataset)) return;
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(column));
  head.append(button);
});

const search = document.querySelector("input[type=search]");
const chips = [...document.querySelectorAll(".chips button")];
const count = document.querySelector("output");
const text = new Map(rows.map((row) => [row, [...row.querySelectorAll("th, .status, .look")].map((cell) => cell.textContent).join(" ").toLowerCase()]));

function filter() {
  const words = search.value.toLowerCase().split(/\s+/);
  const kind = chips.find((chip) => chip.getAttribute("aria-pressed") === "true")?.dataset.kind;
  let shown = 0;
  for (const row of rows) {
    row.hidden = !(words.every((word) => text.get(row).includes(word)) && (!kind || row.classList.contains(kind)));
    shown += !row.hidden;
  }
  count.textContent = shown < rows.length ? shown + " of " + rows.length + " shown" : "";
}

search.addEventListener("input", filter);
for (const chip of chips) {
  chip.addEventListener("click", () => {
    for (const other of chips) other.setAttribute("aria-pressed", String(other === chip));
    filter();
  });
}
document.querySelector(".controls").hidden = false;

// many labels: only the column that is chosen is laid out
const choice = document.querySelector("select");
const sheet = document.styleSheets[0];

function choose() {
  const first = heads.findIndex((head) => head.classList.contains("v"));
  const label = Number(choice.value);
  const before = document.querySelectorAll(".median > :not(.v)").length;
  const chosen = [`.v:nth-child(${first + label + 1})`, `.median .v:nth-child(${before + label + 1})`];
  const cells = label < 0 ? ".v" : `tr:not(.median) > ${chosen[0]}, ${chosen[1]}`;
  if (choice.dataset.rule) sheet.deleteRule(Number(choice.dataset.rule));
  choice.dataset.rule = sheet.insertRule(`table :is(${cells}) { display: table-cell !important; }`, sheet.cssRules.length);
}

if (choice) {
  choice.addEventListener("change", choose);
  choose();
}

const viewer = document.querySelector("dialog");
let current = null;

function show(row) {
  const link = row.querySelector(".picture a");
  const picture = link.querySelector("img");
  current = row;
  viewer.querySelector("img").src = picture.src;
  viewer.querySelector("img").alt = picture.alt;
  viewer.querySelector("figcaption").textContent = [row.querySelector("th b"), ...row.querySelectorAll(".look p")].map((part) => part.textContent).join("\n");
  viewer.querySelector("a").href = link.href;
  if (!viewer.open) viewer.showModal();
}

function step(by) {
  if (!by) return viewer.close();
  const seen = rows.filter((row) => !row.hidden && row.querySelector(".picture img"));
  const next = seen[seen.indexOf(current) + by];
  if (next) show(next);
}

body.addEventListener("click", (event) => {
  const link = event.target.closest(".picture a");
  if (!link?.querySelector("img") || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link.closest("tr"));
});
viewer?.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) step(Number(button.dataset.step));
  else if (event.target === viewer) viewer.close();
});
viewer?.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
viewer?.addEventListener("close", () => current?.querySelector(".picture a").focus());
