"use strict";

// A click on a heading sorts its table: numbers from the largest, texts from A; again turns round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const isNumber = head.classList.contains("number");
    const first = isNumber ? "descending" : "ascending";
    const second = isNumber ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    const sign = order === "ascending" ? 1 : -1;
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const text = (row) => row.children[head.cellIndex].textContent;
    const number = (row) => parseFloat(text(row).replaceAll(",", "").replace("inf", "Infinity"));
    const compare = (a, b) => {
      if (!isNumber) return sign * text(a).localeCompare(text(b));
      const [x, y] = [number(a), number(b)];
      if (x === y) return 0;
      return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x < y ? -1 : 1);
    };
    const body = head.closest("table").tBodies[0];
    body.append(...[...body.rows].sort(compare));
  });
}

// A button copies what is written before it.
for (const button of document.querySelectorAll(".copy button")) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      button.textContent = "selected";
    }
  });
}

// Pointing near a point of a figure shows its name.
const near = 14;
for (const data of document.querySelectorAll("figure script")) {
  const figure = data.closest("figure");
  const image = figure.querySelector("img");
  const pane = figure.closest(".scroll");
  const points = JSON.parse(data.textContent);
  const ring = document.createElement("i");
  const tip = document.createElement("output");
  ring.hidden = tip.hidden = true;
  figure.append(ring, tip);
  const show = (event) => {
    const box = image.getBoundingClientRect();
    const place = ([x, y]) => [(x / 1e4) * box.width, (y / 1e4) * box.height];
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    let best = near ** 2;
    let found = null;
    for (const point of points) {
      const [x, y] = place(point);
      const distance = (x - left) ** 2 + (y - top) ** 2;
      if (distance < best) [best, found] = [distance, point];
    }
    ring.hidden = tip.hidden = !found;
    if (!found) return;
    const [x, y] = place(found);
    ring.style.transform = `translate(${x}px, ${y}px)`;
    tip.textContent = found[2];
    const first = pane.scrollLeft;
    const last = first + pane.clientWidth - tip.offsetWidth;
    const above = y - tip.offsetHeight - 12;
    const across = Math.max(first, Math.min(x - 20, last));
    tip.style.transform = `translate(${across}px, ${above > 0 ? above : y + 12}px)`;
  };
  figure.addEventListener("pointermove", show);
  figure.addEventListener("pointerdown", show);
  figure.addEventListener("pointerleave", () => {
    ring.hidden = tip.hidden = true;
  });
}
