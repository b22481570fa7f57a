// The log page: which lines are loaded, where one looks, and the live connection.
//
//   open ──▶ window (newest lines, or those around #L120) by REST ──▶ WebSocket from the line after the newest known one
//                 ▲ scroll up: the 500 lines before; scroll down: the 500 after
//
// The steps are sections that fold (sections.js); lines of folded ones are neither loaded nor drawn. Searching is search.js.
// Two positions: the stretch of lines in the page (`lines.first..last`), and `next`, the first line that the socket has not
// brought yet. While the stretch reaches `next` it is `attached` and grows live; while somebody reads further up it is not, and
// what the socket brings is only counted. Lines are known by number, so none is shown twice and none is left out.

import { Problem, duration, isSignedOut, now, onEvents, refresh, say } from './common.js';
import { LineList, MAX } from './lines.js';
import { Live } from './live.js';
import { Search } from './search.js';
import { Sections } from './sections.js';
import { Source, TEXT, newest, weight } from './source.js';
import { tools } from './tools.js';

const WINDOW = 500;
const EDGE = 1500; // px from an edge at which more is loaded
const FOLLOWED = 1500; // lines kept in the page while following
const PENDING = 4000; // lines that may wait to be drawn

const $ = (id) => document.getElementById(id);
const pane = $('log');
const { id, requested } = pane.dataset;
const lines = new LineList($('lines'), Date.parse(requested), { toggled });
const sections = new Sections();
const path = `/api/v1/deployments/${id}`;

let total = Number(pane.dataset.lines);
let next = total + 1;
let event = Number(pane.dataset.event);
let attempt = Number(pane.dataset.attempt);
let ended = pane.dataset.ended === 'true';
let finished = false; // everything was sent, no more will come
let attached = false;
let follow = true;
let seen = 0; // the newest line that was in view while following
let range = null;
let generation = 0; // counts changes of the window: an answer for an older one is thrown away
let pending = [];
let waiting = 0; // the characters of its lines, at least
let drawing = 0;
let drawn = 0; // when lines were drawn last, and how long that took
let cost = 0;

// ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

const source = new Source(path, sections, {
  get total() {
    return total;
  },
  set total(count) {
    total = count;
  },
});

/** Changes rows while what is in view stays where it is. */
function steady(change) {
  const anchor = lines.below(pane.getBoundingClientRect().top)?.row;
  const before = anchor?.getBoundingClientRect().top ?? 0;
  change();
  if (anchor?.isConnected) pane.scrollTop += anchor.getBoundingClientRect().top - before;
  lastTop = pane.scrollTop;
}

function reattach() {
  attached = lines.last >= next - 1;
  if (attached) {
    pending = pending.filter((line) => line.n > lines.last);
    draw();
  }
  show();
}

async function toNewest() {
  const mine = ++generation;
  follow = true;
  setRange(null);
  if (!attached) {
    try {
      const { version } = sections;
      let found = await source.above(total, WINDOW);
      // The first answer may have said that there are more than the page knew of.
      if (found.last < total) found = await source.above(total, WINDOW);
      if (mine !== generation) return;
      if (version !== sections.version) return await toNewest();
      reset(found);
      for (let tries = 0; !attached && tries < 20; tries += 1) {
        const more = await source.below(lines.last + 1, WINDOW, next - 1);
        if (mine !== generation) return;
        if (version !== sections.version) return await toNewest();
        lines.append(more.lines, more.last);
        reattach();
      }
    } catch (problem) {
      failed(problem, toNewest);
    }
  }
  toBottom();
  show();
}

function reset(found) {
  lines.total(total);
  lines.reset(found.lines, found.first, found.last);
  reattach();
}

/** Shows these lines, unfolded, and marks them; with `marked` false what was marked stays so. */
async function toLine(first, last = first, marked = true) {
  const mine = ++generation;
  follow = false;
  if (marked) setRange([first, last]);
  const revealed = sections.reveal(first, last);
  if (revealed || !lines.row(first)) {
    try {
      const { version } = sections;
      const before = await source.above(first - 1, WINDOW / 2);
      // A long range is marked as a whole, but not loaded as a whole.
      const found = await source.below(first, Math.min(Math.max(last - first + 1, WINDOW / 2), MAX - WINDOW));
      if (mine !== generation) return;
      if (version !== sections.version) return await toLine(first, last, marked);
      if (found.lines[0]?.n !== first) {
        say(total === 0 ? 'Nothing was printed yet.' : `There is no line ${first} yet; the newest is ${total}.`, { bad: true });
        await toNewest();
        return;
      }
      lines.sections(sections.all);
      reset({ first: before.first, last: found.last, lines: before.lines.concat(found.lines) });
    } catch (problem) {
      failed(problem, () => toLine(first, last, marked));
      return;
    }
  }
  lines.row(first)?.scrollIntoView({ block: 'center' });
  if (innerHeight > pane.clientHeight) pane.scrollIntoView({ block: 'nearest' });
  lastTop = pane.scrollTop;
  show();
  edges();
}

