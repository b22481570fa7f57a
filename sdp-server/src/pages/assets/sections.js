// The steps of a log as sections: which lines belong to each, and which are folded. Called by log.js with every newer state of
// the deployment; lines.js draws them, source.js skips the folded ones.
//
// Left to itself the section that matters is open: of a failed deployment the failing step, of a running one the current step,
// of others all. What a reader or a link chose stays, and nothing folds under the eyes of somebody who reads further up.

import { duration } from './common.js';

export class Sections {
  #all = [];
  #chosen = new Map();

  /** Counts changes of what is folded and of where sections end. */
  version = 0;

  /** In order, without a gap: { key, name, step, first, last, open, failed, took }; the newest one ends at Infinity. */
  get all() {
    return this.#all;
  }

  /**
   * Takes a newer state: `steps` as in the API, `ended`, and in which step it `failed`, if it did. With `hold` the sections
   * that are there stay as they are.
   */
  update({ steps, ended, failed }, hold = false) {
    if (hold) for (const { key, open } of this.#all) this.#chosen.set(key, open);
    const before = this.#shape();
    const newest = steps.length - 1;
    // Each attempt begins the log anew: the lines of steps before that are gone.
    const anew = steps.findLastIndex(({ first_line: first }, i) => i > 0 && first < steps[i - 1].first_line);
    const failing = failed ? steps.findLastIndex(({ step }) => step === failed) : -1;
    const isOpen = (i) => (failing >= 0 ? i === failing : ended || i === newest);
    const sections = steps.map(({ step, first_line: first, started_at: began, ended_at: over }, i) => ({
      key: i,
      step,
      name: step.charAt(0).toUpperCase() + step.slice(1),
      first,
      last: i === newest ? Infinity : steps[i + 1].first_line - 1,
      open: this.#chosen.get(i) ?? isOpen(i),
      failed: i === failing,
      took: over ? duration(Date.parse(over) - Date.parse(began)) : '',
    }));
    this.#all = sections.slice(Math.max(0, anew));
    if (this.#shape() !== before) this.version += 1;
  }

  /** Opens or folds one, for good. */
  choose(key, open) {
    this.#chosen.set(key, open);
    const section = this.#all.find((one) => one.key === key);
    if (section && section.open !== open) {
      section.open = open;
      this.version += 1;
    }
    return section;
  }

  /** Opens all that have a line of this range. Says whether one was folded. */
  reveal(first, last) {
    const folded = this.#all.filter((one) => !one.open && one.first <= last && one.last >= first && one.first <= one.last);
    for (const { key } of folded) this.choose(key, true);
    return folded.length > 0;
  }

  /** Another attempt begins: what was chosen was about the one before. */
  forget() {
    this.#chosen.clear();
    this.#all = [];
    this.version += 1;
  }

  /** The folded section with this line, if there is one. */
  folded(n) {
    return this.#all.find((one) => !one.open && one.first <= n && n <= one.last);
  }

  /** The first line of the open stretch that this open line is in. */
  openFrom(n) {
    const before = this.#all.filter((one) => !one.open && one.first <= one.last && one.last < n);
    return Math.max(1, ...before.map((one) => one.last + 1));
  }

  /** The last line of that stretch; Infinity if no folded section follows. */
  openUntil(n) {
    const after = this.#all.filter((one) => !one.open && one.first <= one.last && one.first > n);
    return Math.min(Infinity, ...after.map((one) => one.first - 1));
  }

  #shape() {
    return this.#all.map(({ first, last, open }) => `${first}-${last}${open}`).join();
  }
}
