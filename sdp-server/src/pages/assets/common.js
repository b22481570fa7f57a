// What both pages do: ask the API, show its problems in words, run the buttons, let times tick, bring parts of the page up to
// date. The server renders; this takes its newest rendering and changes only what differs, so focus and selection stay.

const root = document.documentElement;
const skew = Number(root.dataset.now) - Date.now();

/** The server's time, as well as this page knows it. */
export const now = () => Date.now() + skew;

/** A refusal of the API, or a network that does not answer. */
export class Problem extends Error {
  constructor({ status = 0, code = 'network', title, detail, hint, did_you_mean: meant }) {
    super(title);
    Object.assign(this, { status, code, detail, hint, meant });
  }

  /** Everything worth saying, as sentences. */
  words() {
    const sentences = [this.message];
    // Where a field of a form is wrong, the place in the body is no news to people.
    const field = /^[a-z_.]+: (.+)$/s.exec(this.detail ?? '');
    if (field && this.code.startsWith('invalid_')) sentences[0] = field[1];
    else if (this.detail && this.detail !== this.message) sentences.push(this.detail);
    if (this.meant) sentences.push(`Did you mean ${this.meant}?`);
    else if (this.hint) sentences.push(field && this.code.startsWith('invalid_') ? `Expected: ${this.hint}` : this.hint);
    return sentences.map((s) => s.charAt(0).toUpperCase() + s.slice(1).replace(/([^.?!…:])$/, '$1.')).join(' ');
  }
}

/** A request to this server; a JSON answer, or a Problem is thrown. */
export async function api(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: 'same-origin', cache: 'no-store', redirect: 'error', ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem({ title: 'The server does not answer', hint: 'Check the connection, then try again' });
  }
  if (response.status === 401) signedOut();
  const type = response.headers.get('content-type') ?? '';
  const body = type.includes('json') ? await response.json().catch(() => null) : null;
  if (response.ok) return body;
  const title = response.status === 401 ? 'You are not signed in any more' : `The server answered ${response.status}`;
  throw new Problem({ title, ...body, status: response.status });
}

let out = false;

/** Says once, and lastingly, that the session is over. */
export function signedOut() {
  if (out) return;
  out = true;
  const banner = document.getElementById('signed-out');
  if (banner) banner.hidden = false;
  root.classList.add('is-signed-out');
  document.dispatchEvent(new Event('sdp:signed-out'));
}

export const isSignedOut = () => out;

// ── a word in passing ───────────────────────────────────────────────────────────────────────────────────────────────────

let leaving = 0;

/** Shows a message until the next one; one that is no problem goes by itself. */
export function say(text, { bad = false, href, label } = {}) {
  const place = document.getElementById('said');
  clearTimeout(leaving);
  const line = document.createElement('p');
  line.className = bad ? 'said bad' : 'said';
  line.append(text);
  if (href) {
    const link = document.createElement('a');
    link.href = href;
    link.textContent = label;
    line.append(' ', link);
  }
  const close = document.createElement('button');
  close.type = 'button';
  close.className = 'quiet';
  close.setAttribute('aria-label', 'Dismiss');
  close.textContent = '×';
  close.addEventListener('click', () => place.replaceChildren());
  line.append(close);
  place.replaceChildren(line);
  if (!bad) leaving = setTimeout(() => place.replaceChildren(), 8000);
}

// ── times ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The same rule as `duration` in words.rs. */
export function duration(ms) {
  const tenths = Math.max(0, Math.floor(ms / 100));
  const s = Math.floor(tenths / 10);
  const two = (n) => String(n).padStart(2, '0');
  if (s < 10) return `${s}.${tenths % 10} s`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
}

