// The tools above a log: wrap, times, copy. Called once by log.js. What is chosen is remembered in this browser.
// Limits: COPY lines and TEXT characters are copied at once; for more there is the download.

import { plain } from './ansi.js';
import { Problem, say } from './common.js';

const COPY = 20_000;
const TEXT = 16_000_000;
const TIMES = { off: 'Times', clock: 'Times: clock', since: 'Times: since start' };

const $ = (id) => document.getElementById(id);

const remember = (key, value) => {
  try {
    if (value === undefined) return localStorage.getItem(`sdp.${key}`);
    localStorage.setItem(`sdp.${key}`, value);
  } catch {
    // Storage may be off; then a choice lasts as long as the page.
  }
  return null;
};

/**
 * `change(work)` changes rows while what one looks at stays in view; `wanted()` gives the marked `range`, or null, and how
 * many lines there are in `total`.
 */
export function tools({ pane, lines, source, change, wanted }) {
  const wrap = (on) => {
    change(() => pane.classList.toggle('nowrap', !on));
    $('wrap').setAttribute('aria-pressed', String(on));
  };
  const times = (mode) => {
    const known = mode in TIMES ? mode : 'off';
    pane.dataset.times = known;
    change(() => lines.times(known));
    $('times').textContent = TIMES[known];
    $('times').setAttribute('aria-pressed', String(known !== 'off'));
  };
  wrap(remember('wrap') !== 'off');
  times(remember('times') ?? 'off');
  $('wrap').addEventListener('click', () => {
    const on = pane.classList.contains('nowrap');
    wrap(on);
    remember('wrap', on ? 'on' : 'off');
  });
  $('times').addEventListener('click', () => {
    const modes = Object.keys(TIMES);
    const mode = modes[(modes.indexOf(pane.dataset.times) + 1) % modes.length];
    times(mode);
    remember('times', mode);
  });
  $('copy').addEventListener('click', () => copy(source, wanted()));
}

async function copy(source, { range, total }) {
  const [from, to] = range ?? [Math.max(1, total - COPY + 1), total];
  try {
    const copied = await source.load(from, Math.min(to, from + COPY - 1), TEXT);
    await toClipboard(copied.map((line) => `${plain(line.text)}\n`).join(''));
    const what = copied.length === 1 ? 'One line' : `${copied.length.toLocaleString('en')} lines`;
    const rest = copied.length < to - (range ? from : 1) + 1 ? '; for the whole log use Download' : '';
    say(`${what} copied${rest}.`);
  } catch (error) {
    say(error instanceof Problem ? error.words() : 'The browser does not allow copying here.', { bad: true });
  }
}

async function toClipboard(text) {
  // Not there on plain http.
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement('textarea');
  area.value = text;
  area.className = 'off-screen';
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  if (!done) throw new Error('refused');
}
