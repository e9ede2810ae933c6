// Without this script, the pictures stand side by side, each with its label.
(() => {
  const set = document.currentScript.parentElement, form = set.querySelector("form");
  const show = () => {
    const chosen = new FormData(form);
    set.classList.toggle("sliding", chosen.get("view") === "slider");
    for (const panel of set.querySelectorAll(".panel"))
      for (const side of ["left", "right"]) panel.classList.toggle(side, panel.dataset.stage === chosen.get(side));
    for (const field of form.querySelectorAll(".side")) field.hidden = chosen.get("view") !== "slider";
  };
  for (const photo of set.querySelectorAll(".photo")) {
    const panels = photo.querySelector(".panels"), range = photo.querySelector("input");
    const move = () => photo.style.setProperty("--x", range.value + "%");
    const follow = event => {
      if (!(event.buttons & 1) || !set.classList.contains("sliding")) return;
      const box = panels.getBoundingClientRect();
      range.value = 100 * (event.clientX - box.left) / box.width;
      move();
    };
    range.addEventListener("input", move);
    panels.addEventListener("pointerdown", event => { panels.setPointerCapture(event.pointerId); follow(event); });
    panels.addEventListener("pointermove", follow);
  }
  form.addEventListener("change", show);
  form.hidden = false;
  show();
})();
