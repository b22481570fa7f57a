// The search in a log: the server counts and finds, over the whole log; lines.js marks what is in the page. Called by log.js.
//
// `/` goes to the box; Enter or n: next match, Shift+Enter or N: previous one; Escape: no search. Matches come a hundred at a
// time, as those of a stretch of lines without a gap; next and previous inside it ask nobody. While the log grows, only what
// was added is searched, so the count stays exact.

import { Problem, api } from './common.js';

const TYPED = 200; // ms after the last key before the server is asked
const GROWN = 500; // ms between two counts of what was added
const BATCH = 100; // matches of one answer
const WAITING = 20; // steps that may wait for the one under way

const $ = (id) => document.getElementById(id);

export class Search {
  #path;
  #log;
  #wanted = null; // { text, matchCase }
  #asked = 0; // counts searches: an answer to an older one is thrown away
  #total = 0;
  #lines = 0; // the last line that was looked at
  #at = 0; // the line one went to last
  #said = '';
  #known = { from: 1, to: 0, matches: [] };
  #typing = 0;
  #growing = 0;
  #counting = false;
  #steps = Promise.resolve();
  #waiting = 0;

  /**
   * `log`: `view()` gives the numbers of the first and last line in view; `go(n)` shows a line; `find(wanted)` and `hit(n)`
   * mark matches and the one that one looks at; `leave()` gives the keyboard back to the lines.
   */
  constructor(path, log) {
    this.#path = path;
    this.#log = log;
    const box = $('find-text');
    $('find').addEventListener('submit', (event) => event.preventDefault());
    box.addEventListener('input', () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#begin(), TYPED);
    });
    $('find-case').addEventListener('click', () => {
      const on = $('find-case').getAttribute('aria-pressed') !== 'true';
      $('find-case').setAttribute('aria-pressed', String(on));
      this.#begin();
    });
    $('find-next').addEventListener('click', () => this.step(1));
    $('find-previous').addEventListener('click', () => this.step(-1));
    box.addEventListener('keydown', (key) => {
      if (key.isComposing) return;
      if (key.key === 'Enter') {
        key.preventDefault();
        this.step(key.shiftKey ? -1 : 1);
      } else if (key.key === 'Escape') {
        key.preventDefault();
        this.clear();
        this.#log.leave();
      }
    });
    document.addEventListener('keydown', (key) => this.#shortcut(key));
    this.#show();
  }

