// The live connection of the log page: a WebSocket that is made again, after a pause that grows, for as long as there is more
// to come. It knows nothing of lines: the reader says from where to go on, and takes what arrives.
//
//   connecting ──▶ open ──end──▶ stopped
//        ▲           │ cut, resume, a gap
//        └── waiting ◀┘                      gone: the deployment is not kept any more

import { Problem, api, isSignedOut, signedOut } from './common.js';

const UNAUTHORISED = 4401; // close code
const SILENCE = 45_000; // ms without a frame after which a socket is not trusted when the page is looked at again

const STATUS = {
  connecting: ['wait', 'Connecting …'],
  open: ['ok', 'Live'],
  waiting: ['wait', 'Reconnecting …'],
  stopped: ['off', 'Complete'],
  gone: ['off', 'Not kept any more'],
  'signed-out': ['bad', 'Not signed in'],
};

export class Live {
  #id;
  #reader;
  #socket = null;
  #failures = 0;
  #waiting = 0;
  #heard = 0;
  #stopped = false;
  #gone = false;

  /**
   * `reader`: `position()` gives { line, event }; `frame(frame)` takes what arrived and answers 'again' to go on from the
   * position with a new connection, 'stop' when nothing more is wanted; `view(view)` takes a newer state; `changed()`.
   */
  constructor(id, reader) {
    this.#id = id;
    this.#reader = reader;
    addEventListener('online', () => this.#now());
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) return;
      // A laptop that slept may hold a socket that nobody answers any more; a new one costs nothing and loses nothing.
      if (this.#socket && Date.now() - this.#heard > SILENCE) this.again();
      if (!this.#socket) this.#now();
    });
    document.addEventListener('sdp:signed-out', () => {
      this.#drop();
      this.#reader.changed();
    });
  }

  /** `connecting`, `open`, `waiting`, `stopped`, `gone` or `signed-out`. */
  get state() {
    if (isSignedOut()) return 'signed-out';
    if (this.#gone) return 'gone';
    if (this.#stopped) return 'stopped';
    if (this.#socket?.readyState === WebSocket.OPEN) return 'open';
    return this.#failures > 1 ? 'waiting' : 'connecting';
  }

  /** The same as a class of sdp.css and in words. */
  get words() {
    return STATUS[this.state];
  }

  connect() {
    clearTimeout(this.#waiting);
    if (this.#stopped || this.#gone || isSignedOut() || this.#socket) return;
    const url = new URL(`/ws/deployments/${this.#id}`, location.href);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    for (const [name, value] of Object.entries(this.#reader.position())) url.searchParams.set(name, value);
    const mine = new WebSocket(url);
    this.#socket = mine;
    this.#heard = Date.now();
    mine.onopen = () => this.#reader.changed();
    mine.onmessage = ({ data }) => {
      if (mine !== this.#socket) return;
      this.#failures = 0;
      this.#heard = Date.now();
      const answer = this.#reader.frame(JSON.parse(data));
      if (mine === this.#socket && answer === 'again') this.again();
      else if (answer === 'stop') this.stop();
      this.#reader.changed();
    };
    mine.onclose = ({ code }) => {
      if (mine !== this.#socket) return;
      this.#socket = null;
      if (code === UNAUTHORISED) signedOut();
      this.#later();
    };
    this.#reader.changed();
  }

  /** Drops the connection and makes a new one from the reader's position. */
  again() {
    this.#drop();
    this.#later();
  }

  stop() {
    this.#stopped = true;
    this.#drop();
  }

  #drop() {
    clearTimeout(this.#waiting);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #now() {
    this.#failures = 0;
    this.connect();
  }

  #later() {
    if (this.#stopped || isSignedOut()) return;
    const wait = Math.min(15_000, 250 * 2 ** this.#failures) * (0.5 + Math.random() / 2);
    this.#failures += 1;
    clearTimeout(this.#waiting);
    this.#waiting = setTimeout(() => this.#retry(), wait);
    this.#reader.changed();
  }

  async #retry() {
    // A refused handshake tells a page nothing; a plain request says whether it is the session, or the deployment.
    if (this.#failures > 1) {
      try {
        this.#reader.view(await api(`/api/v1/deployments/${this.#id}`));
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        if (problem.status === 404) this.#gone = true;
      }
    }
    this.connect();
    this.#reader.changed();
  }
}
