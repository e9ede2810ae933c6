// The page: keeps the photos in their order, and connects the ways in, the view, the panel and the ways out.

import { describeModels } from "./api.js";
import { setUp as setUpIntake } from "./intake.js";
import * as key from "./key.js";
import { Panel } from "./panel.js";
import { Photo } from "./photo.js";
import { copy, download } from "./save.js";
import { Strip } from "./strip.js";
import { setUp as setUpTheme } from "./theme.js";
import { View } from "./view.js";
import { bytesText, explain, stateText } from "./words.js";

const RETRY_SECONDS = 5; // until the service is asked again what it is
const $ = (id) => document.getElementById(id);

const photos = [];
let selected = null;
let models = null; // what the service says about itself; null until it has answered
let isComparing = false;
let saving = null; // the AbortController of the saving that runs

const view = new View();
const strip = new Strip({ onSelect: select, onRemove: (photo) => (photo.isBusy ? photo.cancel() : remove(photo)) });
const panel = new Panel({
  cancel: (photo) => photo.cancel(),
  again,
  remove,
  enterKey: () => key.open(),
  strengthChanged: () => view.updateStrength(),
  useStrengthForAll({ strength }) {
    for (const photo of photos) photo.strength = strength;
    announce(`All photos have strength ${strength.toFixed(2)}.`);
  },
  download: (photo) => save("Downloaded", [photo], download),
  copy: (photo) => save("Copied", [photo], copy),
  saveAll: () => save("Downloaded", photos.filter((photo) => photo.isDone), download),
});

function addPhotos(files) {
  const added = files.map((file) => new Photo(file, { maxBytes: () => models?.max_bytes ?? Infinity }));
  const isFirst = photos.length === 0;
  for (const photo of added) {
    photos.push(photo);
    strip.add(photo);
    photo.addEventListener("change", () => onChange(photo));
  }
  showPhotos();
  select(added[0]);
  if (isFirst) $("name").focus({ preventScroll: true });
  announce(files.length === 1 ? `${files[0].name} is added.` : `${files.length} photos are added.`);
  const lacksKey = models?.needs_key && !key.current();
  for (const photo of added) {
    if (lacksKey) photo.refuse("unauthorized");
    else photo.start();
  }
}

function onChange(photo) {
  if (!photos.includes(photo)) return; // removed
  strip.update(photo);
  const hasEnded = photo.state.kind !== photo.lastKind && !photo.isBusy;
  photo.lastKind = photo.state.kind;
  if (hasEnded) announceEnd(photo);
  if (photo.state.kind === "failed" && photo.error.reason === "unauthorized") askForKey(photo.error);
  if (photo === selected) show();
  else panel.show(selected, counts());
  if (isComparing && photo === selected && photo.state.kind === "done") photo.startChallenger();
}

function announceEnd(photo) {
  const what = photo.error && photo.state.kind === "failed" ? `${explain(photo.error).title}.` : `${stateText(photo.state)}.`;
  announce(`${photo.file.name}: ${what}`);
}

function select(photo) {
  if (photo !== selected && !saving) $("saving").textContent = "";
  selected = photo;
  strip.select(photo);
  show();
  if (isComparing && photo.isDone) photo.startChallenger();
}

function show() {
  view.show(selected, { isComparing });
  panel.show(selected, counts());
  const { isBusy, isDone, beforeUrl, state } = selected;
  $("veil").hidden = isDone || (Boolean(beforeUrl) && !isBusy);
  $("stage").classList.toggle("pictured", Boolean(beforeUrl));
  $("veil").textContent = isBusy ? stateText(state) : "There is no picture of this file.";
}

function counts() {
  return { numPhotos: photos.length, numDone: photos.filter((photo) => photo.isDone).length };
}

function again(photo) {
  if (photo.isDone) photo.startChallenger({ isWanted: true });
  else photo.start();
  $("name").focus({ preventScroll: true });
}

function remove(photo) {
  const index = photos.indexOf(photo);
  photos.splice(index, 1);
  strip.remove(photo);
  photo.close();
  announce(`${photo.file.name} is removed.`);
  const next = photos[Math.min(index, photos.length - 1)];
  showPhotos();
  if (!next) {
    selected = null;
    $("choose").focus();
    return;
  }
  select(photo === selected ? next : selected);
  strip.focus(next);
}

function showPhotos() {
  const hasPhotos = photos.length > 0;
  document.body.classList.toggle("working", hasPhotos);
  $("empty").hidden = hasPhotos;
  $("work").hidden = !hasPhotos;
  $("add").hidden = $("camera-too").hidden = !hasPhotos;
}

// Save the photos one after the other. way: `download` or `copy`.
async function save(done, chosen, way) {
  if (saving) return;
  saving = new AbortController();
  const { signal } = saving;
  $("saving").textContent = "Preparing";
  $("saving-cancel").hidden = false;
  try {
    for (const [index, photo] of chosen.entries()) {
      const which = chosen.length > 1 ? `Photo ${index + 1} of ${chosen.length}. ` : "";
      await way(photo, { signal, onState: (state) => ($("saving").textContent = which + stateText(state)) });
    }
    $("saving").textContent = chosen.length > 1 ? `${done} ${chosen.length} photos.` : `${done}.`;
  } catch (error) {
    $("saving").textContent = signal.aborted ? "Cancelled." : sentences(error);
    if (error.reason === "unauthorized") askForKey(error);
  } finally {
    saving = null;
    $("saving-cancel").hidden = true;
  }
}

function sentences(error) {
  const { title, remedy } = explain(error);
  return `${title}. ${remedy} ${error.detail ?? ""}`;
}

function askForKey({ detail }) {
  key.open(detail ? `The service says: ${detail}` : "");
}

function onKey(text) {
  announce(text ? "The key is kept." : "The key is forgotten.");
  if (!text) return;
  for (const photo of photos) if (photo.error?.reason === "unauthorized") again(photo);
}

function announce(text) {
  $("status").textContent = text;
}

async function showModels() {
  try {
    models = await describeModels();
  } catch (error) {
    $("model").textContent = sentences(error);
    setTimeout(showModels, 1000 * (error.retrySeconds ?? RETRY_SECONDS));
    return;
  }
  const { version, challenger, refused } = models;
  const parts = [`Model ${version}`];
  if (challenger) parts.push(`challenger ${challenger.version}`);
  if (refused) parts.push(`refused ${refused.version}: ${refused.detail}`);
  $("model").textContent = parts.join(" · ");
  $("limits").textContent = `You can also paste a photo. Up to ${bytesText(models.max_bytes)} and ${models.max_megapixels} megapixels.`;
  $("key-open").hidden = !models.needs_key && !key.current();
  $("compare-field").hidden = !challenger;
}

document.body.classList.toggle("has-touch", navigator.maxTouchPoints > 0);
setUpTheme($("theme"));
setUpIntake(addPhotos);
key.setUp(onKey);
$("saving-cancel").addEventListener("click", () => saving?.abort());
$("compare").addEventListener("change", () => {
  isComparing = $("compare").checked;
  if (isComparing && selected?.isDone) selected.startChallenger({ isWanted: true });
  select(selected);
});
showPhotos();
showModels();
