// Ways for photos into the page: dropped anywhere, pasted, chosen, or taken by the camera.

const $ = (id) => document.getElementById(id);

// onFiles: called with a list of files, never an empty one.
export function setUp(onFiles) {
  const give = (files) => files.length && onFiles([...files]);

  for (const [input, buttons] of [
    [$("files"), [$("choose"), $("add")]],
    [$("shot"), [$("camera"), $("camera-too")]],
  ]) {
    for (const button of buttons) button.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      give(input.files);
      input.value = ""; // so that the same file can be chosen again
    });
  }

  addEventListener("paste", (event) => {
    if (event.target.closest?.("input, textarea, dialog")) return;
    give(event.clipboardData.files);
  });

  // Each element that the pointer passes sends its own pair of events.
  let depth = 0;
  const show = (isOver) => ($("overlay").hidden = !isOver);
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (hasFiles(event)) show(++depth > 0);
  });
  addEventListener("dragleave", (event) => {
    if (hasFiles(event)) show(--depth > 0);
  });
  addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(false);
    depth = 0;
    give(event.dataTransfer.files);
  });
}