// ── folding ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Somebody pressed a section's heading. */
async function toggled(key) {
  const mine = ++generation;
  const was = sections.all.find((one) => one.key === key);
  if (!was) return;
  const section = sections.choose(key, !was.open);
  if (!section.open) {
    const heading = lines.heading(key);
    const before = heading.getBoundingClientRect().top;
    lines.sections(sections.all);
    // The heading stays under the pointer.
    pane.scrollTop += heading.getBoundingClientRect().top - before;
    lastTop = pane.scrollTop;
  } else if (section.last === Infinity && !ended) {
    // What happens now is at its end.
    attached = false;
    lines.sections(sections.all);
    await toNewest();
    return;
  } else {
    follow = false;
    try {
      const found = await source.below(section.first, WINDOW, Math.min(section.last, total));
      if (mine !== generation) return;
      lines.unfold(section, found.lines);
      if (lines.isFull) lines.trimEnd();
      edge('end', '');
    } catch (problem) {
      sections.choose(key, false);
      failed(problem, () => toggled(key));
      return;
    }
  }
  reattach();
  edges();
}

/** The steps as they are now. What one reads stays as it is, unless one follows the end. */
function arrange(steps, failedIn, hold) {
  const { version } = sections;
  sections.update({ steps, ended, failed: failedIn }, hold);
  lines.sections(sections.all);
  if (version !== sections.version && lines.last < next - 1) attached = false;
  if (follow && attached) toBottom();
}

let up = false;
let down = false;

async function loadUp() {
  if (up || lines.first <= 1 || lines.isEmpty) return;
  up = true;
  const mine = generation;
  const before = lines.first;
  const { version } = sections;
  try {
    const found = await source.above(before - 1, WINDOW);
    if (mine !== generation || version !== sections.version || lines.first !== before || found.first >= before) return;
    steady(() => {
      lines.prepend(found.lines, found.first);
      if (lines.isFull) {
        lines.trimEnd();
        attached = false;
        follow = false;
        pending = [];
      }
    });
    edge('start', '');
  } catch (problem) {
    failed(problem, loadUp, 'start');
    return;
  } finally {
    up = false;
  }
  show();
  edges();
}

async function loadDown() {
  if (down || attached || lines.isEmpty) return;
  down = true;
  const mine = generation;
  const after = lines.last;
  const { version } = sections;
  try {
    const found = await source.below(after + 1, WINDOW);
    if (mine !== generation || version !== sections.version || lines.last !== after) return;
    steady(() => {
      lines.append(found.lines, found.last);
      if (lines.isFull) lines.trimStart();
    });
    edge('end', '');
  } catch (problem) {
    failed(problem, loadDown, 'end');
    return;
  } finally {
    down = false;
  }
  reattach();
  edges();
}

function edge(which, text, again) {
  const place = $(`edge-${which}`);
  place.hidden = text === '';
  place.replaceChildren(text);
  if (again) {
    const button = Object.assign(document.createElement('button'), { type: 'button', textContent: 'Try again' });
    button.addEventListener('click', () => {
      edge(which, '');
      again();
    });
    place.append(' ', button);
  }
}

function failed(problem, again, which = 'end') {
  if (!(problem instanceof Problem)) throw problem;
  if (!isSignedOut()) edge(which, `These lines could not be loaded. ${problem.words()}`, again);
}

// ── scrolling ───────────────────────────────────────────────────────────────────────────────────────────────────────────

let lastTop = 0;

const atBottom = () => pane.scrollHeight - pane.scrollTop - pane.clientHeight < 30;

function toBottom() {
  pane.scrollTop = pane.scrollHeight;
  lastTop = pane.scrollTop;
  seen = lines.last;
}

function edges() {
  if (pane.scrollTop < EDGE && lines.first > 1) loadUp();
  if (pane.scrollHeight - pane.scrollTop - pane.clientHeight < EDGE && !attached) loadDown();
}

pane.addEventListener('scroll', () => {
  const top = pane.scrollTop;
  if (top < lastTop - 1 && !atBottom()) follow = false;
  else if (top > lastTop && attached && atBottom()) follow = true;
  lastTop = top;
  if (follow) seen = lines.last;
  show();
  edges();
});
// A change of width changes the height of wrapped lines.
new ResizeObserver(() => follow && toBottom()).observe(pane);

