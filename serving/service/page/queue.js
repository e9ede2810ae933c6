// Lets at most two requests run at once, and sends a request again when the service is full.

const MOST_AT_ONCE = 2;
const MOST_TRIES = 6;
const MOST_SECONDS = 60;
const FULL = [429, 503];

let running = 0;
const waiting = [];

// work: makes the request. onState: told "queued", and "waiting" with the seconds. isUrgent: goes before the others.
export async function inTurn(work, { signal, onState, isUrgent = false }) {
  onState({ kind: "queued" });
  await turn(signal, isUrgent);
  try {
    for (let tries = 1; ; tries++) {
      try {
        return await work();
      } catch (error) {
        if (!FULL.includes(error.status) || tries === MOST_TRIES) throw error;
        const seconds = Math.min(error.retrySeconds ?? 2 ** tries, MOST_SECONDS);
        onState({ kind: "waiting", seconds, reason: error.reason });
        await pause(1000 * seconds, signal);
      }
    }
  } finally {
    // A request that waits keeps its place: the next one would only meet the same full service.
    running--;
    startNext();
  }
}

function turn(signal, isUrgent) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const entry = {
      start() {
        signal.removeEventListener("abort", entry.leave);
        resolve();
      },
      leave() {
        waiting.splice(waiting.indexOf(entry), 1);
        reject(signal.reason);
      },
    };
    signal.addEventListener("abort", entry.leave, { once: true });
    if (isUrgent) waiting.unshift(entry);
    else waiting.push(entry);
    startNext();
  });
}

function startNext() {
  while (running < MOST_AT_ONCE && waiting.length) {
    running++;
    waiting.shift().start();
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}
