// The page of an instance: its head stays up to date, and what it prints is followed live.
//
//   connect: the last TAIL lines, then more as they come ──▶ pending ──▶ drawn once a frame
//        ▲                 │ cut, the agent or the server went away: again, after a pause that grows
//        └── waiting ◀─────┘ ended, failed: that was all
//
// The lines have no numbers: after a cut the new tail, which comes in several frames, is gathered and then laid against what is
// here (same time, stream and text, for as long as there are lines to compare), so that none is shown twice; where nothing fits, a
// remark says that some may be missing. Limits: KEPT lines in the page, PENDING that wait, TAIL lines or QUIET ms of gathering.

import { isSignedOut, onEvents, refresh, signedOut } from './common.js';
import { parse } from './ansi.js';

const TAIL = 1000;
const KEPT = 5000;
const PENDING = 5000;
const SHOWN = 4000; // characters of a line
const QUIET = 1000; // ms without a frame after which a tail counts as whole
const RECENT = 50; // of the newest lines, to lay a tail against

const $ = (id) => document.getElementById(id);
const pane = $('log');
const list = $('lines');
const { id, service, sandbox } = pane.dataset;

let follow = true;
let times = false;
let state = 'connecting'; // connecting, live, waiting, ended, failed
let detail = '';
let recent = []; // the newest lines, to lay a new tail against
let pending = [];
let drawing = 0;
let behind = 0; // lines that came while somebody reads further up
let total = 0;
let failures = 0;
let retry = 0;
let stream = null;

// ── lines ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

const make = (tag, cls, text) => {
  const element = document.createElement(tag);
  if (cls) element.className = cls;
  if (text !== undefined) element.textContent = text;
  return element;
};

function row(line) {
  if (line.remark) {
    const remark = make('div', 'l sdp');
    remark.append(make('span', 'x', line.remark));
    return remark;
  }
  const out = make('div', line.stream === 'stdout' ? 'l' : 'l err');
  const at = new Date(line.at);
  const two = (n, width = 2) => String(n).padStart(width, '0');
  const time = make('time', 't', `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${two(at.getMilliseconds(), 3)}`);
  time.title = at.toLocaleString();
  const text = make('span', 'x');
  let left = SHOWN;
  for (const piece of parse(line.text)) {
    if (left <= 0) break;
    const shown = piece.text.slice(0, left);
    left -= shown.length;
    text.append(piece.cls ? make('span', piece.cls, shown) : shown);
  }
  if (left <= 0) text.append(make('span', 'di', ' … (the download has the rest)'));
  out.append(time, text);
  return out;
}

function draw() {
  drawing = 0;
  if (pending.length === 0) return;
  const fresh = pending;
  pending = [];
  const fragment = document.createDocumentFragment();
  for (const line of fresh) fragment.append(row(line));
  list.append(fragment);
  const before = pane.scrollHeight;
  while (list.childElementCount > KEPT) list.firstElementChild.remove();
  if (follow) pane.scrollTop = pane.scrollHeight;
  else {
    pane.scrollTop -= before - pane.scrollHeight;
    behind += fresh.length;
  }
  lastTop = pane.scrollTop;
  show();
}

function add(lines) {
  for (const line of lines) pending.push(line);
  if (pending.length > PENDING) {
    const gone = pending.splice(0, pending.length - PENDING);
    pending.unshift({ remark: `${gone.length.toLocaleString('en')} lines left out: they came faster than they can be shown` });
  }
  drawing ||= requestAnimationFrame(draw);
}

const same = (a, b) => a.at === b.at && a.text === b.text && a.stream === b.stream;

/** How many lines of a new tail are here already; 0: nothing fits. */
function overlap(lines) {
  for (let end = lines.length; end > 0; end -= 1) {
    let n = 0;
    while (n < recent.length && n < end && same(lines[end - 1 - n], recent[recent.length - 1 - n])) n += 1;
    // All that can be compared fits: lines that are alike are told apart by those before them.
    if (n === recent.length || n === end) return end;
  }
  return 0;
}

/** The tail after a cut, as far as it has come; null: there is none to wait for. */
let tail = null;
let quiet = 0;

function gather(frame) {
  clearTimeout(quiet);
  tail.lines.push(...frame.lines);
  tail.leftOut += frame.left_out;
  if (tail.lines.length >= TAIL || overlap(tail.lines) > 0) join();
  else quiet = setTimeout(join, QUIET);
}

/** Adds what of the tail is not here yet. */
function join() {
  clearTimeout(quiet);
  if (tail === null) return;
  const { lines, leftOut } = tail;
  tail = null;
  const known = overlap(lines);
  if (known === 0 && lines.length > 0) add([{ remark: 'the connection was cut; some lines may be missing here' }]);
  append(lines.slice(known), leftOut);
  show();
}

function take(frame) {
  if (tail !== null) gather(frame);
  else append(frame.lines, frame.left_out);
}