pane.addEventListener('keydown', (key) => {
  if (key.ctrlKey || key.metaKey || key.altKey) return;
  if (key.key === 'End') {
    key.preventDefault();
    toNewest();
  } else if (key.key === 'Home') {
    key.preventDefault();
    toFirst();
  }
});

async function toFirst() {
  const mine = ++generation;
  follow = false;
  if (lines.first > 1) {
    try {
      const { version } = sections;
      const found = await source.below(1, WINDOW);
      if (mine !== generation) return;
      if (version !== sections.version) return await toFirst();
      reset(found);
    } catch (problem) {
      failed(problem, toFirst);
    }
  }
  pane.scrollTop = 0;
  lastTop = 0;
  show();
}

// ── drawing what the socket brings ──────────────────────────────────────────────────────────────────────────────────────

function arrived(batch) {
  const fresh = batch.filter((line) => line.n >= next);
  if (fresh.length === 0) return true;
  if (fresh[0].n !== next) return false;
  next = fresh.at(-1).n + 1;
  total = Math.max(total, next - 1);
  if (!attached) {
    show();
    return true;
  }
  for (const line of fresh) pending.push(line);
  waiting += weight(fresh);
  if (pending.length > PENDING || waiting > TEXT) {
    // Faster than it can be drawn, or the page is hidden: go on from the newest, the rest can be scrolled to.
    pending = newest(pending.slice(-WINDOW), TEXT / 2);
    waiting = weight(pending);
    if (!follow) detach();
  }
  draw();
  return true;
}

function detach() {
  attached = false;
  pending = [];
}

function draw() {
  if (drawing || pending.length === 0) return;
  // Drawing takes a third of the time at most; what comes faster is drawn together, or skipped.
  const wait = drawn + 2 * cost - performance.now();
  drawing = wait > 0 ? setTimeout(() => requestAnimationFrame(drawNow), wait) : requestAnimationFrame(drawNow);
}

function drawNow() {
  const begun = performance.now();
  drawing = 0;
  const batch = pending.filter((line) => line.n > lines.last);
  pending = [];
  waiting = 0;
  if (batch.length > 0 && attached) {
    if (!lines.isEmpty && batch[0].n !== lines.last + 1) {
      if (follow) lines.reset(batch);
      else detach();
    } else if (!follow && (lines.length + batch.length > MAX || lines.isFull)) {
      detach();
    } else {
      lines.append(batch);
      // Who follows reads the end: fewer rows are quicker to lay out, and what is above is a scroll away.
      if (follow && (lines.length > 2 * FOLLOWED || lines.isFull)) lines.trimStart(FOLLOWED);
    }
  }
  if (follow) toBottom();
  show();
  drawn = performance.now();
  cost = drawn - begun;
}

// ── the search ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const search = new Search(path, {
  view() {
    const { top, bottom } = pane.getBoundingClientRect();
    return [lines.below(top)?.line.n ?? 1, lines.below(bottom - 1)?.line.n ?? lines.last];
  },
  async go(n) {
    await toLine(n, n, false);
    lines.row(n)?.querySelector('mark')?.scrollIntoView({ block: 'center', inline: 'nearest' });
    lastTop = pane.scrollTop;
  },
  find: (wanted) => steady(() => lines.find(wanted)),
  hit: (n) => lines.hit(n),
  leave: () => pane.focus(),
});

// ── the live connection ─────────────────────────────────────────────────────────────────────────────────────────────────

const live = new Live(id, {
  position: () => ({ line: next, event }),
  view: onDeployment,
  changed: status,
  frame(frame) {
    if (frame.type === 'deployment') onDeployment(frame.view);
    else if (frame.type === 'lines') return arrived(frame.lines) ? '' : 'again';
    else if (frame.type === 'resume') {
      event = Math.max(event, frame.event);
      if (frame.line < next) anew(frame.line - 1);
      return 'again';
    } else if (frame.type === 'end') {
      if (next - 1 < frame.lines) return 'again';
      finish(frame.lines);
      return 'stop';
    }
    return '';
  },
});

function finish(count) {
  finished = true;
  total = Math.max(total, count);
  refresh();
  afterwards();
  show();
}

/** Another attempt began the log anew: what is in the page is of the one before. */
function anew(count) {
  pending = [];
  attached = false;
  seen = 0;
  total = count;
  next = count + 1;
  sections.forget();
  lines.sections([]);
  lines.reset([]);
  live.again();
  search.again();
  toNewest();
}

let listening = false;

// Ended deployments still change: what they left running is stopped or replaced.
function afterwards() {
  if (listening) return;
  listening = true;
  const { service, sandbox } = pane.dataset;
  onEvents({ after: event, service, sandbox }, refresh);
}

