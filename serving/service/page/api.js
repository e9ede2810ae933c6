// The HTTP API: asks for the models, and sends a photo. Errors of the service and of the network look alike to the page.

// reason: the service's word for the error, or a word of the page. detail: the service's sentence.
export class ApiError extends Error {
  constructor({ reason, detail = "", status = 0, retrySeconds = null, requestId = "" }) {
    super(detail || reason);
    Object.assign(this, { reason, detail, status, retrySeconds, requestId });
  }
}

export async function describeModels() {
  const response = await fetch("v1/model", { cache: "no-store" }).catch(() => null);
  if (!response) throw new ApiError({ reason: "unreachable" });
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const retrySeconds = Number.parseFloat(response.headers.get("Retry-After")) || null;
  throw new ApiError({ reason: answer?.error ?? "unexpected", detail: answer?.detail, status: response.status, retrySeconds });
}

// Resolves to the enhanced photo and who made it. `fetch` cannot report the progress of an upload, so this uses
// XMLHttpRequest. onSent: called with the part that is sent, 0 to 1.
export function enhance(file, { query, key, signal, onSent }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    const parameters = new URLSearchParams(query).toString();
    request.open("POST", parameters ? `v1/enhance?${parameters}` : "v1/enhance");
    request.responseType = "blob";
    request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    request.upload.onload = () => onSent(1);
    request.onload = async () => {
      if (request.status !== 200) return reject(await errorOf(request));
      resolve({
        blob: request.response,
        version: request.getResponseHeader("X-Model-Version") ?? "",
        timing: parseTiming(request.getResponseHeader("Server-Timing") ?? ""),
        requestId: request.getResponseHeader("X-Request-Id") ?? "",
      });
    };
    request.onerror = () => reject(new ApiError({ reason: "unreachable" }));
    request.onabort = () => reject(signal.reason ?? new DOMException("cancelled", "AbortError"));
    request.onloadend = () => signal.removeEventListener("abort", abort);
    signal.addEventListener("abort", abort);
    request.send(file);
  });
}

async function errorOf(request) {
  const retry = Number.parseFloat(request.getResponseHeader("Retry-After"));
  const known = {
    status: request.status,
    retrySeconds: Number.isFinite(retry) ? retry : null,
    requestId: request.getResponseHeader("X-Request-Id") ?? "",
  };
  try {
    const answer = JSON.parse(await request.response.text());
    return new ApiError({ reason: answer.error, detail: answer.detail, ...known });
  } catch {
    return new ApiError({ reason: "unexpected", detail: `The answer has the status ${request.status}.`, ...known });
  }
}

// "wait;dur=1.5, total;dur=40" becomes [["wait", 1.5], ["total", 40]].
export function parseTiming(header) {
  return [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, duration]) => [name, Number(duration)]);
}
