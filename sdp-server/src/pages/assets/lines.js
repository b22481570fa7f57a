// The lines of a log that are in the page: one stretch, from `first` to `last`, with a heading before each section (a step). The
// lines of a folded section belong to the stretch and have no rows, so it may be long and cost nothing.
// Called by whoever decides what is loaded (log.js). A line is text: it only ever becomes text nodes.
// Limits: MAX lines and TEXT characters in the page (whoever adds trims the other end when it `isFull`), SHOWN characters of a
// line until somebody asks for the rest.

import { parse } from './ansi.js';

export const MAX = 5000;
const TEXT = 4_000_000;
const SHOWN = 4000;

const make = (tag, cls, text) => {
  const element = document.createElement(tag);
  if (cls) element.className = cls;
  if (text !== undefined) element.textContent = text;
  return element;
};

/** In lower case, letter by letter as the server's search does it: every character keeps its place and length. */
function folded(text) {
  if (/^[\x00-\x7f]*$/.test(text)) return text.toLowerCase();
  let out = '';
  for (const char of text) {
    const lower = char.toLowerCase();
    out += lower.length === char.length ? lower : char;
  }
  return out;
}

export class LineList {
  #list;
  #start;
  #toggled;
  #rows = []; // { line, row }, in order
  #weight = 0; // the characters of all rows' lines
  #first = 1;
  #last = 0;
  #sections = [];
  #heads = new Map(); // by the sections' keys
  #total = 0;
  #range = null;
  #hit = 0;
  #found = null;
  #times = 'off';

  /**
   * Draws into `list`, an empty element (class `lines` of sdp.css). `start`: relative times count from it, in ms since 1970.
   * `toggled(key)`: a section's heading was pressed. Lines are { n, at, stream, text }: number from 1, RFC 3339, `stdout`,
   * `stderr` or `sdp`, and what was printed. A list that is never given sections has no headings.
   */
  constructor(list, start, { toggled = () => {} } = {}) {
    this.#list = list;
    this.#start = start;
    this.#toggled = toggled;
  }

  get first() {
    return this.#first;
  }

  /** The number of the last line; one less than `first` if there is none. */
  get last() {
    return this.#last;
  }

  get isEmpty() {
    return this.#last < this.#first;
  }

  /** How many lines are drawn. */
  get length() {
    return this.#rows.length;
  }

  /** Whether there is more in the page than a browser likes. */
  get isFull() {
    return this.#rows.length > MAX || this.#weight > TEXT;
  }

  /** The row of a line; undefined if it is not in the page or folded. */
  row(n) {
    const entry = this.#rows[this.#index(n)];
    return entry?.line.n === n ? entry.row : undefined;
  }

  /** The first row that ends below this height of the window, and its line; undefined if none does. */
  below(height) {
    let [low, high] = [0, this.#rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#rows[middle].row.getBoundingClientRect().bottom > height) high = middle;
      else low = middle + 1;
    }
    return this.#rows[low];
  }

  heading(key) {
    return this.#heads.get(key);
  }

  /** Forgets all lines and begins with these. `first` and `last` include folded lines around them. */
  reset(lines, first = lines[0]?.n ?? 1, last = lines.at(-1)?.n ?? first - 1) {
    this.#list.replaceChildren();
    this.#rows = [];
    this.#weight = 0;
    this.#heads.clear();
    this.#first = first;
    this.#last = first - 1;
    this.append(lines, last);
  }