function onDeployment(view) {
  const { deployment } = view;
  const before = ended;
  ended = deployment.state.type === 'ended';
  if (deployment.attempt > attempt) {
    if (attempt > 0 && view.log_lines < next - 1) anew(view.log_lines);
    attempt = deployment.attempt;
  }
  total = Math.max(total, view.log_lines);
  lines.total(total);
  arrange(deployment.steps, deployment.state.outcome?.failure?.step, !follow || (ended && !before));
  if (deployment.version > event) {
    event = deployment.version;
    refresh();
  }
  show();
}

document.addEventListener('visibilitychange', draw);

// ── what is shown around the lines ──────────────────────────────────────────────────────────────────────────────────────

function status() {
  const place = $('link');
  const [state, text] = live.words;
  if (place.textContent !== text) place.textContent = text;
  place.className = `link ${state}`;
}

function show() {
  lines.total(total);
  $('count').textContent = total === 1 ? '1 line' : `${total.toLocaleString('en')} lines`;
  pane.style.setProperty('--digits', Math.max(3, String(total).length));
  const empty = $('empty');
  empty.hidden = !lines.isEmpty;
  empty.textContent = finished || ended ? 'Nothing was printed.' : 'Waiting for the first line …';
  const jump = $('jump');
  jump.hidden = lines.isEmpty || (attached && (follow || atBottom()));
  const fresh = finished ? 0 : total - Math.max(seen, attached ? 0 : lines.last);
  jump.textContent = fresh > 0 && seen > 0 ? `↓ ${fresh.toLocaleString('en')} new` : '↓ Newest';
  $('follow').setAttribute('aria-pressed', String(follow && attached));
  $('follow').hidden = finished;
  search.grown(total);
}

function setRange(wanted) {
  range = wanted;
  lines.mark(wanted);
  $('copy').textContent = wanted
    ? wanted[0] === wanted[1]
      ? `Copy line ${wanted[0]}`
      : `Copy lines ${wanted[0]}–${wanted[1]}`
    : 'Copy';
}

// ── links to lines ──────────────────────────────────────────────────────────────────────────────────────────────────────

function linked() {
  const found = /^#L([1-9]\d{0,14})(?:-L?([1-9]\d{0,14}))?$/.exec(location.hash);
  if (!found) return null;
  const [a, b] = [Number(found[1]), Number(found[2] ?? found[1])];
  return [Math.min(a, b), Math.max(a, b)];
}

let anchor = null;

$('lines').addEventListener('click', (click) => {
  const number = click.target.closest?.('a.n');
  if (!number || click.metaKey || click.ctrlKey) return;
  click.preventDefault();
  const n = Number(number.textContent);
  const from = click.shiftKey && anchor !== null ? anchor : n;
  if (from === n) anchor = n;
  const wanted = [Math.min(from, n), Math.max(from, n)];
  history.replaceState(null, '', wanted[0] === wanted[1] ? `#L${wanted[0]}` : `#L${wanted[0]}-L${wanted[1]}`);
  follow = false;
  setRange(wanted);
  show();
});
addEventListener('hashchange', () => {
  const wanted = linked();
  if (wanted) {
    [anchor] = wanted;
    toLine(...wanted);
  }
});
// Links in the page to the line that is in the address already change nothing there, but are meant.
document.addEventListener('click', (click) => {
  const link = click.target.closest?.('a[href^="#L"]');
  if (link && !link.matches('.n') && link.hash === location.hash) {
    const wanted = linked();
    if (wanted) toLine(...wanted);
  }
});

// ── tools ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

$('follow').addEventListener('click', () => {
  if (follow && attached) {
    follow = false;
    show();
  } else toNewest();
});
$('jump').addEventListener('click', () => {
  if (location.hash) history.replaceState(null, '', location.pathname + location.search);
  toNewest();
});

// Headings of running steps tick with the rest of the page.
setInterval(() => {
  const running = document.querySelector('.steps .now time[data-tick]');
  const section = sections.all.at(-1);
  if (!running || !section || ended) return;
  lines.took(section.key, duration(Math.floor((now() - Date.parse(running.dateTime)) / 1000) * 1000).replace('.0', ''));
}, 1000);

// ── begin ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

tools({
  pane,
  lines,
  source,
  change(work) {
    steady(work);
    if (follow) toBottom();
  },
  wanted: () => ({ range, total }),
});
lines.total(total);
arrange(JSON.parse(pane.dataset.steps), pane.dataset.failed, false);
const wanted = linked();
if (wanted) {
  [anchor] = wanted;
  await toLine(...wanted);
} else if (pane.dataset.failedLine) {
  await toLine(Number(pane.dataset.failedLine));
} else {
  await toNewest();
}
next = Math.max(next, lines.last + 1);
reattach();
live.connect();