/** The same rule as `ago` in words.rs. */
export function ago(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 10) return 'just now';
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} days ago`;
}

/** The same rule as `until` in words.rs. */
export function until(ms) {
  const s = Math.floor(ms / 1000);
  if (s <= 0) return 'now';
  if (s < 60) return 'in less than a minute';
  if (s < 3600) return `in ${Math.floor(s / 60)} min`;
  if (s < 172800) return `in ${Math.floor(s / 3600)} h`;
  return `in ${Math.floor(s / 86400)} days`;
}

function told(how, passed) {
  if (how === 'ago') return ago(passed);
  if (how === 'in') return until(-passed);
  // Whole seconds while it runs: tenths would flicker.
  return duration(Math.floor(passed / 1000) * 1000).replace('.0', '');
}

function tick() {
  const at = now();
  for (const element of document.querySelectorAll('time[data-tick]')) {
    const text = told(element.dataset.tick, at - Date.parse(element.dateTime));
    if (element.textContent !== text) element.textContent = text;
    element.title ||= new Date(element.dateTime).toLocaleString();
  }
}

// ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

let refreshing = null;
let again = false;

/** Brings the parts of this page up to date; calls while one is under way become one more. */
export function refresh() {
  if (refreshing) {
    again = true;
    return refreshing;
  }
  refreshing = (async () => {
    do {
      again = false;
      await refreshOnce();
    } while (again && !out);
  })().finally(() => {
    refreshing = null;
  });
  return refreshing;
}

async function refreshOnce() {
  const url = location.pathname + location.search;
  const response = await fetch(url, { credentials: 'same-origin', cache: 'no-store' }).catch(() => null);
  if (!response) return;
  if (response.status === 401 || (response.redirected && new URL(response.url).pathname.startsWith('/sign-in'))) {
    signedOut();
    return;
  }
  if (response.status === 404) document.dispatchEvent(new Event('sdp:gone'));
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), 'text/html');
  for (const part of fresh.querySelectorAll('[data-part]')) {
    const present = document.getElementById(part.id);
    if (present) morph(present, part);
  }
  if (fresh.title) document.title = fresh.title;
  tick();
  document.dispatchEvent(new Event('sdp:refreshed'));
}

/** Makes one element like another, changing as little as it can. */
function morph(old, fresh) {
  if (old.hasAttribute('data-armed') || old.hasAttribute('aria-busy')) return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== 'open') old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const named = new Map();
  for (const child of old.children) if (child.id) named.set(child.id, child);
  let place = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    let match = next.id ? named.get(next.id) : undefined;
    if (!match && place && !place.id && !next.id && place.nodeName === next.nodeName) match = place;
    if (!match) {
      old.insertBefore(document.importNode(next, true), place);
      continue;
    }
    if (match === place) place = place.nextSibling;
    else old.insertBefore(match, place);
    if (match.nodeType === Node.ELEMENT_NODE) morph(match, next);
    else if (match.nodeValue !== next.nodeValue) match.nodeValue = next.nodeValue;
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

// ── what happens elsewhere ──────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Calls back when something happened that passes the query, shortly after it did. Closed while the page is not seen: a browser
 * has few connections to one server, and a hidden page needs none. What exactly happened is not read: the page is rendered
 * anew by the server, whatever kinds of events there will be.
 */
export function onEvents({ after, ...filter }, callback) {
  let stream = null;
  let timer = 0;
  let retry = 0;
  let failures = 0;
  let from = after;
  const soon = () => {
    timer ||= setTimeout(() => {
      timer = 0;
      callback();
    }, 120);
  };
  const close = () => {
    clearTimeout(retry);
    stream?.abort();
    stream = null;
  };
  const open = async () => {
    if (stream || out || document.hidden) return;
    const mine = new AbortController();
    stream = mine;
    try {
      const query = new URLSearchParams(from === undefined ? filter : { ...filter, after: from });
      const response = await fetch(`/api/v1/events?${query}`, { signal: mine.signal, credentials: 'same-origin', cache: 'no-store' });
      if (response.status === 401) signedOut();
      if (response.ok) {
        // The first stream begins where the page ends; a later one begins now, and the page is fetched anew.
        if (from === undefined) soon();
        failures = 0;
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
          if (/^data:/m.test(piece.value)) soon();
        }
      }
    } catch {
      // The connection was cut, or closed by us.
    }
    from = undefined;
    if (stream !== mine) return;
    stream = null;
    failures += 1;
    retry = setTimeout(open, Math.min(30_000, 500 * 2 ** failures) * (0.5 + Math.random() / 2));
  };
  document.addEventListener('visibilitychange', () => (document.hidden ? close() : open()));
  document.addEventListener('sdp:signed-out', close);
  addEventListener('pagehide', close);
  addEventListener('pageshow', open);
  open();
}

// ── buttons ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

function disarm(button) {
  if (!button.hasAttribute('data-armed')) return;
  button.removeAttribute('data-armed');
  button.textContent = button.dataset.label;
}

async function press(button) {
  button.setAttribute('aria-busy', 'true');
  button.disabled = true;
  let stays = true;
  try {
    const { post, put } = button.dataset;
    const options = { method: post ? 'POST' : put ? 'PUT' : 'DELETE', headers: {} };
    if (button.dataset.body) {
      options.headers['content-type'] = 'application/json';
      options.body = button.dataset.body;
    }
    const answer = await api(post ?? put ?? button.dataset.delete, options);
    if (button.dataset.then) {
      stays = false;
      location.assign(button.dataset.then);
      return;
    }
    if (answer?.log_url && button.dataset.go) {
      location.assign(pathOf(answer.log_url));
      return;
    }
    if (answer?.log_url) {
      say(`Deployment #${answer.number} is on its way.`, { href: pathOf(answer.log_url), label: 'Open its log' });
    } else if (button.dataset.done) say(button.dataset.done);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (!out) say(problem.words(), { bad: true });
  } finally {
    button.removeAttribute('aria-busy');
    button.disabled = false;
    if (stays) refresh();
  }
}

/** The path of a page of this server; the host by which it was opened stays. */
export function pathOf(url) {
  const { pathname, hash } = new URL(url, location.origin);
  return pathname + hash;
}

document.addEventListener('click', (event) => {
  const button = event.target.closest?.('button[data-post], button[data-put], button[data-delete]');
  if (!button || button.disabled) return;
  // What takes something away asks once more, in place.
  if (button.dataset.arm && !button.hasAttribute('data-armed')) {
    button.dataset.label = button.textContent;
    button.setAttribute('data-armed', '');
    button.textContent = button.dataset.arm;
    setTimeout(disarm, 5000, button);
    return;
  }
  disarm(button);
  press(button);
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') document.querySelectorAll('[data-armed]').forEach(disarm);
});

setInterval(tick, 1000);
tick();