  /** Adds lines at the end, and folded ones up to `last`; those that are there already are skipped. */
  append(lines, last = lines.at(-1)?.n ?? this.#last) {
    if (last <= this.#last) return;
    const fresh = lines.filter((line) => line.n > this.#last);
    if (this.isEmpty && this.#rows.length === 0 && fresh.length > 0 && !this.#isFolded(this.#first, fresh[0].n - 1)) this.#first = fresh[0].n;
    else this.#follows(this.#last, fresh[0]?.n ?? last + 1);
    const entries = this.#entries(fresh);
    this.#list.append(...entries.map(({ row }) => row));
    for (const entry of entries) this.#rows.push(entry);
    this.#last = last;
    this.#arrange();
  }

  /** Adds the lines just before the first one, and folded ones from `first` on. */
  prepend(lines, first = lines[0]?.n ?? this.#first) {
    if (first >= this.#first) return;
    const fresh = lines.filter((line) => line.n < this.#first);
    this.#follows(fresh.at(-1)?.n ?? first - 1, this.#first);
    const entries = this.#entries(fresh);
    this.#list.prepend(...entries.map(({ row }) => row));
    this.#rows = entries.concat(this.#rows);
    this.#first = first;
    this.#arrange();
  }

  /** Takes lines off the beginning until so many are left, and it is not full. */
  trimStart(keep = MAX) {
    if (!this.#trim(keep, 0, 1)) return;
    this.#first = this.#rows[0].line.n;
    this.#arrange();
  }

  /** Takes lines off the end until so many are left, and it is not full. */
  trimEnd(keep = MAX) {
    if (!this.#trim(keep, this.#rows.length - 1, -1)) return;
    this.#last = this.#rows.at(-1).line.n;
    this.#arrange();
  }

  /** Takes newer sections (sections.js). Lines of those that are folded now are taken out; opening one takes `unfold`. */
  sections(all) {
    for (const section of all) {
      const old = this.#sections.find(({ key }) => key === section.key);
      // Lines that were not drawn because they were thought to be of a folded section are not: they have to be loaded.
      if (old && !old.open && section.last < old.last && this.#last > section.last) this.#cut(section.last);
    }
    this.#sections = all;
    this.#arrange();
  }

  /** Draws lines of a section that was folded until now. What comes after it stays if these are all of its lines. */
  unfold(section, lines) {
    const heading = this.#heads.get(section.key);
    if (!heading) return;
    const last = lines.at(-1)?.n ?? section.first - 1;
    if (last < Math.min(section.last, this.#last)) this.#cut(last, section.first);
    const entries = this.#entries(lines);
    heading.after(...entries.map(({ row }) => row));
    this.#rows.splice(this.#index(section.first), 0, ...entries);
    this.#arrange();
  }

  /** How many lines there are in all: headings count theirs. */
  total(count) {
    this.#total = count;
    for (const section of this.#sections) if (this.#heads.has(section.key)) this.#label(section);
  }

  /** Writes beside a section's heading how long it took. */
  took(key, text) {
    const section = this.#sections.find((one) => one.key === key);
    if (!section) return;
    section.took = text;
    if (this.#heads.has(key)) this.#label(section);
  }

  /** Marks these lines, now and when they are loaded again; null: none. */
  mark(range) {
    this.#range = range;
    for (const { row, line } of this.#rows) row.classList.toggle('hl', this.#marked(line.n));
  }

  /** Marks a text wherever it stands: { text, matchCase }; null: none. */
  find(wanted) {
    this.#found = wanted && { ...wanted, text: wanted.matchCase ? wanted.text : folded(wanted.text) };
    for (const { row, line } of this.#rows) {
      const text = row.querySelector('.x');
      if (this.#found || text.querySelector('mark')) text.replaceWith(this.#text(line));
    }
  }

  /** The line with the match that one looks at; 0: none. The whole line is shown if the match is not in its beginning. */
  hit(n) {
    this.row(this.#hit)?.classList.remove('hit');
    this.#hit = n;
    const row = this.row(n);
    row?.classList.add('hit');
    if (row && !row.querySelector('mark')) row.querySelector('.more')?.click();
  }

  /** Shows times: `off`, `clock` or `since`. */
  times(mode) {
    this.#times = mode;
    for (const { row, line } of this.#rows) {
      row.querySelector('.t')?.remove();
      if (mode !== 'off') row.firstChild.after(this.#time(line));
    }
  }

  // ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The place of the first row from line `n` on. */
  #index(n) {
    let [low, high] = [0, this.#rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#rows[middle].line.n < n) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #section(n) {
    return this.#sections.find(({ first, last }) => first <= n && n <= last);
  }

  /** Whether no line of these is to be seen. */
  #isFolded(from, to) {
    for (let n = from; n <= to; ) {
      const section = this.#section(n);
      if (!section || section.open) return false;
      n = section.last + 1;
    }
    return true;
  }

  #follows(before, after) {
    if (!this.#isFolded(before + 1, after - 1)) throw new RangeError(`line ${after} does not follow line ${before}`);
  }

  #cut(last, from = last + 1) {
    this.#take(this.#index(Math.min(from, last + 1)), this.#rows.length);
    this.#last = last;
  }

  /** Takes these rows out. */
  #take(from, to) {
    for (const { row, line } of this.#rows.splice(from, to - from)) {
      row.remove();
      this.#weight -= line.text.length;
    }
  }

  /** Takes rows off one end; at least one stays. Says whether there was something to take. */
  #trim(keep, from, way) {
    const before = this.#rows.length;
    let [count, weight] = [before, this.#weight];
    for (let i = from; count > 1 && (count > keep || weight > TEXT); i += way) {
      weight -= this.#rows[i].line.text.length;
      count -= 1;
    }
    if (way > 0) this.#take(0, before - count);
    else this.#take(count, before);
    return count < before;
  }

  #entries(lines) {
    const shown = lines.filter((line) => this.#section(line.n)?.open !== false);
    for (const line of shown) this.#weight += line.text.length;
    return shown.map((line) => ({ line, row: this.#row(line) }));
  }

  /** Brings folds and headings in line with what the stretch has. */
  #arrange() {
    if (!this.isEmpty) {
      for (const { first, last, open } of this.#sections) {
        if (open || first > Math.min(last, this.#last) || last < this.#first) continue;
        this.#take(this.#index(first), this.#index(last + 1));
        this.#first = Math.min(this.#first, first);
        this.#last = Math.max(this.#last, Math.min(last, this.#total));
      }
    }
    for (const [key, heading] of this.#heads) {
      if (this.#sections.some((one) => one.key === key)) continue;
      heading.remove();
      this.#heads.delete(key);
    }
    let next = null;
    for (const section of this.#sections.toReversed()) {
      let heading = this.#heads.get(section.key);
      if (Math.max(section.first, this.#first) > Math.min(section.last, this.#last)) {
        heading?.remove();
        this.#heads.delete(section.key);
        continue;
      }
      if (!heading) {
        heading = this.#heading(section.key);
        this.#heads.set(section.key, heading);
      }
      const entry = this.#rows[this.#index(section.first)];
      const before = entry && entry.line.n <= section.last ? entry.row : next;
      if (heading.parentNode !== this.#list || heading.nextSibling !== before) this.#list.insertBefore(heading, before);
      this.#label(section);
      next = heading;
    }
  }

  #heading(key) {
    const heading = make('div', 'h');
    const button = make('button', 'fold');
    button.type = 'button';
    button.append(make('span', 'name'), make('span', 'd'), make('span', 'd k'));
    button.addEventListener('click', () => this.#toggled(key));
    heading.append(button);
    return heading;
  }

  #label({ key, name, open, failed, took, first, last }) {
    const heading = this.#heads.get(key);
    heading.className = `h${open ? ' open' : ''}${failed ? ' failed' : ''}`;
    const [button] = heading.children;
    const count = Math.max(0, Math.min(last, Math.max(this.#total, this.#last)) - first + 1);
    const texts = [failed ? `${name} failed` : name, took, count === 1 ? '1 line' : `${count.toLocaleString('en')} lines`];
    if (button.getAttribute('aria-expanded') !== String(open)) button.setAttribute('aria-expanded', String(open));
    texts.forEach((text, i) => {
      if (button.children[i].textContent !== text) button.children[i].textContent = text;
    });
  }

  #marked(n) {
    return this.#range !== null && n >= this.#range[0] && n <= this.#range[1];
  }

  #row(line) {
    const row = make('div', line.stream === 'stdout' ? 'l' : `l ${line.stream === 'sdp' ? 'sdp' : 'err'}`);
    row.id = `L${line.n}`;
    const number = make('a', 'n', line.n);
    number.href = `#L${line.n}`;
    row.append(number);
    if (this.#times !== 'off') row.append(this.#time(line));
    row.append(this.#text(line));
    if (this.#marked(line.n)) row.classList.add('hl');
    if (this.#hit === line.n) row.classList.add('hit');
    return row;
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
    this.#fill(text, this.#withMatches(parse(line.text)), SHOWN);
    return text;
  }

  /** The pieces, parted where a match begins or ends. */
  #withMatches(pieces) {
    if (!this.#found) return pieces;
    const { text: wanted, matchCase } = this.#found;
    const whole = pieces.map(({ text }) => text).join('');
    const within = matchCase ? whole : folded(whole);
    const borders = [];
    for (let at = within.indexOf(wanted); at >= 0; at = within.indexOf(wanted, at + wanted.length)) borders.push(at, at + wanted.length);
    if (borders.length === 0) return pieces;
    const parted = [];
    let at = 0; // in the whole text
    let border = 0; // how many borders are behind: inside a match if odd
    for (const { text, cls } of pieces) {
      let from = 0;
      while (from < text.length) {
        while (borders[border] <= at) border += 1;
        const length = Math.min(text.length - from, (borders[border] ?? Infinity) - at);
        parted.push({ text: text.slice(from, from + length), cls, matches: border % 2 === 1 });
        from += length;
        at += length;
      }
    }
    return parted;
  }

  // Long lines are rare and cost much: the rest is shown when somebody asks.
  #fill(text, pieces, limit) {
    let left = limit;
    let hidden = 0;
    const nodes = [];
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
      if (shown !== '') nodes.push(piece.cls || piece.matches ? make(piece.matches ? 'mark' : 'span', piece.cls, shown) : shown);
    }
    if (hidden > 0) {
      const more = make('button', 'more', `… show ${hidden.toLocaleString('en')} more characters`);
      more.type = 'button';
      more.addEventListener('click', () => {
        text.replaceChildren();
        this.#fill(text, pieces, Infinity);
      });
      nodes.push(more);
    }
    for (const node of nodes) text.append(node);
  }
}
