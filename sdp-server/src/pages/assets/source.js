// Where lines come from: windows by line number over REST, with the lines of folded steps left out. Called by log.js.
// Answers are stretches: { first, last, lines }, where every line from `first` to `last` that is not in `lines` is folded.

import { api } from './common.js';

const WINDOW = 500; // lines of one request

export class Source {
  #path;
  #sections;
  #log;

  /** `log.total`: how many lines there are as far as the page knows; raised by what the server says. */
  constructor(path, sections, log) {
    this.#path = path;
    this.#sections = sections;
    this.#log = log;
  }

  /** The lines from..to, folded or not, all of them that there are: the server may answer with fewer at once. */
  async load(from, to) {
    const found = [];
    let at = Math.max(1, from);
    while (at <= to) {
      const answer = await api(`${this.#path}/logs?from=${at}&limit=${Math.min(WINDOW, to - at + 1)}`);
      this.#log.total = Math.max(this.#log.total, answer.total);
      if (answer.lines.length === 0) break;
      for (const line of answer.lines) found.push(line);
      at = answer.lines.at(-1).n + 1;
      if (at > answer.total) break;
    }
    return found;
  }

  /** The stretch that begins at `from`, with so many lines to be seen, not beyond `to`. */
  async below(from, count, to = Infinity) {
    const lines = [];
    let at = Math.max(1, from);
    while (at <= to && lines.length < count) {
      const folded = this.#sections.folded(at);
      if (folded) {
        at = Math.max(at, Math.min(folded.last, this.#log.total, to) + 1);
        if (at > this.#log.total) break;
        continue;
      }
      const end = Math.min(to, this.#sections.openUntil(at), at + count - lines.length - 1);
      const part = await this.load(at, end);
      for (const line of part) lines.push(line);
      at += part.length;
      if (at <= end) break; // the log's end
    }
    return { first: Math.max(1, from), last: at - 1, lines };
  }

  /** The stretch that ends at `to`, with so many lines to be seen. */
  async above(to, count) {
    let lines = [];
    let at = to;
    while (at >= 1 && lines.length < count) {
      const folded = this.#sections.folded(at);
      if (folded) {
        at = folded.first - 1;
        continue;
      }
      const begin = Math.max(this.#sections.openFrom(at), at - (count - lines.length) + 1);
      const part = await this.load(begin, at);
      if (part.at(-1)?.n !== at) break; // the log was begun anew
      lines = part.concat(lines);
      at = begin - 1;
    }
    return { first: at + 1, last: to, lines };
  }
}
