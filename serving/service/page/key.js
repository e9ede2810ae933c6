// The API key: kept for this tab, or on this device if the user wants; and the dialog that asks for it.

const NAME = "naturaltone.key";
const $ = (id) => document.getElementById(id);

export function current() {
  return read(() => sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME)) ?? "";
}

// onKey: called after a key was entered or forgotten.
export function setUp(onKey) {
  const dialog = $("key-dialog");
  $("key-open").addEventListener("click", () => open());
  $("key-cancel").addEventListener("click", () => dialog.close());
  $("key-forget").addEventListener("click", () => {
    forget();
    dialog.close();
    onKey("");
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    keep($("key").value.trim(), $("key-remember").checked);
    dialog.close();
    onKey(current());
  });
}

// why: the service's sentence, if it refused a request.
export function open(why = "") {
  $("key-open").hidden = false;
  if (why) $("key-why").textContent = why;
  if ($("key-dialog").open) return; // what is typed already stays
  $("key").value = current();
  $("key-remember").checked = read(() => localStorage.getItem(NAME)) !== null;
  $("key-forget").hidden = !current();
  $("key-dialog").showModal();
}

function keep(key, isRemembered) {
  forget();
  read(() => (isRemembered ? localStorage : sessionStorage).setItem(NAME, key));
}

function forget() {
  read(() => sessionStorage.removeItem(NAME));
  read(() => localStorage.removeItem(NAME));
}

// Browsers throw here if the user forbids storage. The page works without it.
function read(access) {
  try {
    return access();
  } catch {
    return null;
  }
}
