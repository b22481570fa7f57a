// What a line of a log looks like: its text as pieces with classes. Called for every line shown. The server's search reads lines
// the same way (logs/shown.rs); a test in a browser compares the two.
//
// Kept: SGR (colours, bold, dim, italic, underline, strike, inverse), and what decides what a line says in the end: carriage
// return, backspace and "erase in line". Every other sequence is removed. Characters that cannot be seen or turn text around
// are spelled out. A string sequence (OSC, DCS …) without its end hides nothing: only its introducer is removed.
// Colours begin anew with every line, so that a line looks the same whatever was loaded before it. All loops are linear.

const SPECIAL = /[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\u{e0000}-\u{e007f}]/u;
// The same characters as `is_hidden` in words.rs and in the server's search (logs/shown.rs); a tab is text.
const RUN = new RegExp(`[^${SPECIAL.source.slice(1)}+`, 'uy');
// What makes a line more than one run of text after the other. (Erasing to the end does nothing at the end.)
const MOVES = /[\r\b]|(?:\x1b\[|\x9b)[12]K/;
const CSI = /(?:\x1b\[|\x9b)([\x30-\x3f]*)([\x20-\x2f]*)([\x40-\x7e])/y;
const CSI_BROKEN = /(?:\x1b\[|\x9b)[\x30-\x3f]*[\x20-\x2f]*/y;
const STRING = /(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)/y;
const STRING_BROKEN = /\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]/y;
const ESCAPE = /\x1b(?:[\x20-\x2f]*[\x30-\x7e])?/y;

/** The pieces of a line: [{ text, cls }], in order; `cls` is '' or classes of sdp.css. */
export function parse(line) {
  let text = line;
  while (text.endsWith('\r')) text = text.slice(0, -1);
  if (!SPECIAL.test(text)) return text === '' ? [] : [{ text, cls: '' }];
  const screen = MOVES.test(text) ? new Grid() : new Flow();
  const pen = newPen();
  let cls = '';
  let i = 0;
  const match = (pattern) => {
    pattern.lastIndex = i;
    const found = pattern.exec(text);
    if (found) i = pattern.lastIndex;
    return found;
  };
  while (i < text.length) {
    const run = match(RUN);
    if (run) {
      screen.write(run[0], cls);
      continue;
    }
    const found = match(CSI);
    if (found) {
      const [, parameters, between, final] = found;
      if (final === 'm' && between === '' && /^[0-9;:]*$/.test(parameters)) {
        sgr(pen, parameters);
        cls = classOf(pen);
      } else if (final === 'K' && between === '' && /^[012]?$/.test(parameters)) {
        screen.erase(parameters);
      }
      continue;
    }
    if (match(CSI_BROKEN) || match(STRING) || match(STRING_BROKEN) || match(ESCAPE)) continue;
    const code = text.codePointAt(i);
    i += code > 0xffff ? 2 : 1;
    if (code === 13) screen.column = 0;
    else if (code === 8) screen.column = Math.max(0, screen.column - 1);
    else if (code === 7 || code === 14 || code === 15 || code === 0x9c) continue;
    else if (code < 0x20) screen.put(String.fromCodePoint(0x2400 + code), 'ctl');
    else if (code === 0x7f) screen.put('\u2421', 'ctl');
    else screen.put(`\u27e8U+${code.toString(16).toUpperCase().padStart(4, '0')}\u27e9`, 'ctl');
  }
  return screen.pieces();
}

/** The line as plain text, as it reads on the page. */
export function plain(line) {
  return parse(line).map((piece) => piece.text).join('');
}

// Most lines: nothing moves back, so text only ever follows text.
class Flow {
  #pieces = [];
  column = 0;

  write(text, cls) {
    const last = this.#pieces.at(-1);
    if (last?.cls === cls) last.text += text;
    else this.#pieces.push({ text, cls });
  }

  put(text, cls) {
    this.write(text, cls);
  }

  erase() {}

  pieces() {
    return this.#pieces;
  }
}

// A line of a terminal, cell by cell.
class Grid {
  #chars = [];
  #classes = [];
  column = 0;

  write(text, cls) {
    for (const char of text) this.put(char, cls);
  }

  /** Into one cell, however long it reads. */
  put(text, cls) {
    this.#chars[this.column] = text;
    this.#classes[this.column] = cls;
    this.column += 1;
  }

  erase(what) {
    const [chars, classes] = [this.#chars, this.#classes];
    const all = what === '2' || (what === '1' && this.column + 1 >= chars.length);
    if (what === '1' && !all) {
      // Blank from the right: what is left of the first blank cell is blank already, so repeating it costs nothing.
      for (let i = this.column; i >= 0 && chars[i] !== undefined; i -= 1) {
        chars[i] = undefined;
        classes[i] = undefined;
      }
    } else {
      // Cells that are not there read as blanks; the column stays where it is.
      chars.length = all ? 0 : Math.min(chars.length, this.column);
      classes.length = chars.length;
    }
  }

  pieces() {
    const flow = new Flow();
    for (let i = 0; i < this.#chars.length; i += 1) flow.write(this.#chars[i] ?? ' ', this.#classes[i] ?? '');
    return flow.pieces();
  }
}

function newPen() {
  return { bold: false, dim: false, italic: false, underline: false, strike: false, inverse: false, fg: -1, bg: -1 };
}

function classOf(pen) {
  const [fg, bg] = pen.inverse ? [pen.bg, pen.fg < 0 ? 'i' : pen.fg] : [pen.fg, pen.bg];
  const out = [];
  // A background brings a foreground that can be read on it.
  if (bg === 'i' || bg >= 0) out.push(`b${bg}`);
  else if (fg >= 0) out.push(`f${fg}`);
  if (pen.bold) out.push('bo');
  if (pen.dim) out.push('di');
  if (pen.italic) out.push('it');
  if (pen.underline) out.push('un');
  if (pen.strike) out.push('st');
  return out.join(' ');
}

function sgr(pen, parameters) {
  const codes = parameters.split(';');
  for (let i = 0; i < codes.length; i += 1) {
    const parts = codes[i].split(':');
    const code = Number(parts[0] || 0);
    if (code === 38 || code === 48) {
      let rest = parts.slice(1);
      if (rest.length === 0) {
        const mode = Number(codes[i + 1]);
        const length = mode === 5 ? 2 : mode === 2 ? 4 : 0;
        rest = codes.slice(i + 1, i + 1 + length);
        i += length;
      } else if (Number(rest[0]) === 2 && rest.length > 4) {
        rest = [rest[0], ...rest.slice(-3)];
      }
      const colour = extended(rest.map(Number));
      if (colour >= 0) pen[code === 38 ? 'fg' : 'bg'] = colour;
    } else if (code === 0) Object.assign(pen, newPen());
    else if (code === 1) pen.bold = true;
    else if (code === 2) pen.dim = true;
    else if (code === 3) pen.italic = true;
    else if (code === 4) pen.underline = parts[1] !== '0';
    else if (code === 7) pen.inverse = true;
    else if (code === 9) pen.strike = true;
    else if (code === 21) pen.underline = true;
    else if (code === 22) pen.bold = pen.dim = false;
    else if (code === 23) pen.italic = false;
    else if (code === 24) pen.underline = false;
    else if (code === 27) pen.inverse = false;
    else if (code === 29) pen.strike = false;
    else if (code >= 30 && code <= 37) pen.fg = code - 30;
    else if (code === 39) pen.fg = -1;
    else if (code >= 40 && code <= 47) pen.bg = code - 40;
    else if (code === 49) pen.bg = -1;
    else if (code >= 90 && code <= 97) pen.fg = code - 82;
    else if (code >= 100 && code <= 107) pen.bg = code - 92;
  }
}

// 256 colours and RGB become the nearest of the sixteen, which can be read in light and dark.
function extended([mode, a, b, c]) {
  const byte = (n) => Number.isInteger(n) && n >= 0 && n <= 255;
  if (mode === 2 && byte(a) && byte(b) && byte(c)) return nearest(a, b, c);
  if (mode !== 5 || !byte(a)) return -1;
  if (a < 16) return a;
  if (a >= 232) return nearest(...Array(3).fill(8 + 10 * (a - 232)));
  const level = (n) => (n === 0 ? 0 : 55 + 40 * n);
  const cube = a - 16;
  return nearest(level(Math.floor(cube / 36)), level(Math.floor(cube / 6) % 6), level(cube % 6));
}

function nearest(r, g, b) {
  const max = Math.max(r, g, b);
  const spread = max - Math.min(r, g, b);
  if (spread < 40) return max < 64 ? 0 : max < 140 ? 8 : max < 215 ? 7 : 15;
  let hue = 0;
  if (max === r) hue = ((g - b) / spread + 6) % 6;
  else if (max === g) hue = (b - r) / spread + 2;
  else hue = (r - g) / spread + 4;
  return [1, 3, 2, 6, 4, 5][Math.round(hue) % 6] + (max > 215 ? 8 : 0);
}
