// The page of a sandbox: stays up to date, sends its forms to the API, copies. Buttons are common.js's.

import { Problem, api, isSignedOut, onEvents, refresh, say } from './common.js';

const { name: sandbox } = document.getElementById('head').dataset;
const path = `/api/v1/sandboxes/${sandbox}`;

onEvents({ after: document.documentElement.dataset.event }, refresh);
document.addEventListener('sdp:gone', () => say(`${sandbox} is gone: somebody deleted it, or its time was over.`, { bad: true, href: '/sandboxes', label: 'All sandboxes' }));

// ── forms ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Sends what a form says; what is wrong with it is said below it. Marked as busy, so that it is left alone meanwhile. */
async function send(form, method, to, body, done) {
  const problem = form.querySelector('.problem');
  const button = form.querySelector('button[type=submit]');
  problem.hidden = true;
  form.setAttribute('aria-busy', 'true');
  button.disabled = true;
  try {
    await api(to, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
    say(done);
    return true;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (isSignedOut()) return false;
    problem.textContent = error.words();
    problem.hidden = false;
    return false;
  } finally {
    button.disabled = false;
    form.removeAttribute('aria-busy');
    refresh();
  }
}

/** Folds the form away that has done what it was opened for. */
const fold = (form) => {
  const details = form.closest('details');
  if (details) details.open = false;
};

const route = document.getElementById('route-form');
if (route) {
  const { service, kind, sandbox: lender, address } = route.elements;
  const fit = () => {
    for (const field of route.querySelectorAll('[data-for]')) field.hidden = field.dataset.for !== kind.value;
    address.required = kind.value === 'external';
  };
  kind.addEventListener('change', fit);
  fit();
  route.addEventListener('submit', async (event) => {
    event.preventDefault();
    const targets = {
      baseline: { type: 'baseline' },
      borrowed: { type: 'borrowed', sandbox: lender?.value },
      external: { type: 'external', address: address.value.trim() },
      none: null,
    };
    const words = kind.selectedOptions[0].textContent;
    const body = { target: targets[kind.value] };
    if (await send(route, 'PUT', `${path}/routes/${service.value}`, body, `Requests of ${service.value} go to ${words} from now on.`)) fold(route);
  });
}

const lock = document.getElementById('lock-form');
lock?.addEventListener('submit', async (event) => {
  event.preventDefault();
  const { service, kind, reason, hours } = lock.elements;
  const body = { sandbox, kind: kind.value, reason: reason.value.trim() };
  if (service.value) body.service = service.value;
  if (hours.value) body.hours = Number(hours.value);
  const what = service.value || 'Everything';
  if (await send(lock, 'POST', '/api/v1/locks', body, `${what} in ${sandbox} is ${kind.value === 'freeze' ? 'frozen' : 'locked'}.`)) {
    reason.value = '';
    fold(lock);
  }
});

// These come and go with the locks.
document.addEventListener('submit', async (event) => {
  const form = event.target.closest('form[data-steal]');
  if (!form) return;
  event.preventDefault();
  const { steal: environment, sandbox: of, service } = form.dataset;
  const body = { environment, reason: form.elements.reason.value.trim(), steal: true };
  if (of) body.sandbox = of;
  if (service) body.service = service;
  await send(form, 'POST', '/api/v1/locks', body, 'The lock is yours; whoever had it is told.');
});

const settings = document.getElementById('settings-form');
settings?.addEventListener('submit', async (event) => {
  event.preventDefault();
  const { notes, members, shared, team, lifetime_hours: lifetime } = settings.elements;
  // Only what was changed here: what others changed meanwhile stays as they want it.
  const changed = (field) => field.value !== field.defaultValue;
  const body = {};
  if (changed(notes)) body.notes = notes.value.trim();
  if (changed(members)) body.members = members.value.split(/[\s,]+/).filter(Boolean);
  if (changed(team) && team.value.trim()) body.team = team.value.trim();
  if (changed(lifetime) && lifetime.value) body.lifetime_hours = Number(lifetime.value);
  if (!shared.selectedOptions[0].defaultSelected) body.shared = shared.value === 'true';
  if (await send(settings, 'PUT', path, body, `${sandbox} is changed.`)) {
    for (const field of [notes, members, team, lifetime]) field.defaultValue = field.value;
    for (const option of shared.options) option.defaultSelected = option.selected;
    fold(settings);
  }
});

// ── copies ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

document.addEventListener('click', async (event) => {
  const button = event.target.closest?.('button[data-copy]');
  if (!button) return;
  const text = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(text.textContent);
    say('Copied.');
  } catch {
    // Plain http has no clipboard for pages: it is marked, and the keyboard copies it.
    getSelection().selectAllChildren(text);
    say('It is marked: press Ctrl+C.');
  }
});