function append(fresh, leftOut) {
  if (leftOut > 0) add([{ remark: `${leftOut.toLocaleString('en')} lines left out: they came faster than they could be sent` }]);
  if (fresh.length === 0) return;
  recent = recent.concat(fresh.slice(-RECENT)).slice(-RECENT);
  total += fresh.length;
  add(fresh);
}

// ── the connection ──────────────────────────────────────────────────────────────────────────────────────────────────────

async function connect() {
  clearTimeout(retry);
  if (stream || isSignedOut() || document.hidden || state === 'ended' || state === 'failed') return;
  const mine = new AbortController();
  stream = mine;
  clearTimeout(quiet);
  tail = recent.length > 0 ? { lines: [], leftOut: 0 } : null;
  let end = null;
  try {
    const options = { signal: mine.signal, credentials: 'same-origin', cache: 'no-store' };
    const response = await fetch(`/api/v1/instances/${id}/output?follow=true&lines=${TAIL}`, options);
    if (response.status === 401) signedOut();
    if (!response.ok) {
      const problem = await response.json().catch(() => ({}));
      detail = problem.title ?? '';
      if (response.status === 404) end = { reason: 'failed', detail };
    } else {
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = '';
      for (let piece = await reader.read(); !piece.done && !end; piece = await reader.read()) {
        const messages = (rest + piece.value).split('\n\n');
        rest = messages.pop();
        for (const message of messages) {
          const kind = /^event: ?(.*)$/m.exec(message)?.[1];
          const data = message.match(/^data: ?(.*)$/m)?.[1];
          if (kind === 'lines') {
            failures = 0;
            state = 'live';
            take(JSON.parse(data));
          } else if (kind === 'end') end = JSON.parse(data);
        }
        show();
      }
    }
  } catch {
    // Cut, or closed by us.
  }
  if (stream !== mine) return;
  if (end) join();
  // Half a tail cannot be laid against what is here; the next one has it, too.
  clearTimeout(quiet);
  tail = null;
  stream = null;
  mine.abort();
  if (end && (end.reason === 'ended' || end.reason === 'failed')) {
    state = end.reason;
    detail = end.detail ?? '';
    refresh();
  } else {
    state = 'waiting';
    failures += 1;
    retry = setTimeout(connect, Math.min(15_000, 250 * 2 ** failures) * (0.5 + Math.random() / 2));
  }
  show();
}

function close() {
  clearTimeout(retry);
  clearTimeout(quiet);
  tail = null;
  stream?.abort();
  stream = null;
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) close();
  else connect();
});
document.addEventListener('sdp:signed-out', close);
addEventListener('pagehide', close);
addEventListener('pageshow', connect);
addEventListener('online', connect);

// ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────────────

const WORDS = {
  connecting: ['wait', 'Connecting …'],
  live: ['ok', 'Live'],
  waiting: ['wait', 'Reconnecting …'],
  ended: ['', 'It has ended'],
  failed: ['bad', 'Not to be had'],
};

function show() {
  const [cls, words] = isSignedOut() ? ['bad', 'Signed out'] : WORDS[state];
  const link = $('link');
  link.className = `link ${cls}`;
  const text = state !== 'live' && detail ? `${words}: ${detail}` : words;
  if (link.textContent !== text) link.textContent = text;
  $('count').textContent = total > 0 ? `${total.toLocaleString('en')} ${total === 1 ? 'line' : 'lines'}` : '';
  const none = total === 0 && state !== 'connecting';
  $('empty').hidden = !none;
  if (none) $('empty').textContent = state === 'live' ? 'It has printed nothing yet.' : 'There is nothing to show.';
  $('follow').setAttribute('aria-pressed', follow);
  $('jump').hidden = follow || total === 0;
  $('jump').textContent = behind > 0 ? `↓ ${behind.toLocaleString('en')} new` : '↓ Newest';
}

let lastTop = 0;
pane.addEventListener('scroll', () => {
  const atEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 4;
  if (atEnd) setFollow(true);
  else if (pane.scrollTop < lastTop) setFollow(false);
  lastTop = pane.scrollTop;
});

function setFollow(on) {
  if (follow === on) return;
  follow = on;
  behind = 0;
  if (on) pane.scrollTop = pane.scrollHeight;
  show();
}

$('follow').addEventListener('click', () => setFollow(!follow));
$('jump').addEventListener('click', () => setFollow(true));
$('wrap').addEventListener('click', ({ currentTarget }) => {
  const wrap = pane.classList.toggle('nowrap');
  currentTarget.setAttribute('aria-pressed', !wrap);
});
$('times').addEventListener('click', ({ currentTarget }) => {
  times = !times;
  pane.classList.toggle('no-times', !times);
  currentTarget.setAttribute('aria-pressed', times);
});

onEvents({ after: document.documentElement.dataset.event, service, sandbox }, refresh);
show();
connect();
