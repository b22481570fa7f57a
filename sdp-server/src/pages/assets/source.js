// Where lines come from: windows by line number over REST, with the lines of folded steps left out. Called by log.js.
// Answers are stretches: { first, last, lines }, where every line from `first` to `last` that is not in `lines` is folded.

import { api } from './common.js';

const WINDOW = 500; // lines of one request
export const TEXT = 1_000_000; // characters of a stretch: what can be drawn without a pause, however long the lines are

/** How many characters the lines have. */
export const weight = (lines) => lines.reduce((sum, line) => sum + line.text.length, 0);

/** The newest of these lines that are not too much to draw at once; at least one. */
export function newest(lines, limit = TEXT) {
  let [from, left] = [lines.length - 1, limit - (lines.at(-1)?.text.length ?? 0)];
  while (from > 0 && left >= lines[from - 1].text.length) {
    from -= 1;
    left -= lines[from].text.length;
  }
  return lines.slice(Math.max(0, from));
}

export class Source {
  #path;
  #sections;
  #log;
  #fit = WINDOW; // so many lines were not too much to draw last time

  /** `log.total`: how many lines there are as far as the page knows; raised by what the server says. */
  constructor(path, sections, log) {
    this.#path = path;
    this.#sections = sections;
    this.#log = log;
  }

  /**
   * The lines from..to, folded or not, all of them that there are: the server may answer with fewer at once. Not many more
   * than so many characters of them, if that is said.
   */
  async load(from, to, limit = Infinity) {
    const found = [];
    let at = Math.max(1, from);
    let text = 0;
    while (at <= to && text < limit) {
      const answer = await api(`${this.#path}/logs?from=${at}&limit=${Math.min(WINDOW, to - at + 1)}`);
      this.#log.total = Math.max(this.#log.total, answer.total);
      if (answer.lines.length === 0) break;
      for (const line of answer.lines) {
        if (text >= limit) return found;
        found.push(line);
        text += line.text.length;
      }
      at = answer.lines.at(-1).n + 1;
      if (at > answer.total) break;
    }
    return found;
  }

  /** The stretch that begins at `from`, with so many lines to be seen, not beyond `to`. */
  async below(from, count, to = Infinity) {
    const lines = [];
    let text = 0;
    let at = Math.max(1, from);
    while (at <= to && lines.length < count && text < TEXT) {
      const folded = this.#sections.folded(at);
      if (folded) {
        at = Math.max(at, Math.min(folded.last, this.#log.total, to) + 1);
        if (at > this.#log.total) break;
        continue;
      }
      const end = Math.min(to, this.#sections.openUntil(at), at + count - lines.length - 1);
      const part = await this.load(at, end, TEXT - text);
      for (const line of part) lines.push(line);
      text += weight(part);
      at += part.length;
      if (at <= end) break; // the log's end
    }
    return { first: Math.max(1, from), last: at - 1, lines };
  }

  /** The stretch that ends at `to`, with so many lines to be seen. */
  async above(to, count) {
    let lines = [];
    let text = 0;
    let at = to;
    while (at >= 1 && lines.length < count && text < TEXT) {
      const folded = this.#sections.folded(at);
      if (folded) {
        at = folded.first - 1;
        continue;
      }
      const begin = Math.max(this.#sections.openFrom(at), at - Math.min(count - lines.length, this.#fit) + 1);
      let part = await this.load(begin, at);
      if (part.at(-1)?.n !== at) break; // the log was begun anew
      this.#fit = Math.max(1, Math.min(WINDOW, Math.floor((TEXT * part.length) / (weight(part) + 1))));
      part = newest(part, TEXT - text);
      text += weight(part);
      lines = part.concat(lines);
      at = part[0].n - 1;
    }
    return { first: at + 1, last: to, lines };
  }
}
