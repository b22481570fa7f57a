// The lines of a log that are in the page: one stretch without a gap, from `first` to `last`, with a heading before each step.
// Called by log.js, which decides what is loaded. A line is text: it only ever becomes text nodes.
// Limits: MAX lines in the page (whoever adds trims the other end), SHOWN characters of a line until somebody asks for the rest.

import { parse } from './ansi.js';
import { duration } from './common.js';

export const MAX = 5000;
const SHOWN = 4000;

const make = (tag, cls, text) => {
  const element = document.createElement(tag);
  if (cls) element.className = cls;
  if (text !== undefined) element.textContent = text;
  return element;
};

export class LineList {
  #list;
  #rows = [];
  #first = 1;
  #range = null;
  #times = 'off';
  #start;

  /** `start`: when the deployment was requested, in ms; relative times count from it. */
  constructor(list, start) {
    this.#list = list;
    this.#start = start;
  }

  get first() {
    return this.#first;
  }

  /** The number of the last line; one less than `first` if there is none. */
  get last() {
    return this.#first + this.#rows.length - 1;
  }

  get length() {
    return this.#rows.length;
  }

  row(n) {
    return this.#rows[n - this.#first]?.row;
  }

  line(n) {
    return this.#rows[n - this.#first]?.line;
  }

  /** Forgets all lines and begins with these. */
  reset(lines) {
    this.#list.replaceChildren();
    this.#rows = [];
    this.#first = lines[0]?.n ?? 1;
    this.append(lines);
  }

  /** Adds lines at the end; those that are there already are skipped. Says how many were added. */
  append(lines) {
    const fresh = lines.filter((line) => line.n > this.last);
    if (fresh.length === 0) return 0;
    if (this.#rows.length === 0) this.#first = fresh[0].n;
    if (fresh[0].n !== this.last + 1) throw new RangeError(`line ${fresh[0].n} does not follow line ${this.last}`);
    const fragment = document.createDocumentFragment();
    let before = this.#rows.at(-1)?.line;
    for (const line of fresh) {
      const entry = this.#entry(line, before);
      if (entry.heading) fragment.append(entry.heading);
      fragment.append(entry.row);
      this.#rows.push(entry);
      before = line;
    }
    this.#list.append(fragment);
    return fresh.length;
  }

  /** Adds the lines just before the first one. */
  prepend(lines) {
    const fresh = lines.filter((line) => line.n < this.#first);
    if (fresh.length === 0) return;
    if (fresh.at(-1).n !== this.#first - 1) throw new RangeError(`line ${fresh.at(-1).n} is not before ${this.#first}`);
    const fragment = document.createDocumentFragment();
    const entries = [];
    let before;
    for (const line of fresh) {
      const entry = this.#entry(line, before);
      if (entry.heading) fragment.append(entry.heading);
      fragment.append(entry.row);
      entries.push(entry);
      before = line;
    }
    const joint = this.#rows[0];
    if (joint?.heading && joint.line.step === before.step) {
      joint.heading.remove();
      joint.heading = null;
    }
    this.#list.prepend(fragment);
    this.#rows = entries.concat(this.#rows);
    this.#first = fresh[0].n;
  }

  /** Takes lines off the beginning until so many are left. */
  trimStart(keep) {
    const gone = this.#rows.splice(0, Math.max(0, this.#rows.length - keep));
    for (const entry of gone) {
      entry.heading?.remove();
      entry.row.remove();
    }
    this.#first += gone.length;
    const top = this.#rows[0];
    if (top && !top.heading) {
      top.heading = this.#heading(top.line.step);
      top.row.before(top.heading);
    }
  }

  /** Takes lines off the end until so many are left. */
  trimEnd(keep) {
    for (const entry of this.#rows.splice(keep)) {
      entry.heading?.remove();
      entry.row.remove();
    }
  }

  /** Marks these lines, now and when they are loaded again; null: none. */
  mark(range) {
    this.#range = range;
    for (const { row, line } of this.#rows) row.classList.toggle('hl', this.#marked(line.n));
  }

  /** Shows times: `off`, `clock` or `since`. */
  times(mode) {
    this.#times = mode;
    for (const { row, line } of this.#rows) {
      row.querySelector('.t')?.remove();
      if (mode !== 'off') row.firstChild.after(this.#time(line));
    }
  }

  /** Writes how long each step took beside its headings. */
  steps(steps) {
    this.took = new Map(
      steps
        .filter((step) => step.ended_at)
        .map((step) => [step.step, duration(Date.parse(step.ended_at) - Date.parse(step.started_at))]),
    );
    for (const { heading, line } of this.#rows) if (heading) heading.lastChild.textContent = this.took.get(line.step) ?? '';
  }

  #marked(n) {
    return this.#range !== null && n >= this.#range[0] && n <= this.#range[1];
  }

  #entry(line, before) {
    const row = make('div', line.stream === 'stdout' ? 'l' : `l ${line.stream === 'sdp' ? 'sdp' : 'err'}`);
    row.id = `L${line.n}`;
    const number = make('a', 'n', line.n);
    number.href = `#L${line.n}`;
    row.append(number);
    if (this.#times !== 'off') row.append(this.#time(line));
    row.append(this.#text(line));
    if (this.#marked(line.n)) row.classList.add('hl');
    const heading = before?.step === line.step ? null : this.#heading(line.step);
    return { line, row, heading };
  }

  #heading(step) {
    const heading = make('div', 'h');
    heading.append(make('span', '', step.charAt(0).toUpperCase() + step.slice(1)), make('span', 'd', this.took?.get(step) ?? ''));
    return heading;
  }

  #time(line) {
    const at = new Date(line.at);
    const two = (n, width = 2) => String(n).padStart(width, '0');
    const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${two(at.getMilliseconds(), 3)}`;
    const since = `+${((at - this.#start) / 1000).toFixed(2)}s`;
    const time = make('time', 't', this.#times === 'clock' ? clock : since);
    time.title = at.toLocaleString();
    return time;
  }

  #text(line) {
    const text = make('span', 'x');
    this.#fill(text, parse(line.text), SHOWN);
    return text;
  }

  // Long lines are rare and cost much: the rest is shown when somebody asks.
  #fill(text, pieces, limit) {
    let left = limit;
    let hidden = 0;
    for (const piece of pieces) {
      let shown = piece.text;
      if (shown.length > left) {
        let cut = left;
        // Not through the middle of a character.
        if (cut > 0 && /[\ud800-\udbff]/.test(shown[cut - 1])) cut -= 1;
        hidden += shown.length - cut;
        shown = shown.slice(0, cut);
        left = 0;
      } else left -= shown.length;
      if (shown !== '') text.append(piece.cls ? make('span', piece.cls, shown) : shown);
    }
    if (hidden > 0) {
      const more = make('button', 'more', `… show ${hidden.toLocaleString('en')} more characters`);
      more.type = 'button';
      more.addEventListener('click', () => {
        text.replaceChildren();
        this.#fill(text, pieces, Infinity);
      });
      text.append(more);
    }
  }
}
