"use strict";
// The page is whole without this: it sorts tables, shows tips at once, and copies code.

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(head.firstElementChild);
    button.addEventListener("click", () => sort(table, heads, column));
    head.prepend(button);
  });
}

function sort(table, heads, column) {
  const head = heads[column];
  const isText = head.dataset.sort === "text";
  const first = head.dataset.first || (isText ? "ascending" : "descending");
  const other = first === "ascending" ? "descending" : "ascending";
  const direction = head.getAttribute("aria-sort") === first ? other : first;
  heads.forEach((each) => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const key = (row) => {
    const cell = row.cells[column];
    return isText ? cell.textContent.trim() : cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
  };
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (isText) return sign * x.localeCompare(y, undefined, { numeric: true });
    // What is missing stays at the end in both directions.
    return Number.isNaN(x) - Number.isNaN(y) || sign * (x - y) || 0;
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

const tip = document.getElementById("tip");

for (const title of document.querySelectorAll("main svg title")) {
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}

document.addEventListener("pointermove", (event) => {
  const marked = event.target.closest && event.target.closest("[data-tip]");
  tip.hidden = !marked;
  if (!marked) return;
  if (tip.textContent !== marked.dataset.tip) tip.textContent = marked.dataset.tip;
  const beyond = event.clientX + 16 + tip.offsetWidth > document.documentElement.clientWidth;
  const left = beyond ? Math.max(event.clientX - tip.offsetWidth - 12, 8) : event.clientX + 16;
  const above = event.clientY + 20 + tip.offsetHeight > window.innerHeight;
  tip.style.left = left + "px";
  tip.style.top = (above ? event.clientY - tip.offsetHeight - 12 : event.clientY + 20) + "px";
});
for (const name of ["pointerleave", "scroll"]) document.addEventListener(name, () => { tip.hidden = true; });

for (const code of document.querySelectorAll("pre")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  const frame = document.createElement("div");
  frame.className = "frame";
  code.replaceWith(frame);
  frame.append(code, button);
}

addEventListener("beforeprint", () => {
  for (const more of document.querySelectorAll("details")) more.open = true;
});