  #shortcut(key) {
    if (key.defaultPrevented || key.ctrlKey || key.metaKey || key.altKey) return;
    if (key.target.closest?.('input, textarea, select, [contenteditable]')) return;
    if (key.key === '/') {
      $('find-text').focus();
      $('find-text').select();
    } else if (this.#wanted && key.key === 'n') this.step(1);
    else if (this.#wanted && key.key === 'N') this.step(-1);
    else if (this.#wanted && key.key === 'Escape') this.clear();
    else return;
    key.preventDefault();
  }

  clear() {
    clearTimeout(this.#typing);
    $('find-text').value = '';
    this.#begin();
  }

  /** The log was begun anew. */
  again() {
    if (this.#wanted) this.#begin(true);
  }

  /** The log has so many lines now. */
  grown(total) {
    if (!this.#wanted || this.#counting || this.#growing || total <= this.#lines) return;
    this.#growing = setTimeout(() => {
      this.#growing = 0;
      // A search that found the log empty has nothing to go on from.
      if (this.#lines === 0) this.again();
      else this.#count();
    }, GROWN);
  }

  /** Goes to the next match (1) or the previous one (-1), from the last one or from what is in view. */
  step(way) {
    if (this.#waiting >= WAITING) return;
    this.#waiting += 1;
    this.#steps = this.#steps
      .then(() => this.#step(way))
      .catch((problem) => this.#failed(problem))
      .finally(() => {
        this.#waiting -= 1;
      });
  }

  async #begin(anew = false) {
    clearTimeout(this.#typing);
    this.#typing = 0;
    const text = $('find-text').value;
    const matchCase = $('find-case').getAttribute('aria-pressed') === 'true';
    if (!anew && text === (this.#wanted?.text ?? '') && (text === '' || matchCase === this.#wanted.matchCase)) return;
    this.#wanted = text === '' ? null : { text, matchCase };
    this.#asked += 1;
    this.#at = 0;
    this.#total = 0;
    this.#lines = 0;
    this.#known = { from: 1, to: 0, matches: [] };
    this.#log.find(this.#wanted);
    this.#log.hit(0);
    this.#said = this.#wanted ? 'Searching …' : '';
    this.#show();
    if (!this.#wanted) return;
    try {
      await this.#ask(Math.max(1, this.#log.view()[0]), 1);
    } catch (problem) {
      this.#failed(problem);
    }
  }

  /** Asks for the matches from a line on. Says whether the answer still matters. */
  async #ask(from, way) {
    const asked = this.#asked;
    const answer = await this.#get({ from, direction: way > 0 ? 'down' : 'up', limit: BATCH });
    if (asked !== this.#asked) return false;
    const { matches } = answer;
    const full = matches.length === BATCH;
    this.#known =
      way > 0
        ? { from, to: full ? matches.at(-1).n : answer.lines, matches }
        : { from: full ? matches[0].n : 1, to: Math.min(from, answer.lines), matches };
    this.#total = answer.total;
    this.#lines = answer.lines;
    this.#said = '';
    this.#show();
    return true;
  }

  #get(query) {
    const { text, matchCase } = this.#wanted;
    const all = new URLSearchParams({ q: text, match_case: matchCase, ...query });
    return api(`${this.#path}/logs/search?${all}`);
  }

  async #step(way) {
    if (this.#typing || !this.#wanted) await this.#begin();
    if (!this.#wanted) return;
    const [top, bottom] = this.#log.view();
    // The first step is to what is in view already, if there is something.
    const from = this.#at > 0 ? this.#at + way : way > 0 ? top : bottom;
    let found = from >= 1 ? this.#nearest(from, way) : undefined;
    let wrapped = '';
    if (!found && from >= 1) {
      if (!(await this.#ask(from, way))) return;
      found = this.#nearest(from, way);
    }
    if (!found && this.#total > 0) {
      const end = way > 0 ? 1 : Math.max(1, this.#lines);
      if (!(await this.#ask(end, way))) return;
      found = this.#nearest(end, way);
      wrapped = way > 0 ? ', from the top' : ', from the end';
    }
    if (!found) return;
    const asked = this.#asked;
    this.#at = found.n;
    this.#said = `${found.position.toLocaleString('en')} of #${wrapped}`;
    this.#show();
    await this.#log.go(found.n);
    if (asked === this.#asked) this.#log.hit(found.n);
  }

  /** The nearest known match from a line on; undefined if that is not known. */
  #nearest(from, way) {
    const { from: first, to: last, matches } = this.#known;
    if (from < first || from > last) return undefined;
    return way > 0 ? matches.find(({ n }) => n >= from) : matches.findLast(({ n }) => n <= from);
  }

  async #count() {
    const [asked, from] = [this.#asked, this.#lines];
    if (!this.#wanted || from === 0) return;
    this.#counting = true;
    try {
      const answer = await this.#get({ first: from + 1, limit: 1 });
      if (asked !== this.#asked || from !== this.#lines) return;
      if (answer.lines < from) {
        this.again();
        return;
      }
      this.#total += answer.total;
      this.#lines = answer.lines;
      this.#show();
    } catch (problem) {
      this.#failed(problem);
    } finally {
      this.#counting = false;
    }
  }

  #failed(problem) {
    if (!(problem instanceof Problem)) throw problem;
    this.#said = problem.words();
    this.#show();
  }

  #show() {
    const total = this.#total.toLocaleString('en');
    const count = this.#total === 1 ? '1 line' : `${total} lines`;
    const text = this.#said ? this.#said.replace('#', total) : this.#wanted ? (this.#total === 0 ? 'Not found' : count) : '';
    if ($('find-count').textContent !== text) $('find-count').textContent = text;
    $('find-count').classList.toggle('none', this.#wanted !== null && this.#total === 0 && text !== 'Searching …');
    $('find-next').disabled = $('find-previous').disabled = this.#total === 0;
  }
}
