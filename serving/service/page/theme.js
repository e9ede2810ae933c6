// Light or dark: as the system has it, until the user chooses otherwise.

const NAME = "naturaltone.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export function setUp(button) {
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  const stored = read();
  if (stored) document.documentElement.dataset.theme = stored;
  button.addEventListener("click", () => {
    const chosen = isDark() ? "light" : "dark";
    // The system's own theme needs no choice, and so follows the system again.
    if ((chosen === "dark") === system.matches) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    write(document.documentElement.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

function read() {
  try {
    return localStorage.getItem(NAME);
  } catch {
    return null; // the user forbids storage
  }
}

function write(theme) {
  try {
    if (theme) localStorage.setItem(NAME, theme);
    else localStorage.removeItem(NAME);
  } catch {
    // The choice holds until the page is closed.
  }
}
