// What the page says: a headline and a remedy for each reason of an error, states, sizes and times in plain words.

const REASONS = {
  already_enhanced: ["This photo is enhanced already", "Use the original photo."],
  animated: ["This file moves", "Send a single photo without further frames or pages."],
  graphic: ["This is a drawing or a screenshot", "Send a photo."],
  hdr_gain_map: ["This is an HDR photo", "An AVIF or another format would lose its HDR. Send a JPEG or HEIC, and keep its own format."],
  hdr_still: ["This photo is made for HDR screens", "Export it as a standard photo (SDR), then send that one."],
  motion_video: ["This is a motion photo", "Another format would lose its video; keep its own format."],
  other_pictures: ["This file holds more than one picture", "An AVIF or another format would lose them. Send a JPEG or HEIC, and keep its own format."],
  raw: ["This is a RAW file", "Develop it first, and send the JPEG or TIFF."],
  too_small: ["This photo is too small", "Send a photo with sides of at least 16 pixels."],
  unsupported_depth: ["This bit depth is not supported", "Export the photo with 8 or 16 bits a channel."],
  unsupported_format: ["This format is not supported", "Export the photo as JPEG, PNG, WebP, AVIF or TIFF."],
  unsupported_mode: ["This pixel layout is not supported", "Flatten the photo and convert it to RGB."],
  not_a_photo: ["This is not a photo", "Choose another file."],
  bad_profile: ["The colour profile is damaged", "Export the photo again, with the sRGB profile."],
  not_an_image: ["This is not a photo", "Choose another file."],
  too_large: ["This photo is too large", "Make it smaller, then try again."],
  too_many_bytes: ["This file is too large", "Save it with more compression, or make it smaller."],
  truncated: ["This photo is damaged", "It may be cut short. Copy it again from the camera or its backup."],
  unwritable: ["The metadata are full", "Remove some metadata from the photo, then try again."],
  crashes: ["This photo breaks the service", "Please report it."],
  disk_full: ["The service has no space left", "Tell its owner, or try again later."],
  internal: ["Something broke in the service", "This is a bug. Please report it with the request id."],
  bad_parameter: ["The service does not know this request", "Reload the page, then try again."],
  method_not_allowed: ["The service does not know this request", "Reload the page, then try again."],
  not_found: ["The service is not at this address", "Check the address of the page."],
  no_model: ["The service has no model yet", "Wait a moment, then try again."],
  overloaded: ["The service is busy", "Wait a moment, then try again."],
  rate_limited: ["Too many photos in a minute", "Wait a minute, then try again."],
  timed_out: ["This took too long", "Try again, perhaps on a faster connection."],
  unauthorized: ["The service asks for a key", "Enter a valid API key. The photo is then sent again."],
  worker_lost: ["The service lost this photo", "Try again."],
  unreachable: ["The service does not answer", "Check your connection, then try again."],
  unexpected: ["The answer makes no sense", "Something between you and the service may be broken. Try again."],
  no_clipboard: ["The browser did not copy the photo", "Download it instead."],
  page_bug: ["Something broke in this page", "Reload the page. If it happens again, please report it."],
};

export function explain(error) {
  const [title, remedy] = REASONS[error.reason] ?? ["The photo was refused", "Try again, or choose another photo."];
  return { title, remedy };
}

// One line for a photo's state.
export function stateText(state) {
  switch (state.kind) {
    case "queued":
      return "Waits for its turn";
    case "sending":
      return `Sending ${Math.floor(100 * state.part)} %`;
    case "enhancing":
      return "Enhancing";
    case "waiting":
      return `The service is busy. Next try in ${Math.ceil(state.seconds)} s`;
    case "done":
      return "Enhanced";
    case "cancelled":
      return "Cancelled";
    default:
      return "Failed";
  }
}

export function bytesText(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

export function timeText(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

const STAGES = {
  wait: "Waiting",
  decode: "Reading the photo",
  network: "Network",
  apply: "Applying",
  encode: "Writing the photo",
};

export function stageText(name) {
  return STAGES[name] ?? name;
}
